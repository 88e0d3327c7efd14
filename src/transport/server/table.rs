//! The table of a server's connections: who gets a place, who makes room, and the sweep that ends those who make no progress.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;

use crate::serving::give_back_memory;
use crate::transport::in_flight::Pool;
use crate::transport::server::Phase;
use crate::transport::server::connection::{Connection, Order, Shared};
use crate::transport::server::exchange::Exchange;
use crate::transport::server::pace::{Micros, SECOND, now};
use crate::transport::server::rules::{self, Doing, Reason};

/// Places past the bound, for probes: when every connection is at work, `/healthz`, `/readyz` and `/metrics` are answered all the same.
const PROBE_PLACES_MAX: usize = 16;

/// Idle connections that are being closed with a word of goodbye (HTTP/2's GOAWAY). While as many are, the next ones are cut.
const GOODBYES_MAX: usize = 64;

/// Between two looks at all connections; bounds shorter than four of it shorten it.
const SWEEP_EVERY_MAX: Duration = Duration::from_secs(1);
const SWEEP_EVERY_MIN: Duration = Duration::from_millis(20);

/// Between two cuts for bodies that wait for room.
const PRESSURE_EVERY: Duration = Duration::from_millis(50);

/// The heap's unused pages go back to the system when this much less is in flight than was, or so many fewer connections are open, …
const GIVE_BACK_BYTES: usize = 16 << 20;
const GIVE_BACK_CONNECTIONS: usize = 256;
/// … and not more often than this: it takes the allocator's locks for milliseconds.
const GIVE_BACK_EVERY: Micros = 5 * SECOND;

pub(super) struct Table {
    pub(super) shared: Arc<Shared>,
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Default)]
struct Open {
    connections: HashMap<u64, Entry>,
    next: u64,
    /// How many connections have each standing.
    placed: usize,
    beyond: usize,
}

struct Entry {
    connection: Arc<Connection>,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Has a place under the bound.
    Placed,
    /// Has a place for probes.
    Beyond,
    /// Was asked to end and counts no more.
    Leaving,
}

impl Open {
    fn stand(&mut self, number: u64, standing: Standing) {
        if let Some(entry) = self.connections.get_mut(&number) {
            let before = std::mem::replace(&mut entry.standing, standing);
            self.count(before, standing);
        }
    }

    fn count(&mut self, before: Standing, after: Standing) {
        match before {
            Standing::Placed => self.placed -= 1,
            Standing::Beyond => self.beyond -= 1,
            Standing::Leaving => (),
        }
        match after {
            Standing::Placed => self.placed += 1,
            Standing::Beyond => self.beyond += 1,
            Standing::Leaving => (),
        }
    }

    fn leaving(&self) -> usize {
        self.connections.len() - self.placed - self.beyond
    }

    /// Of a standing, the connection that goes first.
    fn displaceable(&self, standing: Standing, now: Micros) -> Option<u64> {
        let of_standing = self.connections.iter().filter(|(_, entry)| entry.standing == standing);
        let ranked = of_standing.filter_map(|(number, Entry { connection, .. })| {
            let rank = rules::displaceable(connection.doing(now), connection.was_answered(), now)?;
            Some((rank, std::cmp::Reverse(*number)))
        });
        ranked.max().map(|(_, std::cmp::Reverse(number))| number)
    }

    /// Makes the place of such a connection free.
    fn displace(&mut self, standing: Standing, now: Micros) -> bool {
        let Some(number) = self.displaceable(standing, now) else { return false };
        let may_say_goodbye = self.leaving() < GOODBYES_MAX;
        if let Some(Entry { connection, .. }) = self.connections.get(&number) {
            let is_idle = matches!(connection.doing(now), Doing::Idle(_));
            let order = if is_idle && may_say_goodbye { Order::Close } else { Order::Cut };
            connection.end(order, Reason::Crowded, now);
        }
        self.stand(number, Standing::Leaving);
        true
    }

    /// A standing for one more connection; None: there is no place at all.
    fn room(&mut self, connections_max: usize, now: Micros) -> Option<Standing> {
        if self.placed < connections_max || self.displace(Standing::Placed, now) {
            return Some(Standing::Placed);
        }
        (self.beyond < PROBE_PLACES_MAX || self.displace(Standing::Beyond, now)).then_some(Standing::Beyond)
    }
}

/// A connection's entry in the table, taken away when this is dropped.
pub(super) struct Place {
    table: Arc<Table>,
    number: u64,
    pub(super) connection: Arc<Connection>,
    is_for_probes: AtomicBool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.table.open();
        if let Some(entry) = open.connections.remove(&self.number) {
            open.count(entry.standing, Standing::Leaving);
        }
        self.table.shared.metrics.connections.set(open.connections.len() as i64);
        if open.connections.is_empty() {
            self.table.closed.notify_waiters();
        }
    }
}

impl Place {
    /// Whether there is a place for probes alone. Looks for a better one first.
    pub(super) fn is_for_probes(&self) -> bool {
        if !self.is_for_probes.load(Relaxed) {
            return false;
        }
        let mut open = self.table.open();
        if open.placed >= self.table.shared.limits.connections_max && !open.displace(Standing::Placed, now()) {
            return true;
        }
        open.stand(self.number, Standing::Placed);
        self.is_for_probes.store(false, Relaxed);
        false
    }
}

impl Table {
    pub(super) fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(shared), open: Mutex::default(), closed: Notify::new() })
    }

    /// A place for a new connection, at once: at the bound the client that is silent longest goes. None: all are at work, probes too.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Place> {
        let now = now();
        let mut open = self.open();
        let standing = open.room(self.shared.limits.connections_max, now)?;
        let number = open.next;
        open.next += 1;
        let connection = Arc::new(Connection::new(self.shared.clone(), now));
        open.connections.insert(number, Entry { connection: connection.clone(), standing });
        open.count(Standing::Leaving, standing);
        self.shared.metrics.connections.set(open.connections.len() as i64);
        let is_for_probes = AtomicBool::new(standing == Standing::Beyond);
        Some(Place { table: self.clone(), number, connection, is_for_probes })
    }

    /// Returns when no connection is open.
    pub(super) async fn all_closed(&self) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open().connections.is_empty() {
                return;
            }
            closed.await;
        }
    }

    /// Ends those who make no progress, until the server is gone.
    pub(super) async fn watch(self: Arc<Self>, phase: watch::Receiver<Phase>) {
        let mut over = phase.clone();
        tokio::select! {
            _over_or_gone = over.wait_for(|phase| *phase == Phase::Over) => (),
            () = self.watch_on(&phase) => (),
        }
    }

    async fn watch_on(&self, phase: &watch::Receiver<Phase>) {
        let shortest = Duration::from_micros(self.shared.limits.shortest() / 4);
        let mut ticks = tokio::time::interval(shortest.clamp(SWEEP_EVERY_MIN, SWEEP_EVERY_MAX));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heap = Heap::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let open = self.sweep(now(), *phase.borrow() == Phase::Draining);
                    heap.settle(&self.shared, open, now());
                }
                () = self.pressed() => {
                    self.relieve(now());
                    tokio::time::sleep(PRESSURE_EVERY).await;
                }
            }
        }
    }

    /// Returns when a body waits for room.
    async fn pressed(&self) {
        let Shared { inference, uploads, .. } = &*self.shared;
        if inference.waiting() + uploads.waiting() > 0 {
            return;
        }
        tokio::select! {
            () = inference.pressed.notified() => (),
            () = uploads.pressed.notified() => (),
        }
    }

    /// One look at all connections; says how many are open.
    fn sweep(&self, now: Micros, is_draining: bool) -> usize {
        let Shared { limits, metrics, uploads, .. } = &*self.shared;
        let connections = self.connections();
        let mut held = uploads.used();
        for connection in &connections {
            held += connection.held();
            let doing = connection.doing(now);
            if connection.is_overdue(now) && doing != Doing::Working {
                connection.end(Order::Cut, Reason::Crowded, now);
            }
            if let Some(reason) = rules::over(doing, now, limits, is_draining) {
                let order = if reason == Reason::Header { Order::Cut } else { Order::Close };
                connection.end(order, reason, now);
            }
            for exchange in connection.live() {
                let late = rules::late(exchange.wait(now), now, limits);
                // One that was told already is asked again, whatever it waits for now: it may be that it does not go.
                let reason = late.or(exchange.is_ended().then_some(Reason::Answer));
                if reason.is_some_and(|reason| exchange.end(reason, now)) {
                    connection.end(Order::Cut, reason.unwrap_or(Reason::Answer), now);
                }
            }
        }
        metrics.inflight_bytes.set(held as i64);
        connections.len()
    }

    /// Bodies wait for room: for each of them the client goes that holds bytes and makes the least progress.
    fn relieve(&self, now: Micros) {
        for pool in [&self.shared.inference, &self.shared.uploads] {
            let wanted = pool.waiting();
            if wanted > 0 {
                self.relieve_pool(pool, wanted, now);
            }
        }
    }

    fn relieve_pool(&self, pool: &Arc<Pool>, wanted: usize, now: Micros) {
        let mut late: Vec<(Micros, Arc<Connection>, Arc<Exchange>)> = Vec::new();
        for connection in self.connections() {
            for exchange in connection.live() {
                let rank = rules::displaceable_for_bytes(exchange.wait(now), now);
                if let Some(rank) = rank.filter(|_| exchange.held_of(pool) > 0 && !exchange.is_ended()) {
                    late.push((rank, connection.clone(), exchange));
                }
            }
        }
        late.sort_unstable_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
        for (_, connection, exchange) in late.into_iter().take(wanted) {
            if exchange.end(Reason::Bytes, now) {
                connection.end(Order::Cut, Reason::Bytes, now);
            }
        }
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        self.open().connections.values().map(|entry| entry.connection.clone()).collect()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no holder panics")
    }
}

/// What was used since the heap's pages were given back.
#[derive(Default)]
struct Heap {
    peak_bytes: usize,
    peak_connections: usize,
    given_back_at: Micros,
}

impl Heap {
    /// Gives pages back after a burst is over.
    fn settle(&mut self, shared: &Shared, connections: usize, now: Micros) {
        let bytes = shared.inference.used() + shared.uploads.used();
        let peak = shared.inference.take_peak() + shared.uploads.take_peak();
        self.peak_bytes = self.peak_bytes.max(peak);
        self.peak_connections = self.peak_connections.max(connections);
        let is_over =
            self.peak_bytes >= bytes + GIVE_BACK_BYTES || self.peak_connections >= connections + GIVE_BACK_CONNECTIONS;
        if is_over && now.saturating_sub(self.given_back_at) >= GIVE_BACK_EVERY {
            *self = Self { peak_bytes: bytes, peak_connections: connections, given_back_at: now };
            spawn_blocking(give_back_memory);
        }
    }
}

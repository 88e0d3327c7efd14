//! One connection: what it does, what it holds, and the order to end. Atomics alone, since every read and answer passes here.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::Notify;

use crate::telemetry::Metrics;
use crate::transport::in_flight::{CONNECTION_BYTES_OWN, Pool};
use crate::transport::server::exchange::Exchange;
use crate::transport::server::pace::{Micros, SECOND, now};
use crate::transport::server::rules::{Doing, Limits, Reason, lag};

/// How long a connection that was asked to end may take before it is cut.
const CLOSE_MAX: Micros = SECOND;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) limits: Limits,
    /// Bodies, messages and answers.
    pub(super) inference: Arc<Pool>,
    /// Adapters and datasets on their way in.
    pub(super) uploads: Arc<Pool>,
    pub(super) metrics: Arc<Metrics>,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// After the answers under way.
    Close,
    /// At once.
    Cut,
}

const NO_ORDER: u8 = 0;
const CLOSE: u8 = 1;
const CUT: u8 = 2;

/// For a moment that has not come.
const NEVER: Micros = Micros::MAX;

pub(in crate::transport) struct Connection {
    pub(super) shared: Arc<Shared>,
    opened: Micros,
    /// The end of the last request.
    idle_since: AtomicU64,
    /// The first byte after the last request.
    head_since: AtomicU64,
    was_answered: AtomicBool,
    is_http2: AtomicBool,
    /// Requests that are not over.
    live: AtomicUsize,
    exchanges: Mutex<Vec<Weak<Exchange>>>,
    /// Bytes of the pool for inference.
    held: AtomicUsize,
    order: AtomicU8,
    ordered_at: AtomicU64,
    ordered: Notify,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, opened: Micros) -> Self {
        Self {
            shared,
            opened,
            idle_since: AtomicU64::new(opened),
            head_since: AtomicU64::new(NEVER),
            was_answered: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            exchanges: Mutex::default(),
            held: AtomicUsize::new(0),
            order: AtomicU8::new(NO_ORDER),
            ordered_at: AtomicU64::new(0),
            ordered: Notify::new(),
        }
    }

    /// Bytes came from the socket. Between requests they begin a head; HTTP/2's may be pings, which are no progress.
    pub(super) fn heard(&self) {
        if self.live.load(Relaxed) == 0 && self.head_since.load(Relaxed) == NEVER && !self.is_http2.load(Relaxed) {
            self.head_since.store(now(), Relaxed);
        }
    }

    pub(super) fn begins(&self, exchange: &Arc<Exchange>, is_http2: bool) {
        self.is_http2.store(is_http2, Relaxed);
        self.head_since.store(NEVER, Relaxed);
        self.live.fetch_add(1, Relaxed);
        let mut exchanges = self.exchanges();
        exchanges.retain(|exchange| exchange.strong_count() > 0);
        exchanges.push(Arc::downgrade(exchange));
    }

    pub(super) fn ends(&self) {
        self.was_answered.store(true, Relaxed);
        self.idle_since.store(now(), Relaxed);
        self.live.fetch_sub(1, Relaxed);
    }

    pub(super) fn was_answered(&self) -> bool {
        self.was_answered.load(Relaxed)
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Relaxed)
    }

    /// The requests that are not over.
    pub(super) fn live(&self) -> Vec<Arc<Exchange>> {
        if self.live.load(Relaxed) == 0 {
            return Vec::new();
        }
        self.exchanges().iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn doing(&self, now: Micros) -> Doing {
        if self.live.load(Relaxed) == 0 {
            let head_since = self.head_since.load(Relaxed);
            return match self.was_answered() {
                false => Doing::Head(self.opened),
                true if head_since != NEVER => Doing::Head(head_since),
                true => Doing::Idle(self.idle_since.load(Relaxed)),
            };
        }
        let mut least: Option<Micros> = None;
        for exchange in self.exchanges().iter().filter_map(Weak::upgrade) {
            match lag(exchange.wait(now), now) {
                Some(lag) => least = Some(least.map_or(lag, |least| least.min(lag))),
                None => return Doing::Working,
            }
        }
        least.map_or(Doing::Working, Doing::Waiting)
    }

    /// Takes bytes for a request, of the connection's own first, then of those all share. False: there is no room, nothing was taken.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let before = self.held.fetch_add(bytes, Relaxed);
        let wanted = of_all(before + bytes) - of_all(before);
        if self.shared.inference.take(wanted) {
            return true;
        }
        // Another stream of the connection may have moved `held` meanwhile: what it took for granted is settled.
        let before = self.held.fetch_sub(bytes, Relaxed);
        let given_up = of_all(before) - of_all(before - bytes);
        self.shared.inference.take_anyway(wanted.saturating_sub(given_up));
        self.shared.inference.give_back(given_up.saturating_sub(wanted));
        false
    }

    /// Takes bytes that exist already, whether they fit or not.
    pub(super) fn take_anyway(&self, bytes: usize) {
        let before = self.held.fetch_add(bytes, Relaxed);
        self.shared.inference.take_anyway(of_all(before + bytes) - of_all(before));
    }

    pub(super) fn give_back(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Relaxed);
        self.shared.inference.give_back(of_all(before) - of_all(before - bytes));
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Asks it to end, once for each way; counts it under `reason`.
    pub(super) fn end(&self, order: Order, reason: Reason, now: Micros) {
        let order = if order == Order::Cut { CUT } else { CLOSE };
        let before = self.order.fetch_max(order, Relaxed);
        if before == NO_ORDER {
            self.ordered_at.store(now, Relaxed);
            self.shared.metrics.connections_cut.inc(reason.counted());
        }
        if before < order {
            self.ordered.notify_one();
        }
    }

    /// Whether it was asked to close and takes too long.
    pub(super) fn is_overdue(&self, now: Micros) -> bool {
        self.order.load(Relaxed) == CLOSE && now.saturating_sub(self.ordered_at.load(Relaxed)) >= CLOSE_MAX
    }

    /// The next order to end.
    pub(super) async fn order(&self) -> Order {
        self.ordered.notified().await;
        if self.order.load(Relaxed) == CUT { Order::Cut } else { Order::Close }
    }

    fn exchanges(&self) -> MutexGuard<'_, Vec<Weak<Exchange>>> {
        self.exchanges.lock().expect("no holder panics")
    }
}

/// What of a connection's bytes is taken from those that all share.
fn of_all(held: usize) -> usize {
    held.saturating_sub(CONNECTION_BYTES_OWN)
}

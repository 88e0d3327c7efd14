//! How much may be under way at once, in tokens, and whose it is.
//!
//! Two resources have shares for each flow ([`shares`]). The *queue* is what workers have or may take next: it is short, because a longer
//! one adds latency and no goodput. The *backlog* is all that is accepted and not yet answered: a long request is accepted whole
//! and brought into the queue window by window, as far as its share allows. A single request whose first window finds no
//! room in the queue is refused at once; streams, and later windows, wait their turn ([`ledger`]).

mod ledger;
mod shares;
mod speed;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use crate::domain::{Error, Result};
use crate::serving::flow::{Caller, Flow};
use crate::telemetry::{IntGauge, Metrics, RejectReason};
use ledger::Ledger;
use shares::Shares;
use speed::Speed;

/// English has 4 to 5 bytes a token. A guess for what is not tokenized yet: corrected as soon as it is.
const BYTES_PER_TOKEN: usize = 4;

/// Tokens of one request, windows' overlaps included: about four seconds of two cores, and what one caller may keep in memory.
pub(super) const REQUEST_TOKENS_MAX: usize = 65_536;

/// Tokens accepted and not yet answered, over all flows, unless the queue alone has more: four of the largest requests. Tokens, offsets
/// and scores of all of them are in memory until they are answered: 32 MiB at the most for each of the largest.
const BACKLOG_TOKENS: usize = 4 * REQUEST_TOKENS_MAX;

/// Tokens of a text of `bytes`, special ones included, before it is tokenized.
pub(super) fn guess_tokens(bytes: usize) -> usize {
    bytes / BYTES_PER_TOKEN + 2
}

/// The bounds of admission.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionConfig {
    /// Tokens in the queue and at work.
    pub(super) queue_tokens_max: usize,
    /// Tokens of one forward pass.
    pub(super) batch_tokens_max: usize,
    /// Passes that run at once.
    pub(super) workers: usize,
}

/// Counts what is accepted and what is queued, by flow and caller.
pub(super) struct Admission {
    config: AdmissionConfig,
    state: Mutex<State>,
    speed: Mutex<Speed>,
    /// Told when the last request is answered.
    idle: Notify,
    metrics: Arc<Metrics>,
}

struct State {
    queue: Ledger<Flow, WaitsForHold>,
    backlog: Ledger<Flow, WaitsForTicket>,
}

/// Who waits for tokens of the queue; the entry keeps its request alive until then.
struct WaitsForHold {
    entry: Arc<Entry>,
    hold: oneshot::Sender<Hold>,
}

/// Who waits to be accepted.
struct WaitsForTicket {
    flow: Flow,
    caller: Caller,
    ticket: oneshot::Sender<Ticket>,
}

/// An accepted request: its part of the backlog, and the right to bring it into the queue.
pub(super) struct Ticket {
    entry: Arc<Entry>,
}

struct Entry {
    admission: Arc<Admission>,
    flow: Flow,
    caller: Caller,
    /// Tokens of the backlog that are not computed yet.
    left: AtomicUsize,
}

/// Tokens of the queue. `Drop` gives them back, and takes them off the backlog: they are computed, or given up.
pub(super) struct Hold {
    entry: Arc<Entry>,
    tokens: usize,
    /// The gauges they are shown in.
    shown: Vec<(IntGauge, i64)>,
}

impl Admission {
    pub(super) fn new(config: AdmissionConfig, metrics: Arc<Metrics>) -> Arc<Self> {
        let queue_tokens_max = config.queue_tokens_max.max(1);
        metrics.queue_limit_tokens.set(queue_tokens_max as i64);
        let state =
            State { queue: Ledger::new(queue_tokens_max), backlog: Ledger::new(BACKLOG_TOKENS.max(queue_tokens_max)) };
        Arc::new(Self { config, state: Mutex::new(state), speed: Mutex::default(), idle: Notify::new(), metrics })
    }

    pub(super) fn tokens_max(&self) -> usize {
        self.config.queue_tokens_max
    }

    /// Tokens in the queue and at work.
    pub(super) fn queued(&self) -> usize {
        self.state().queue.shares().held()
    }

    /// Accepts a request of about `total` tokens, and its first window of about `first` into the queue.
    ///
    /// A single request is refused with `overloaded` if the share of its flow is full or `deadline` cannot be met; a stream's waits.
    pub(super) async fn enter(
        self: &Arc<Self>,
        (flow, caller): (Flow, Caller),
        first: usize,
        total: usize,
        now: Instant,
        deadline: Instant,
    ) -> Result<(Ticket, Hold)> {
        let total = total.clamp(1, REQUEST_TOKENS_MAX);
        let first = first.clamp(1, total);
        if caller.waits() {
            let ticket = self.wait_for_ticket(flow, caller, total).await?;
            let hold = ticket.hold(first).await?;
            return Ok((ticket, hold));
        }
        let ticket = self.accept(flow, caller, first, total, deadline.saturating_duration_since(now))?;
        let hold = Hold { entry: ticket.entry.clone(), tokens: first, shown: Vec::new() };
        Ok((ticket, hold))
    }

    /// Takes a single request's part of the backlog, and the queue's tokens of its first window.
    fn accept(
        self: &Arc<Self>,
        flow: Flow,
        caller: Caller,
        first: usize,
        total: usize,
        left: Duration,
    ) -> Result<Ticket> {
        let mut state = self.state();
        self.refuse_hopeless(&state, &flow, total, left)?;
        if !state.backlog.try_enter(&flow, caller.id(), total) {
            return Err(self.overloaded(RejectReason::TokenizerFull, state.backlog.shares(), &flow, total));
        }
        if !state.queue.try_enter(&flow, caller.id(), first) {
            state.backlog.give_back(&flow, caller.id(), total);
            return Err(self.overloaded(RejectReason::QueueFull, state.queue.shares(), &flow, first));
        }
        self.show(&state);
        Ok(self.ticket(flow, caller, total))
    }

    /// A stream's message waits for its part of the backlog.
    async fn wait_for_ticket(self: &Arc<Self>, flow: Flow, caller: Caller, total: usize) -> Result<Ticket> {
        let (ticket, granted) = oneshot::channel();
        let waiter = WaitsForTicket { flow: flow.clone(), caller, ticket };
        self.change(|state| state.backlog.wait(&flow, caller.id(), total, waiter));
        granted.await.map_err(|_dropped| stopping())
    }

    /// For tokens of the backlog that are taken.
    fn ticket(self: &Arc<Self>, flow: Flow, caller: Caller, total: usize) -> Ticket {
        Ticket { entry: Arc::new(Entry { admission: self.clone(), flow, caller, left: AtomicUsize::new(total) }) }
    }

    fn refuse_hopeless(&self, state: &State, flow: &Flow, total: usize, left: Duration) -> Result<()> {
        let ahead = state.backlog.shares().served_before(flow, total);
        let AdmissionConfig { batch_tokens_max, workers, .. } = self.config;
        if !self.speed().outlasts(ahead, batch_tokens_max, workers, left) {
            return Ok(());
        }
        self.reject(RejectReason::Deadline);
        let message = format!(
            "{ahead} tokens come first or are its own, which takes longer than the {} ms that are left until the deadline",
            left.as_millis()
        );
        Err(Error::overloaded(message, self.speed().retry_after(ahead - total, workers)))
    }

    /// A batch of `tokens` took so long on one worker.
    pub(super) fn record(&self, tokens: usize, took: Duration) {
        self.speed.lock().unwrap_or_else(PoisonError::into_inner).record(tokens, took);
    }

    /// Waits until everything accepted is answered, or `deadline`; true if nothing was left.
    pub(super) async fn drained(&self, deadline: Instant) -> bool {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.is_idle() {
                return true;
            }
            if timeout_at(deadline.into(), idle).await.is_err() {
                return self.is_idle();
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.state().is_idle()
    }

    fn overloaded(&self, reason: RejectReason, shares: &Shares<Flow>, flow: &Flow, asked: usize) -> Error {
        self.reject(reason);
        let (held, max) = (shares.held(), shares.capacity());
        let message = format!(
            "{held} of {max} tokens are taken, and the share that this adapter may have of them has no room for {asked} more"
        );
        Error::overloaded(message, self.speed().retry_after(shares.excess(flow, asked), self.config.workers))
    }

    fn reject(&self, reason: RejectReason) {
        self.metrics.rejected.inc(reason);
    }

    fn speed(&self) -> Speed {
        *self.speed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, state: &State) {
        let shares = state.queue.shares();
        self.metrics.queue_fill_ratio.set(shares.held() as f64 / shares.capacity() as f64);
        self.metrics.backlog_tokens.set(state.backlog.shares().held() as i64);
    }

    /// Changes the state, then wakes those who may go on. Neither is done under the lock: what nobody takes comes back at once.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let accepted = state.backlog.turns(|waiter| waiter.ticket.is_closed());
        let queued = state.queue.turns(|waiter| waiter.hold.is_closed());
        self.show(&state);
        let is_idle = state.is_idle();
        drop(state);
        for (total, WaitsForTicket { flow, caller, ticket }) in accepted.granted {
            let _given_up = ticket.send(self.ticket(flow, caller, total));
        }
        for (tokens, WaitsForHold { entry, hold }) in queued.granted {
            let _given_up = hold.send(Hold { entry, tokens, shown: Vec::new() });
        }
        drop((accepted.gone, queued.gone));
        if is_idle {
            self.idle.notify_waiters();
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.queue.shares().held() == 0 && self.backlog.shares().held() == 0
    }
}

impl Ticket {
    /// Makes the backlog that of exactly `tokens`, now that they are counted. `payload_too_large` past what one request may ask.
    pub(super) fn settle(&mut self, tokens: usize) -> Result<()> {
        let Entry { admission, flow, caller, left } = &*self.entry;
        if tokens > REQUEST_TOKENS_MAX {
            admission.reject(RejectReason::TooLarge);
            return Err(Error::too_large(format!(
                "the request has {tokens} tokens with its windows' overlaps; at most {REQUEST_TOKENS_MAX} are taken at once: \
                 send fewer or shorter inputs, or ask for a smaller stride"
            )));
        }
        let guessed = left.swap(tokens, Ordering::Relaxed);
        admission.change(|state| {
            state.backlog.give_back(flow, caller.id(), guessed);
            state.backlog.take(flow, caller.id(), tokens);
        });
        Ok(())
    }

    /// Tokens of the queue for the next windows, if they are free now and nobody waits for them.
    pub(super) fn try_hold(&self, tokens: usize) -> Option<Hold> {
        let Entry { admission, flow, caller, .. } = &*self.entry;
        let mut state = admission.state();
        let held = state.queue.try_extend(flow, caller.id(), tokens);
        admission.show(&state);
        held.then(|| Hold { entry: self.entry.clone(), tokens, shown: Vec::new() })
    }

    /// The same, waiting for it. `unavailable` if the queue is gone.
    pub(super) async fn hold(&self, tokens: usize) -> Result<Hold> {
        if let Some(hold) = self.try_hold(tokens) {
            return Ok(hold);
        }
        let (hold, granted) = oneshot::channel();
        let Entry { admission, flow, caller, .. } = &*self.entry;
        let waiter = WaitsForHold { entry: self.entry.clone(), hold };
        admission.change(|state| state.queue.wait(flow, caller.id(), tokens, waiter));
        granted.await.map_err(|_dropped| stopping())
    }

    /// Makes `hold` one of exactly `tokens`: gives back what is too much, and waits for what is missing.
    pub(super) async fn fit(&self, mut hold: Hold, tokens: usize) -> Result<Hold> {
        let Entry { admission, flow, caller, .. } = &*self.entry;
        let held = hold.tokens;
        if tokens <= held {
            hold.tokens = tokens;
            admission.change(|state| state.queue.give_back(flow, caller.id(), held - tokens));
            return Ok(hold);
        }
        if let Some(mut more) = self.try_hold(tokens - held) {
            hold.tokens = tokens;
            more.tokens = 0;
            return Ok(hold);
        }
        // Who held some while waiting for more could lock two such callers against each other.
        hold.release_unused();
        self.hold(tokens).await
    }
}

impl Hold {
    #[cfg(test)]
    fn tokens(&self) -> usize {
        self.tokens
    }

    /// Shows `tokens` of these in `gauge` for as long as they are held.
    pub(super) fn show(&mut self, gauge: &IntGauge, tokens: usize) {
        gauge.add(tokens as i64);
        self.shown.push((gauge.clone(), tokens as i64));
    }

    /// Gives the queue's tokens back with nothing computed: the backlog stays as it is.
    fn release_unused(mut self) {
        let tokens = std::mem::take(&mut self.tokens);
        let Entry { admission, flow, caller, .. } = &*self.entry;
        admission.change(|state| state.queue.give_back(flow, caller.id(), tokens));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shown.iter().for_each(|(gauge, tokens)| gauge.sub(*tokens));
        let Entry { admission, flow, caller, left } = &*self.entry;
        if self.tokens == 0 {
            return;
        }
        let before =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(self.tokens)));
        let computed = self.tokens.min(before.unwrap_or(0));
        admission.change(|state| {
            state.queue.give_back(flow, caller.id(), self.tokens);
            state.backlog.give_back(flow, caller.id(), computed);
        });
    }
}

fn stopping() -> Error {
    Error::unavailable("the server is stopping")
}

/// The rest of the request leaves the backlog with its last holder.
impl Drop for Entry {
    fn drop(&mut self) {
        let left = self.left.load(Ordering::Relaxed);
        self.admission.change(|state| state.backlog.give_back(&self.flow, self.caller.id(), left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ErrorKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn admission(queue_tokens_max: usize) -> Arc<Admission> {
        let config = AdmissionConfig { queue_tokens_max, batch_tokens_max: 10, workers: 1 };
        Admission::new(config, Arc::new(Metrics::new(4)))
    }

    fn flow(name: &str) -> Flow {
        Flow::Adapter(name.parse().unwrap())
    }

    /// A single request of one window.
    async fn single(admission: &Arc<Admission>, name: &str, tokens: usize) -> Result<(Ticket, Hold)> {
        let now = Instant::now();
        admission.enter((flow(name), Caller::single()), tokens, tokens, now, now + SECOND).await
    }

    fn kind<T>(outcome: &Result<T>) -> Option<ErrorKind> {
        outcome.as_ref().err().map(Error::kind)
    }

    #[tokio::test]
    async fn a_full_share_refuses_at_once_and_drop_gives_it_back() {
        let admission = admission(30);
        let first = single(&admission, "hot", 10).await.unwrap();
        let second = single(&admission, "hot", 10).await.unwrap();
        let refused = single(&admission, "hot", 1).await;
        assert_eq!(kind(&refused), Some(ErrorKind::Overloaded));
        assert!(refused.err().unwrap().retry_after().is_some());
        let cold = single(&admission, "cold", 10).await.unwrap();
        assert_eq!(admission.queued(), 30);
        drop(first);
        assert_eq!(kind(&single(&admission, "hot", 11).await), Some(ErrorKind::Overloaded), "what is free is less");
        drop(cold);
        assert!(single(&admission, "hot", 11).await.is_ok());
        drop(second);
        assert!(admission.drained(Instant::now()).await);
    }

    #[tokio::test]
    async fn a_flow_that_holds_nothing_is_never_refused() {
        let admission = admission(10);
        let mut held = Vec::new();
        for at in 0..50 {
            held.push(single(&admission, &format!("adapter-{at}"), 500).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_long_request_takes_its_share_of_the_queue_and_leaves_the_rest_to_its_neighbours() {
        let admission = admission(160);
        let now = Instant::now();
        let (mut ticket, first) =
            admission.enter((flow("a"), Caller::single()), 10, 5000, now, now + SECOND).await.unwrap();
        ticket.settle(4000).unwrap();
        let mut held = vec![first];
        held.extend(std::iter::from_fn(|| ticket.try_hold(10)));
        assert_eq!(admission.queued(), 80);
        assert!(single(&admission, "a", 50).await.is_ok(), "of the same adapter");
        assert!(single(&admission, "b", 50).await.is_ok());
        drop((ticket, held));
        assert!(admission.drained(now).await);
    }

    #[tokio::test]
    async fn a_window_that_turns_out_larger_waits_for_the_rest() {
        let admission = admission(30);
        let (ticket, first) = single(&admission, "a", 5).await.unwrap();
        let first = ticket.fit(first, 3).await.unwrap();
        assert_eq!((first.tokens(), admission.queued()), (3, 3));
        let first = ticket.fit(first, 9).await.unwrap();
        assert_eq!((first.tokens(), admission.queued()), (9, 9));
        let other = single(&admission, "a", 10).await.unwrap();
        let (fitted, ()) = tokio::join!(ticket.fit(first, 20), async {
            tokio::task::yield_now().await;
            drop(other);
        });
        assert_eq!(fitted.unwrap().tokens(), 20);
        drop(ticket);
        assert!(admission.drained(Instant::now()).await);
    }

    #[tokio::test]
    async fn a_request_is_bounded_when_it_is_counted() {
        let admission = admission(30);
        let (mut ticket, _hold) = single(&admission, "a", 5).await.unwrap();
        assert!(ticket.settle(REQUEST_TOKENS_MAX).is_ok());
        assert_eq!(kind(&ticket.settle(REQUEST_TOKENS_MAX + 1)), Some(ErrorKind::PayloadTooLarge));
    }

    #[tokio::test]
    async fn a_stream_waits_for_room_and_one_that_gives_up_leaves_no_trace() {
        let admission = admission(30);
        let now = Instant::now();
        let held = (single(&admission, "a", 10).await.unwrap(), single(&admission, "a", 10).await.unwrap());
        let stream = Caller::stream();
        let enter = |tokens| admission.enter((flow("a"), stream), tokens, tokens, now, now + SECOND);
        let given_up = tokio::time::timeout(Duration::from_millis(1), enter(10)).await;
        assert!(given_up.is_err());
        let (entered, ()) = tokio::join!(enter(4), async {
            tokio::task::yield_now().await;
            drop(held);
        });
        assert_eq!(entered.unwrap().1.tokens(), 4);
        assert!(admission.drained(now).await);
    }

    #[tokio::test]
    async fn a_deadline_that_the_backlog_outlasts_is_refused_with_the_time_it_takes() {
        let admission = admission(10_000);
        admission.record(1000, SECOND);
        let now = Instant::now();
        let long = 60 * SECOND;
        let _held = admission.enter((flow("a"), Caller::single()), 10, 5000, now, now + long).await.unwrap();
        let ask = |tokens, deadline| admission.enter((flow("a"), Caller::single()), 10, tokens, now, now + deadline);
        let refused = ask(2000, SECOND).await;
        assert_eq!(kind(&refused), Some(ErrorKind::Overloaded));
        assert_eq!(refused.err().unwrap().retry_after(), Some(2 * SECOND));
        assert!(ask(10, SECOND).await.is_ok(), "a short one is served before a long one ends");
        assert!(ask(2000, 9 * SECOND).await.is_ok());
    }
}

//! How much may be under way at once, in tokens: one-off calls are refused at once when it is too much, streams wait their turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use crate::domain::{Error, Result};
use crate::telemetry::{IntGauge, Metrics, RejectReason};

/// English has 4 to 5 bytes a token. A guess for what is not tokenized yet: corrected as soon as it is.
const BYTES_PER_TOKEN: usize = 4;
/// Share of the newest batch in the measured speed: about the last twenty batches count.
const SPEED_NEWEST: f64 = 0.05;
/// What a refused caller is told before any batch has been measured.
const RETRY_UNMEASURED: Duration = Duration::from_secs(1);
/// A sooner retry is likely to meet the same full queue.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// A longer forecast says nothing.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Tokens of one request, unless the queue takes more: what one caller may keep in memory and in front of the others of its adapter.
const REQUEST_TOKENS_MAX: usize = 65_536;

/// Tokens of a text of `bytes`, special ones included, before it is tokenized.
pub(super) fn guess_tokens(bytes: usize) -> usize {
    bytes / BYTES_PER_TOKEN + 2
}

/// Measured tokens a second, newer batches counting more; long passes weigh more than short ones.
#[derive(Clone, Copy, Debug, Default)]
struct Speed {
    tokens: f64,
    seconds: f64,
}

impl Speed {
    fn record(&mut self, tokens: usize, took: Duration) {
        let keep = 1.0 - SPEED_NEWEST;
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + took.as_secs_f64();
    }

    /// How long `tokens` take on `workers` passes at once; None before the first measure.
    fn time_for(self, tokens: usize, workers: usize) -> Option<Duration> {
        let per_second = self.tokens / self.seconds * workers as f64;
        let seconds = tokens as f64 / per_second;
        (per_second.is_finite() && per_second > 0.0).then(|| Duration::from_secs_f64(seconds.min(1e6)))
    }
}

/// When it is worth another try: once `excess` tokens less are waiting.
fn retry_after(excess: usize, speed: Speed, workers: usize) -> Duration {
    speed.time_for(excess, workers).unwrap_or(RETRY_UNMEASURED).clamp(RETRY_MIN, RETRY_MAX)
}

/// Whether `queued` tokens are certain to outlast the deadline. One batch or less is started at once, so it says nothing.
fn is_hopeless(queued: usize, batch: usize, time_left: Duration, speed: Speed, workers: usize) -> bool {
    queued > batch && speed.time_for(queued, workers).is_some_and(|wait| wait > time_left)
}

/// Counts tokens that are admitted and not yet answered.
pub(super) struct Admission {
    free: Arc<Semaphore>,
    tokens_max: usize,
    batch_tokens_max: usize,
    /// Passes that run at once.
    workers: usize,
    speed: Mutex<Speed>,
    /// Told when the last token is given back.
    idle: Arc<Notify>,
    metrics: Arc<Metrics>,
}

/// Tokens held by a request, and by what it has in the queue. `Drop` gives them back.
pub(super) struct Permit {
    held: Option<OwnedSemaphorePermit>,
    free: Arc<Semaphore>,
    tokens_max: usize,
    idle: Arc<Notify>,
    /// The gauges they are shown in.
    shown: Vec<(IntGauge, i64)>,
}

impl Admission {
    pub(super) fn new(tokens_max: usize, batch_tokens_max: usize, workers: usize, metrics: Arc<Metrics>) -> Self {
        let tokens_max = tokens_max.clamp(1, u32::MAX as usize);
        metrics.queue_limit_tokens.set(tokens_max as i64);
        Self {
            free: Arc::new(Semaphore::new(tokens_max)),
            tokens_max,
            batch_tokens_max,
            workers,
            speed: Mutex::default(),
            idle: Arc::default(),
            metrics,
        }
    }

    pub(super) fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// Tokens admitted and not yet answered.
    pub(super) fn queued(&self) -> usize {
        self.tokens_max - self.free.available_permits()
    }

    /// Room for a request of about `guess` tokens. Without `wait`, `overloaded` at once if there is none, or if `deadline` cannot be met.
    pub(super) async fn admit(&self, guess: usize, now: Instant, deadline: Instant, wait: bool) -> Result<Permit> {
        let guess = guess.clamp(1, self.share_max());
        let held = if wait { self.acquire(guess).await? } else { self.try_acquire(guess, now, deadline)? };
        let (free, idle) = (self.free.clone(), self.idle.clone());
        Ok(Permit { held: Some(held), free, tokens_max: self.tokens_max, idle, shown: Vec::new() })
    }

    /// A request of more than half the queue is admitted as if it were half: it then waits for a half-empty queue, where counting all of it
    /// would keep it out for ever.
    fn share_max(&self) -> usize {
        (self.tokens_max / 2).max(1)
    }

    /// Makes the permit that of exactly `tokens`, now that they are counted. `payload_too_large` past what one request may ask.
    pub(super) async fn settle(&self, permit: &mut Permit, tokens: usize, wait: bool) -> Result<()> {
        let request_max = self.tokens_max.max(REQUEST_TOKENS_MAX);
        if tokens > request_max {
            self.reject(RejectReason::TooLarge);
            return Err(Error::too_large(format!(
                "the request has {tokens} tokens; at most {request_max} are taken at once: send fewer or shorter inputs"
            )));
        }
        let tokens = tokens.min(self.share_max());
        let held = permit.tokens();
        if tokens <= held {
            permit.give_back(held - tokens);
        } else if wait {
            // Holding while waiting for more could lock two such streams against each other.
            permit.held = None;
            permit.held = Some(self.acquire(tokens).await?);
        } else {
            let more = u32::try_from(tokens - held).unwrap_or(u32::MAX);
            let more =
                self.free.clone().try_acquire_many_owned(more).map_err(|_full| self.overloaded(tokens - held))?;
            permit.add(more);
        }
        Ok(())
    }

    /// A batch of `tokens` took so long on one worker.
    pub(super) fn record(&self, tokens: usize, took: Duration) {
        self.speed.lock().unwrap_or_else(PoisonError::into_inner).record(tokens, took);
    }

    /// Waits until everything admitted is answered, or `deadline`; true if nothing was left.
    pub(super) async fn drained(&self, deadline: Instant) -> bool {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.queued() == 0 {
                return true;
            }
            if timeout_at(deadline.into(), idle).await.is_err() {
                return self.queued() == 0;
            }
        }
    }

    async fn acquire(&self, tokens: usize) -> Result<OwnedSemaphorePermit> {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let closed = |_| Error::unavailable("the server is stopping");
        self.free.clone().acquire_many_owned(tokens).await.map_err(closed)
    }

    fn try_acquire(&self, tokens: usize, now: Instant, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        let queued = self.queued();
        let left = deadline.saturating_duration_since(now);
        if is_hopeless(queued, self.batch_tokens_max, left, self.speed(), self.workers) {
            self.reject(RejectReason::Deadline);
            let retry = retry_after(queued, self.speed(), self.workers);
            let left = left.as_millis();
            let message = format!("{queued} tokens wait, which takes longer than the deadline's {left} ms");
            return Err(Error::overloaded(message, retry));
        }
        let wanted = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.free.clone().try_acquire_many_owned(wanted).map_err(|_full| self.overloaded(tokens))
    }

    fn overloaded(&self, wanted: usize) -> Error {
        self.reject(RejectReason::QueueFull);
        let queued = self.queued();
        let retry = retry_after((queued + wanted).saturating_sub(self.tokens_max), self.speed(), self.workers);
        let max = self.tokens_max;
        Error::overloaded(format!("{queued} tokens wait and {wanted} more are asked; {max} may wait"), retry)
    }

    pub(super) fn reject(&self, reason: RejectReason) {
        self.metrics.rejected.inc(reason);
    }

    fn speed(&self) -> Speed {
        *self.speed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    pub(super) fn tokens(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Shows `tokens` of these in `gauge` for as long as the permit lives.
    pub(super) fn show(&mut self, gauge: IntGauge, tokens: usize) {
        gauge.add(tokens as i64);
        self.shown.push((gauge, tokens as i64));
    }

    fn give_back(&mut self, tokens: usize) {
        drop(self.held.as_mut().and_then(|held| held.split(tokens)));
    }

    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shown.iter().for_each(|(gauge, tokens)| gauge.sub(*tokens));
        self.held = None;
        if self.free.available_permits() == self.tokens_max {
            self.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ErrorKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn speed(tokens: usize, took: Duration) -> Speed {
        let mut speed = Speed::default();
        speed.record(tokens, took);
        speed
    }

    #[test]
    fn a_retry_is_worth_it_when_the_excess_has_been_computed() {
        let check = |excess, speed, workers, expected| assert_eq!(retry_after(excess, speed, workers), expected);
        check(1000, speed(1000, SECOND), 1, SECOND);
        check(1000, speed(1000, SECOND), 2, SECOND / 2);
        check(1, speed(1000, SECOND), 1, RETRY_MIN);
        check(usize::MAX, speed(1, SECOND), 1, RETRY_MAX);
        check(1000, Speed::default(), 1, RETRY_UNMEASURED);
    }

    #[test]
    fn speed_follows_the_newest_batches() {
        let mut speed = speed(1000, SECOND);
        (0..100).for_each(|_| speed.record(4000, SECOND));
        let took = speed.time_for(4000, 1).unwrap();
        assert!((took.as_secs_f64() - 1.0).abs() < 0.02, "{took:?}");
    }

    #[test]
    fn a_deadline_is_hopeless_only_behind_more_than_a_batch_that_outlasts_it() {
        let check = |queued, left, expected| {
            assert_eq!(is_hopeless(queued, 100, left, speed(1000, SECOND), 1), expected, "{queued} {left:?}");
        };
        check(100, Duration::ZERO, false);
        check(2000, SECOND, true);
        check(2000, 3 * SECOND, false);
        assert!(!is_hopeless(2000, 100, SECOND, Speed::default(), 1), "nothing measured yet");
    }

    fn admission(tokens_max: usize) -> Admission {
        Admission::new(tokens_max, 10, 1, Arc::new(Metrics::new(4)))
    }

    #[tokio::test]
    async fn tokens_are_bounded_and_given_back_by_drop() {
        let admission = admission(10);
        let now = Instant::now();
        let later = now + SECOND;
        let mut first = admission.admit(5, now, later, false).await.unwrap();
        let third = admission.admit(1, now, later, false).await.unwrap();
        let refused = admission.admit(5, now, later, false).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        assert_eq!(refused.retry_after(), Some(RETRY_UNMEASURED));
        drop(third);
        admission.settle(&mut first, 3, false).await.unwrap();
        let second = admission.admit(5, now, later, false).await.unwrap();
        assert_eq!(admission.queued(), 8);
        let third = admission.admit(1, now, later, false).await.unwrap();
        assert_eq!(admission.settle(&mut first, 5, false).await.unwrap_err().kind(), ErrorKind::Overloaded);
        drop(third);
        drop((first, second));
        assert_eq!(admission.queued(), 0);
        assert!(admission.drained(now).await);
    }

    #[tokio::test]
    async fn a_request_of_more_than_half_the_queue_wants_half_of_it_free_and_has_a_bound_of_its_own() {
        let admission = admission(10);
        let now = Instant::now();
        let later = now + SECOND;
        let mut large = admission.admit(1000, now, later, false).await.unwrap();
        admission.settle(&mut large, 1000, false).await.unwrap();
        assert_eq!((large.tokens(), admission.queued()), (5, 5));
        let refused = admission.settle(&mut large, REQUEST_TOKENS_MAX + 1, false).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PayloadTooLarge);
    }

    #[tokio::test]
    async fn a_stream_waits_for_room_and_then_has_it() {
        let admission = admission(10);
        let now = Instant::now();
        let held = (
            admission.admit(5, now, now + SECOND, false).await.unwrap(),
            admission.admit(5, now, now + SECOND, false).await.unwrap(),
        );
        let (waited, ()) = tokio::join!(admission.admit(4, now, now + SECOND, true), async {
            tokio::task::yield_now().await;
            drop(held);
        });
        assert_eq!(waited.unwrap().tokens(), 4);
    }

    #[tokio::test]
    async fn a_deadline_that_the_queue_outlasts_is_refused_with_the_time_it_takes() {
        let admission = admission(10_000);
        admission.record(1000, SECOND);
        let now = Instant::now();
        let _held = admission.admit(5000, now, now + SECOND, false).await.unwrap();
        let refused = admission.admit(10, now, now + SECOND, false).await.err().unwrap();
        assert_eq!((refused.kind(), refused.retry_after()), (ErrorKind::Overloaded, Some(5 * SECOND)));
        assert!(admission.admit(10, now, now + 9 * SECOND, false).await.is_ok());
    }
}

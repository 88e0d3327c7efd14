//! How fast tokens are computed, and what follows from it: when a retry is worth it, and which deadline cannot be met. Pure.

use std::time::Duration;

/// Share of the newest batch in the measured speed: about the last twenty batches count.
const SPEED_NEWEST: f64 = 0.05;
/// What a refused caller is told before any batch has been measured.
const RETRY_UNMEASURED: Duration = Duration::from_secs(1);
/// A sooner retry is likely to meet the same full queue.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// A longer forecast says nothing.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Measured tokens a second, newer batches counting more; long passes weigh more than short ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    tokens: f64,
    seconds: f64,
}

impl Speed {
    /// A batch of `tokens` took so long on one worker.
    pub(super) fn record(&mut self, tokens: usize, took: Duration) {
        let keep = 1.0 - SPEED_NEWEST;
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + took.as_secs_f64();
    }

    /// How long `tokens` take on `workers` passes at once; None before the first measure.
    pub(super) fn time_for(self, tokens: usize, workers: usize) -> Option<Duration> {
        let per_second = self.tokens / self.seconds * workers as f64;
        let seconds = tokens as f64 / per_second;
        (per_second.is_finite() && per_second > 0.0).then(|| Duration::from_secs_f64(seconds.min(1e6)))
    }

    /// When it is worth another try: once `excess` tokens less are waiting.
    pub(super) fn retry_after(self, excess: usize, workers: usize) -> Duration {
        self.time_for(excess, workers).unwrap_or(RETRY_UNMEASURED).clamp(RETRY_MIN, RETRY_MAX)
    }

    /// Whether `ahead` tokens are certain to outlast the time that is left. One batch or less is started at once, so it says nothing.
    pub(super) fn outlasts(self, ahead: usize, batch: usize, workers: usize, left: Duration) -> bool {
        ahead > batch && self.time_for(ahead, workers).is_some_and(|wait| wait > left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn speed(tokens: usize, took: Duration) -> Speed {
        let mut speed = Speed::default();
        speed.record(tokens, took);
        speed
    }

    #[test]
    fn a_retry_is_worth_it_when_the_excess_has_been_computed() {
        let check = |excess, speed: Speed, workers, expected| assert_eq!(speed.retry_after(excess, workers), expected);
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
        let check = |ahead, left, expected| {
            assert_eq!(speed(1000, SECOND).outlasts(ahead, 100, 1, left), expected, "{ahead} {left:?}");
        };
        check(100, Duration::ZERO, false);
        check(2000, SECOND, true);
        check(2000, 3 * SECOND, false);
        assert!(!Speed::default().outlasts(2000, 100, 1, SECOND), "nothing measured yet");
    }
}

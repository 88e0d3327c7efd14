//! How far a run is and when it will be done. Pure: times come in as arguments.

use std::time::{Duration, Instant, SystemTime};

/// The least time between two metrics events of training steps: a reader sees a curve, the journal stays small.
const METRICS_INTERVAL: Duration = Duration::from_millis(500);

/// Two moments of one run, and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When `first_step` was done, in this run: steps before an interruption say nothing of its speed.
    pub(super) started: SystemTime,
    pub(super) first_step: u64,
    pub(super) latest: SystemTime,
    pub(super) step: u64,
    pub(super) steps: u64,
}

/// When the last step will be done at the speed so far; None until there are two moments to tell a speed from.
pub(super) fn estimated_finish(pace: Pace) -> Option<SystemTime> {
    let done = pace.step.checked_sub(pace.first_step).filter(|&done| done > 0)?;
    let taken = pace.latest.duration_since(pace.started).ok()?;
    let left = pace.steps.saturating_sub(pace.step) as f64 / done as f64;
    pace.latest.checked_add(Duration::try_from_secs_f64(taken.as_secs_f64() * left).ok()?)
}

/// Lets through at most one in [`METRICS_INTERVAL`].
#[derive(Debug, Default)]
pub(super) struct MetricsPace(Option<Instant>);

impl MetricsPace {
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.0.is_none_or(|last| now.duration_since(last) >= METRICS_INTERVAL);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_finish_is_estimated_from_the_steps_of_this_run_alone() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let check = |first_step, step, steps, latest, wanted: Option<u64>| {
            let pace = Pace { started: at(1000), first_step, latest: at(latest), step, steps };
            assert_eq!(estimated_finish(pace), wanted.map(at), "{pace:?}");
        };
        check(1, 51, 101, 1100, Some(1200));
        check(900, 950, 1000, 1100, Some(1200));
        check(1, 101, 101, 1100, Some(1100));
        check(1, 1, 101, 1000, None);
        check(5, 1, 101, 1100, None);
        check(1, 51, 101, 900, None);
        check(1, 2, u64::MAX, 1100, None);
    }

    #[test]
    fn metrics_pass_twice_a_second() {
        let start = Instant::now();
        let mut pace = MetricsPace::default();
        for (millis, due) in [(0, true), (10, false), (499, false), (500, true), (999, false), (5000, true)] {
            assert_eq!(pace.is_due(start + Duration::from_millis(millis)), due, "after {millis} ms");
        }
    }
}

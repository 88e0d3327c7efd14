//! How fast a run goes, validation and checkpoints included. Time is an argument.

use std::time::Instant;

/// Rows and tokens since a run began, or was gone on with.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    began_at: Instant,
    rows: usize,
    tokens: usize,
}

impl Pace {
    pub(super) fn starting(now: Instant) -> Self {
        Self { began_at: now, rows: 0, tokens: 0 }
    }

    pub(super) fn count(&mut self, rows: usize, tokens: usize) {
        self.rows += rows;
        self.tokens += tokens;
    }

    /// Rows and tokens a second until `now`.
    pub(super) fn per_second(&self, now: Instant) -> (f64, f64) {
        let seconds = now.saturating_duration_since(self.began_at).as_secs_f64().max(1e-9);
        (self.rows as f64 / seconds, self.tokens as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rates_are_over_the_whole_time() {
        let now = Instant::now();
        let mut pace = Pace::starting(now);
        pace.count(30, 600);
        pace.count(10, 200);
        assert_eq!(pace.per_second(now + Duration::from_secs(4)), (10.0, 200.0));
    }
}

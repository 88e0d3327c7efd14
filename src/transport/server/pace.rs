//! How far a peer is behind the least rate: one number that bytes push ahead of the clock. Pure: time is an argument.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A moment, in microseconds since the process first asked: it fits in an atomic.
pub(super) type Micros = u64;

pub(super) const SECOND: Micros = 1_000_000;

/// What came faster than the least rate is credit for this long at most: one burst must not buy minutes of silence.
const CREDIT_MAX: Micros = SECOND / 2;

pub(super) fn now() -> Micros {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    micros(START.elapsed())
}

pub(super) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// When the peer's next byte is due at the least rate.
#[derive(Default)]
pub(super) struct Pace(AtomicU64);

impl Pace {
    pub(super) fn restart(&self, now: Micros) {
        self.0.store(now, Relaxed);
    }

    /// Counts `bytes` that came, or were taken, at `now`. One caller at a time; a race between two loses a piece's credit.
    pub(super) fn advance(&self, bytes: usize, now: Micros, bytes_per_second: u64) {
        let bought = (bytes as u64).saturating_mul(SECOND) / bytes_per_second.max(1);
        let due = self.0.load(Relaxed).saturating_add(bought);
        self.0.store(due.min(now + CREDIT_MAX), Relaxed);
    }

    /// For `ours`, the peer waited for us: that is not its fault.
    pub(super) fn excuse(&self, ours: Micros) {
        self.0.fetch_add(ours, Relaxed);
    }

    /// How long ago the next byte was due.
    pub(super) fn lag(&self, now: Micros) -> Micros {
        now.saturating_sub(self.0.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as (second, bytes) at a least rate of 500 bytes/s; the lag in seconds at the last one.
    fn lag(bytes: &[(u64, usize)], at: u64) -> u64 {
        let pace = Pace::default();
        pace.restart(0);
        for (second, bytes) in bytes {
            pace.advance(*bytes, second * SECOND, 500);
        }
        pace.lag(at * SECOND) / SECOND
    }

    #[test]
    fn silence_is_lag_and_bytes_at_the_least_rate_are_not() {
        assert_eq!(lag(&[], 7), 7);
        let at_the_rate: Vec<_> = (1..=60).map(|second| (second, 500)).collect();
        assert_eq!(lag(&at_the_rate, 60), 0);
        let dripped: Vec<_> = (1..=60).map(|second| (second, 1)).collect();
        assert_eq!(lag(&dripped, 60), 59);
        let half_of_it: Vec<_> = (1..=60).map(|second| (second, 250)).collect();
        assert_eq!(lag(&half_of_it, 60), 30);
    }

    #[test]
    fn a_burst_buys_a_moment_of_silence_and_not_an_hour() {
        assert_eq!(lag(&[(0, 2 << 20)], 1), 0);
        assert_eq!(lag(&[(0, 2 << 20)], 11), 10);
        assert_eq!(lag(&[(9, 2 << 20)], 9), 0);
    }

    #[test]
    fn a_late_piece_pays_a_debt_and_our_own_time_is_excused() {
        assert_eq!(lag(&[(10, 5000)], 10), 0);
        let pace = Pace::default();
        pace.restart(0);
        pace.excuse(30 * SECOND);
        assert_eq!(pace.lag(31 * SECOND), SECOND);
    }
}

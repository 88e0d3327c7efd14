//! When requests are due: a Poisson process. A pure function of seed and rate.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The moments after a stage's start at which requests are due, ascending, without end.
pub(super) struct Arrivals {
    draw: ChaCha8Rng,
    /// A second.
    rate: f64,
    /// In seconds; f64, so that rounding to nanoseconds does not add up.
    at: f64,
}

impl Arrivals {
    pub(super) fn new(seed: u64, rate: f64) -> Self {
        Self { draw: ChaCha8Rng::seed_from_u64(seed), rate, at: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    /// Gaps between Poisson arrivals are exponential: `-ln(1 - u) / rate`.
    fn next(&mut self) -> Option<Duration> {
        self.at += -(1.0 - self.draw.random::<f64>()).ln() / self.rate;
        Duration::try_from_secs_f64(self.at).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_a_function_of_seed_and_rate() {
        let first = |seed, rate| Arrivals::new(seed, rate).take(1000).collect::<Vec<_>>();
        assert_eq!(first(7, 100.0), first(7, 100.0));
        assert_ne!(first(7, 100.0), first(8, 100.0));
        // Twice the rate is the same process in half the time.
        for (slow, fast) in first(7, 100.0).iter().zip(first(7, 200.0)) {
            assert!((slow.as_secs_f64() - 2.0 * fast.as_secs_f64()).abs() < 1e-6);
        }
    }

    #[test]
    fn counts_in_equal_times_have_a_poisson_laws_mean_and_variance() {
        let (rate, seconds) = (50.0, 4000);
        let mut counts = vec![0f64; seconds];
        for at in Arrivals::new(3, rate).map(|at| at.as_secs() as usize).take_while(|&at| at < seconds) {
            counts[at] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / seconds as f64;
        let variance = counts.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / seconds as f64;
        // Standard errors: 0.11 of the mean, 1.1 of the variance; four of each.
        assert!((mean - rate).abs() < 0.45, "mean {mean}");
        assert!((variance - rate).abs() < 4.5, "variance {variance}");
    }
}

//! Exact percentiles of durations, kept as whole microseconds.

use std::time::Duration;

use serde::Serialize;

/// Durations in microseconds: 4 bytes each, and an hour fits.
#[derive(Default)]
pub(super) struct Latencies(Vec<u32>);

/// Ascending.
pub(super) struct Sorted(Vec<u32>);

/// In milliseconds; percentiles by nearest rank, so each is a duration that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: f64,
}

/// Points of a curve in each tenfold of 1 / (1 - quantile).
const POINTS_A_DECADE: usize = 24;

impl Latencies {
    pub(super) fn push(&mut self, duration: Duration) {
        self.0.push(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX));
    }

    pub(super) fn sorted(mut self) -> Sorted {
        self.0.sort_unstable();
        Sorted(self.0)
    }
}

impl Sorted {
    /// In milliseconds. `quantile` in [0, 1]; None if nothing was seen.
    pub(super) fn at(&self, quantile: f64) -> Option<f64> {
        let rank = (quantile * self.0.len() as f64).ceil() as usize;
        let at = rank.max(1).min(self.0.len()).checked_sub(1)?;
        Some(f64::from(self.0[at]) / 1000.0)
    }

    pub(super) fn summary(&self) -> Option<Summary> {
        let sum: u64 = self.0.iter().map(|&us| u64::from(us)).sum();
        Some(Summary {
            mean: sum as f64 / 1000.0 / self.0.len() as f64,
            p50: self.at(0.5)?,
            p90: self.at(0.9)?,
            p95: self.at(0.95)?,
            p99: self.at(0.99)?,
            p99_9: self.at(0.999)?,
            max: self.at(1.0)?,
        })
    }

    /// Quantile and milliseconds, from the smallest to the last quantile that this many durations can tell.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        let decades = (self.0.len() as f64).log10();
        let points = (decades * POINTS_A_DECADE as f64).floor() as usize;
        let quantiles = (0..=points).map(|k| 1.0 - 10f64.powf(-(k as f64) / POINTS_A_DECADE as f64));
        quantiles.filter_map(|quantile| Some((quantile, self.at(quantile)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn of(milliseconds: impl IntoIterator<Item = u64>) -> Sorted {
        let mut latencies = Latencies::default();
        milliseconds.into_iter().for_each(|ms| latencies.push(Duration::from_millis(ms)));
        latencies.sorted()
    }

    #[test]
    fn a_percentile_is_the_nearest_rank_of_a_plain_sort() {
        let mut draw = ChaCha8Rng::seed_from_u64(1);
        for count in (1..=120).chain([1000, 4097]) {
            let seen: Vec<u64> = (0..count).map(|_| draw.random_range(0..5000)).collect();
            let sorted = of(seen.iter().copied());
            for percent in [1usize, 50, 90, 95, 99, 100] {
                // The smallest duration that at least so many percent do not exceed.
                let is_enough = |ms: &u64| seen.iter().filter(|&other| other <= ms).count() * 100 >= percent * count;
                let wanted = *seen.iter().filter(|ms| is_enough(ms)).min().unwrap();
                assert_eq!(sorted.at(percent as f64 / 100.0), Some(wanted as f64), "{percent} % of {count}");
            }
        }
    }

    #[test]
    fn nothing_seen_has_no_percentiles() {
        assert_eq!((of([]).at(0.5), of([]).summary()), (None, None));
        assert!(of([]).curve().is_empty());
    }

    #[test]
    fn a_summary_is_in_milliseconds() {
        let summary = of(1..=1000).summary().unwrap();
        let wanted = Summary { mean: 500.5, p50: 500.0, p90: 900.0, p95: 950.0, p99: 990.0, p99_9: 999.0, max: 1000.0 };
        assert_eq!(summary, wanted);
    }

    #[test]
    fn a_curve_ascends_and_ends_where_the_count_ends() {
        let curve = of(1..=1000).curve();
        assert!(curve.is_sorted());
        assert!((curve.last().unwrap().0 - 0.999).abs() < 1e-9);
    }

    #[test]
    fn a_duration_past_the_hour_is_not_lost() {
        let mut latencies = Latencies::default();
        latencies.push(Duration::from_secs(1 << 20));
        assert_eq!(latencies.sorted().at(1.0), Some(f64::from(u32::MAX) / 1000.0));
    }
}

//! Means, their spread, and how sure a difference between two arms is. Pure: the same rows and seed, the same figures.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::training::study::row::Outcomes;

/// Draws of a bootstrap: the ends of an interval then move by less than a tenth of its length from seed to seed.
pub(super) const RESAMPLES: usize = 1000;

/// Of all intervals of a report.
const BOOTSTRAP_SEED: u64 = 20_250_711;

/// Mean, and the sample's standard deviation, which a single number does not have. None of nothing.
pub fn mean_and_spread(numbers: &[f64]) -> Option<(f64, Option<f64>)> {
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
    let spread = (numbers.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
    (!numbers.is_empty()).then_some((mean, spread))
}

/// Two arms on one set: outcomes by seed, of the same test rows.
pub struct Paired<'a> {
    pub a: Vec<&'a Outcomes>,
    pub b: Vec<&'a Outcomes>,
}

/// A difference of means over sets, and where 95 % of its resamples lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    pub sets: usize,
    /// Sets on which `a` is better, and worse.
    pub wins: usize,
    pub losses: usize,
}

/// `a − b`, averaged over seeds, then over sets. The bootstrap draws sets, and of each set drawn its test rows, both with
/// replacement; both arms and all seeds see the same rows, so what is common to them cancels. None without a set.
pub fn difference(sets: &[Paired<'_>], resamples: usize) -> Option<Difference> {
    let each: Vec<f64> = sets.iter().map(|set| set.difference(&places(set.rows()))).collect();
    let (mean, _) = mean_and_spread(&each)?;
    let mut rng = ChaCha8Rng::seed_from_u64(BOOTSTRAP_SEED);
    let mut means: Vec<f64> = (0..resamples).map(|_| resampled(sets, &mut rng)).collect();
    means.sort_by(f64::total_cmp);
    let quantile =
        |share: f64| means.get((share * (resamples.max(1) - 1) as f64).round() as usize).copied().unwrap_or(mean);
    let count = |of: fn(f64) -> bool| each.iter().filter(|difference| of(**difference)).count();
    Some(Difference {
        mean,
        low: quantile(0.025),
        high: quantile(0.975),
        sets: each.len(),
        wins: count(|d| d > 0.0),
        losses: count(|d| d < 0.0),
    })
}

fn resampled(sets: &[Paired<'_>], rng: &mut ChaCha8Rng) -> f64 {
    let mut sum = 0.0;
    for _ in 0..sets.len() {
        let set = &sets[rng.random_range(0..sets.len())];
        let rows = set.rows();
        let drawn: Vec<usize> = (0..rows).map(|_| rng.random_range(0..rows)).collect();
        sum += set.difference(&drawn);
    }
    sum / sets.len() as f64
}

fn places(rows: usize) -> Vec<usize> {
    (0..rows).collect()
}

impl Paired<'_> {
    /// Test rows that all have.
    fn rows(&self) -> usize {
        self.a.iter().chain(&self.b).map(|outcomes| outcomes.rows()).min().unwrap_or(0)
    }

    fn difference(&self, places: &[usize]) -> f64 {
        let mean = |seeds: &[&Outcomes]| {
            let scores: f64 = seeds.iter().map(|outcomes| outcomes.score(places.iter().copied())).sum();
            scores / seeds.len().max(1) as f64
        };
        mean(&self.a) - mean(&self.b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(rows: &str) -> Outcomes {
        Outcomes::Right(rows.to_owned())
    }

    fn close(got: f64, wanted: f64) {
        assert!((got - wanted).abs() < 1e-12, "{got} is not {wanted}");
    }

    #[test]
    fn means_and_spreads_are_those_worked_out_by_hand() {
        assert_eq!(mean_and_spread(&[]), None);
        assert_eq!(mean_and_spread(&[0.5]), Some((0.5, None)));
        let (mean, spread) = mean_and_spread(&[2.0, 4.0, 4.0, 6.0]).expect("four numbers");
        close(mean, 4.0);
        close(spread.expect("a spread"), (8.0f64 / 3.0).sqrt());
    }

    #[test]
    fn scores_are_accuracy_and_micro_f1() {
        close(right("1101").score(0..4), 0.75);
        close(right("1101").score([2, 2, 0].into_iter()), 1.0 / 3.0);
        // found 3, made up 2, missed 1: P = 3/5, R = 3/4, F1 = 2/3
        let spans = Outcomes::Spans(vec![[1, 2, 0], [2, 0, 1]]);
        close(spans.score(0..2), 2.0 / 3.0);
        close(Outcomes::Spans(vec![[0, 0, 0]]).score(0..1), 0.0);
    }

    #[test]
    fn a_difference_is_averaged_over_seeds_and_then_over_sets() {
        let rows = [right("1110"), right("1100"), right("0100"), right("10"), right("11"), right("00")];
        let sets = [
            Paired { a: vec![&rows[0], &rows[1]], b: vec![&rows[2]] },
            Paired { a: vec![&rows[3]], b: vec![&rows[4]] },
            Paired { a: vec![&rows[5]], b: vec![&rows[5]] },
        ];
        let found = difference(&sets, 200).expect("three sets");
        // (0.75 + 0.5)/2 − 0.25 = 0.375; 0.5 − 1 = −0.5; 0
        close(found.mean, (0.375 - 0.5) / 3.0);
        assert_eq!((found.sets, found.wins, found.losses), (3, 1, 1));
        assert!(found.low <= found.mean && found.mean <= found.high);
        assert_eq!(difference(&sets, 200), Some(found));
        assert_eq!(difference(&[], 200), None);
    }

    #[test]
    fn the_interval_is_that_of_the_binomial_where_that_is_known() {
        // One set; a is right on 60 of 100 rows, b on none: the share's 95 % interval is about 0.6 ± 1.96·√(0.6·0.4/100).
        let (a, b) = (right(&("1".repeat(60) + &"0".repeat(40))), right(&"0".repeat(100)));
        let found = difference(&[Paired { a: vec![&a], b: vec![&b] }], RESAMPLES).expect("one set");
        let half = 1.96 * (0.24f64 / 100.0).sqrt();
        assert!((found.low - (0.6 - half)).abs() < 0.015 && (found.high - (0.6 + half)).abs() < 0.015, "{found:?}");
    }

    #[test]
    fn what_two_arms_have_in_common_cancels() {
        let same = right(&"10".repeat(50));
        let found = difference(&[Paired { a: vec![&same], b: vec![&same] }], RESAMPLES).expect("one set");
        assert_eq!((found.mean, found.low, found.high), (0.0, 0.0, 0.0));
    }
}

//! Which adapter a request names: Zipf's law over their order.

/// Shares of `n` items: the i-th (from 1) has `i^-exponent` of the first's.
pub(super) struct Zipf {
    /// Ascending; the last is 1.
    cumulative: Vec<f64>,
}

impl Zipf {
    /// `items` at least 1; `exponent` 0 is uniform.
    pub(super) fn new(items: usize, exponent: f64) -> Self {
        let weights = (1..=items).map(|rank| (rank as f64).powf(-exponent));
        let total: f64 = weights.clone().sum();
        let cumulative = weights.scan(0.0, |sum, weight| {
            *sum += weight / total;
            Some(*sum)
        });
        Self { cumulative: cumulative.collect() }
    }

    /// The item, counted from 0, that `uniform` in [0, 1) falls on.
    pub(super) fn pick(&self, uniform: f64) -> usize {
        let at = self.cumulative.partition_point(|&share| share <= uniform);
        at.min(self.cumulative.len() - 1) // rounding may leave the last share just under 1
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn frequencies_follow_the_law() {
        for (items, exponent) in [(1, 1.0), (4, 0.0), (10, 1.0), (200, 1.2)] {
            let (zipf, mut draw) = (Zipf::new(items, exponent), ChaCha8Rng::seed_from_u64(5));
            let draws = 200_000;
            let mut counts = vec![0f64; items];
            (0..draws).for_each(|_| counts[zipf.pick(draw.random())] += 1.0);
            let total: f64 = (1..=items).map(|rank| (rank as f64).powf(-exponent)).sum();
            for (at, count) in counts.iter().enumerate() {
                let wanted = ((at + 1) as f64).powf(-exponent) / total * f64::from(draws);
                // Five standard errors of a count.
                assert!(
                    (count - wanted).abs() <= 5.0 * wanted.sqrt(),
                    "{items} {exponent} item {at}: {count} {wanted}"
                );
            }
        }
    }

    #[test]
    fn the_ends_of_the_unit_interval_are_items() {
        let zipf = Zipf::new(3, 1.0);
        assert_eq!((zipf.pick(0.0), zipf.pick(1.0 - f64::EPSILON), zipf.pick(1.0)), (0, 2, 2));
    }
}

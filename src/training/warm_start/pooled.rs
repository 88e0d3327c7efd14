//! Texts as unit vectors, and how a slope by the unit vectors goes back to hidden states. On plain numbers.

/// Below it a vector has no direction to keep.
const LENGTH_MIN: f32 = 1e-12;

/// The mean of a sequence's hidden states: its direction, its length, and over how many tokens it went.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pooled {
    pub unit: Vec<f32>,
    pub length: f32,
    tokens: usize,
}

impl Pooled {
    /// One for each sequence of `hidden`, row-major (tokens, width); `bounds` cut it, from 0.
    pub(super) fn all(hidden: &[f32], bounds: &[usize], width: usize) -> Vec<Self> {
        bounds.windows(2).map(|ends| Self::new(&hidden[ends[0] * width..ends[1] * width], width)).collect()
    }

    fn new(rows: &[f32], width: usize) -> Self {
        let tokens = rows.len() / width;
        let mut unit = vec![0.0; width];
        rows.chunks_exact(width).for_each(|row| add(&mut unit, row, 1.0 / tokens as f32));
        let length = dot(&unit, &unit).sqrt().max(LENGTH_MIN);
        unit.iter_mut().for_each(|x| *x /= length);
        Self { unit, length, tokens }
    }

    /// The slope by each token's hidden state, (tokens, width), from the slope by the unit vector.
    pub(super) fn scatter(&self, slope: &[f32]) -> Vec<f32> {
        let along = dot(slope, &self.unit);
        let scale = 1.0 / (self.length * self.tokens as f32);
        let row: Vec<f32> = slope.iter().zip(&self.unit).map(|(slope, x)| (slope - along * x) * scale).collect();
        row.repeat(self.tokens)
    }
}

/// `sum += factor·x`
pub(super) fn add(sum: &mut [f32], x: &[f32], factor: f32) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_the_difference_quotient() {
        let hidden = [0.5, -1.0, 2.0, 0.25, 1.5, -0.75, 3.0, 0.1, -0.4];
        let (bounds, width, wanted) = ([0, 2, 3], 3, [0.3, -0.7, 1.1]);
        let value = |hidden: &[f32]| -> f32 {
            Pooled::all(hidden, &bounds, width).iter().map(|pooled| dot(&pooled.unit, &wanted)).sum()
        };
        let slopes: Vec<f32> =
            Pooled::all(&hidden, &bounds, width).iter().flat_map(|pooled| pooled.scatter(&wanted)).collect();
        for (at, slope) in slopes.iter().enumerate() {
            let moved = |by: f32| {
                let mut hidden = hidden;
                hidden[at] += by;
                value(&hidden)
            };
            let quotient = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((quotient - slope).abs() < 1e-3, "number {at}: {quotient}, {slope}");
        }
    }
}

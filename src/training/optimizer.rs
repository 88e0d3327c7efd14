//! AdamW (Loshchilov and Hutter 2019) over one flat vector of weights, in parameter groups; and clipping by the gradient's norm.

use std::ops::Range;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Weights that are treated alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub range: Range<usize>,
    /// Times the schedule's learning rate.
    pub rate: f64,
    /// Decoupled: taken from the weight itself, not through the gradient.
    pub weight_decay: f64,
}

/// The running moments of every weight's gradient.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AdamW {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    /// Updates made.
    pub updates: u64,
}

impl AdamW {
    pub(super) fn new(weights: usize) -> Self {
        Self { first: vec![0.0; weights], second: vec![0.0; weights], updates: 0 }
    }

    /// One update of `weights`, with bias-corrected moments.
    pub(super) fn update(&mut self, weights: &mut [f32], gradient: &[f32], groups: &[Group], learning_rate: f64) {
        self.updates += 1;
        let exponent = self.updates as f64;
        let correction_1 = 1.0 - BETA_1.powf(exponent);
        let correction_2 = (1.0 - BETA_2.powf(exponent)).sqrt();
        for group in groups {
            let rate = learning_rate * group.rate;
            let keep = (1.0 - rate * group.weight_decay) as f32;
            for i in group.range.clone() {
                let slope = f64::from(gradient[i]);
                let first = BETA_1 * f64::from(self.first[i]) + (1.0 - BETA_1) * slope;
                let second = BETA_2 * f64::from(self.second[i]) + (1.0 - BETA_2) * slope * slope;
                let step = rate / correction_1 * first / (second.sqrt() / correction_2 + EPSILON);
                weights[i] = weights[i] * keep - step as f32;
                (self.first[i], self.second[i]) = (first as f32, second as f32);
            }
        }
    }
}

/// Scales `gradient` down to the Euclidean norm `norm_max` if it is longer; returns the norm it had.
pub(super) fn clip(gradient: &mut [f32], norm_max: f64) -> f64 {
    let norm = gradient.iter().map(|&slope| f64::from(slope).powi(2)).sum::<f64>().sqrt();
    if norm > norm_max {
        let scale = (norm_max / norm) as f32;
        gradient.iter_mut().for_each(|slope| *slope *= scale);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three updates of two weights at rate 0.1 and decay 0.5, worked out by hand from the formula of PyTorch's `AdamW`:
    /// weight ← weight·(1 − rate·decay) − rate/(1 − β₁ᵗ)·m / (√v/√(1 − β₂ᵗ) + ε).
    #[test]
    fn three_updates_equal_the_reference_formula() {
        let mut adam = AdamW::new(2);
        let mut weights = vec![1.0, -2.0];
        let group = [Group { range: 0..2, rate: 1.0, weight_decay: 0.5 }];
        let table = [
            ([0.5, -1.0], [0.85, -1.8]),
            ([0.5, 1.0], [0.7075, -1.715_263_16]),
            ([-1.0, 0.0], [0.679_689_94, -1.633_568_44]),
        ];
        for (gradient, expected) in table {
            adam.update(&mut weights, &gradient, &group, 0.1);
            for (got, wanted) in weights.iter().zip(expected) {
                assert!((got - wanted as f32).abs() < 2e-6, "{weights:?}, {expected:?} wanted");
            }
        }
    }

    #[test]
    fn each_group_has_its_own_rate_and_decay() {
        let groups = [
            Group { range: 0..1, rate: 1.0, weight_decay: 0.0 },
            Group { range: 1..2, rate: 5.0, weight_decay: 0.0 },
            Group { range: 2..3, rate: 0.0, weight_decay: 9.0 },
        ];
        let mut weights = vec![0.0; 3];
        AdamW::new(3).update(&mut weights, &[1.0; 3], &groups, 0.01);
        assert!((weights[0] + 0.01).abs() < 1e-6 && (weights[1] + 0.05).abs() < 1e-6, "{weights:?}");
        assert_eq!(weights[2], 0.0);
    }

    #[test]
    fn only_a_long_gradient_is_shortened() {
        let mut gradient = [3.0, 4.0];
        assert_eq!(clip(&mut gradient, 10.0), 5.0);
        assert_eq!(gradient, [3.0, 4.0]);
        assert_eq!(clip(&mut gradient, 1.0), 5.0);
        assert_eq!(gradient, [0.6, 0.8]);
    }
}

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
        let step = self.next_step(learning_rate, 1.0);
        for group in groups {
            let range = group.range.clone();
            let (first, second) = (&mut self.first[range.clone()], &mut self.second[range.clone()]);
            step.apply(group, &mut weights[range.clone()], &gradient[range], first, second);
        }
    }

    /// The same on `threads` threads, of `gradient` times `scale`. The groups ascend without gaps; whatever the number of
    /// threads, the result is the same.
    pub(super) fn update_parallel(
        &mut self,
        weights: &mut [f32],
        gradient: &[f32],
        groups: &[Group],
        learning_rate: f64,
        scale: f64,
        threads: usize,
    ) {
        let step = self.next_step(learning_rate, scale);
        let (mut weights, mut first, mut second) = (weights, &mut self.first[..], &mut self.second[..]);
        let share = weights.len().div_ceil(threads.max(1)).max(1);
        let mut parts: Vec<Vec<Part<'_>>> = Vec::new();
        let mut room = 0;
        for group in groups {
            let len = group.range.len();
            if room == 0 {
                parts.push(Vec::new());
                room = share;
            }
            room = room.saturating_sub(len);
            let part = Part {
                group,
                weights: weights.split_off_mut(..len).unwrap_or_default(),
                gradient: &gradient[group.range.clone()],
                first: first.split_off_mut(..len).unwrap_or_default(),
                second: second.split_off_mut(..len).unwrap_or_default(),
            };
            if let Some(last) = parts.last_mut() {
                last.push(part);
            }
        }
        std::thread::scope(|scope| {
            for part in parts {
                scope.spawn(move || part.into_iter().for_each(|part| part.apply(step)));
            }
        });
    }

    fn next_step(&mut self, learning_rate: f64, scale: f64) -> Step {
        self.updates += 1;
        let exponent = self.updates as f64;
        Step {
            learning_rate,
            scale,
            correction_1: 1.0 - BETA_1.powf(exponent),
            correction_2: (1.0 - BETA_2.powf(exponent)).sqrt(),
        }
    }
}

/// One group's numbers.
struct Part<'a> {
    group: &'a Group,
    weights: &'a mut [f32],
    gradient: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Part<'_> {
    fn apply(self, step: Step) {
        step.apply(self.group, self.weights, self.gradient, self.first, self.second);
    }
}

/// What all weights of one update share.
#[derive(Clone, Copy)]
struct Step {
    learning_rate: f64,
    /// Times the gradient.
    scale: f64,
    correction_1: f64,
    correction_2: f64,
}

impl Step {
    fn apply(self, group: &Group, weights: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        let rate = self.learning_rate * group.rate;
        let keep = (1.0 - rate * group.weight_decay) as f32;
        let moments = first.iter_mut().zip(second);
        for ((weight, &slope), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
            let slope = f64::from(slope) * self.scale;
            let mean = BETA_1 * f64::from(*first) + (1.0 - BETA_1) * slope;
            let square = BETA_2 * f64::from(*second) + (1.0 - BETA_2) * slope * slope;
            let step = rate / self.correction_1 * mean / (square.sqrt() / self.correction_2 + EPSILON);
            *weight = *weight * keep - step as f32;
            (*first, *second) = (mean as f32, square as f32);
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
    fn threads_make_no_difference() {
        let groups: Vec<Group> = [0..3, 3..4, 4..11, 11..20]
            .into_iter()
            .enumerate()
            .map(|(i, range)| Group { range, rate: 1.0 + i as f64, weight_decay: 0.1 })
            .collect();
        let gradient: Vec<f32> = (0..20).map(|i| (i as f32 - 9.5) / 3.0).collect();
        let half: Vec<f32> = gradient.iter().map(|slope| slope * 0.5).collect();
        let (mut alone, mut wanted) = (AdamW::new(20), vec![0.5; 20]);
        (0..3).for_each(|_| alone.update(&mut wanted, &half, &groups, 0.01));
        for threads in 1..6 {
            let (mut adam, mut weights) = (AdamW::new(20), vec![0.5; 20]);
            (0..3).for_each(|_| adam.update_parallel(&mut weights, &gradient, &groups, 0.01, 0.5, threads));
            assert_eq!((&weights, &adam), (&wanted, &alone), "{threads} threads");
        }
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

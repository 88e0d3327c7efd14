//! Whether the families pull the backbone apart: how the gradients of their losses agree, freed of the noise of micro-batches.
//!
//! A micro-batch's gradient is mostly noise, and noise in millions of dimensions is orthogonal: the cosine of single steps is near 0
//! whatever the families want. So the weights are held still, fresh micro-batches are summed in two halves, and products of
//! sums whose noise is independent stand for what is asked: with N₁, N₂ one family's halves and C₁, C₂ the other's,
//! cos = ⟨N₁+N₂, C₁+C₂⟩ / 4√(⟨N₁,N₂⟩⟨C₁,C₂⟩), Spearman's correction for attenuation (1904).

use std::ops::Range;

use serde_json::{Value, json};

use crate::training::pre_finetune::gradient::dot;

/// Of a run's steps, the part whose micro-batches one measurement takes, and the most of them.
const STEPS_A_BATCH: u64 = 40;
const BATCHES_MAX: u64 = 64;

/// Halves whose cosine is lower say nothing of their family's mean.
const RELIABLE: f64 = 0.05;

/// Micro-batches of each family in one measurement: an even number.
pub(super) fn batches(steps: u64) -> u64 {
    ((steps / STEPS_A_BATCH).clamp(2, BATCHES_MAX) / 2) * 2
}

/// How two families' mean gradients agree in one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layer {
    /// Corrected; None where a family's halves do not agree enough to tell. It may lie outside −1..=1 by what noise is left.
    pub cosine: Option<f64>,
    /// Cosine between each family's own two halves: near 0 they are noise, near 1 the mean gradient.
    pub halves: [f64; 2],
}

/// The same weights' measurement, a layer at a time from the bottom.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conflict {
    pub layers: Vec<Layer>,
}

/// `first` and `second` are the halves; each holds the sum of gradients of either family by all weights.
pub(super) fn conflict(first: &[Vec<f32>], second: &[Vec<f32>], layers: &[Range<usize>]) -> Conflict {
    Conflict { layers: layers.iter().map(|layer| agreement(first, second, layer)).collect() }
}

fn agreement(first: &[Vec<f32>], second: &[Vec<f32>], layer: &Range<usize>) -> Layer {
    let [n1, c1] = [0, 1].map(|family| &first[family][layer.clone()]);
    let [n2, c2] = [0, 1].map(|family| &second[family][layer.clone()]);
    let own = |a: &[f32], b: &[f32]| {
        let lengths = (dot(a, a) * dot(b, b)).sqrt();
        (dot(a, b), if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 })
    };
    let ((ner, ner_halves), (texts, text_halves)) = (own(n1, n2), own(c1, c2));
    let across = dot(n1, c1) + dot(n1, c2) + dot(n2, c1) + dot(n2, c2);
    let tells = ner_halves > RELIABLE && text_halves > RELIABLE;
    Layer { cosine: tells.then(|| across / (4.0 * (ner * texts).sqrt())), halves: [ner_halves, text_halves] }
}

impl Conflict {
    /// (layer, cosine), where there is one.
    pub(super) fn points(&self) -> Vec<(f64, f64)> {
        let cosines = self.layers.iter().enumerate();
        cosines.filter_map(|(layer, agreement)| Some((layer as f64, agreement.cosine?))).collect()
    }

    pub(super) fn to_json(&self) -> Value {
        let halves = |family: usize| self.layers.iter().map(|layer| layer.halves[family]).collect::<Vec<_>>();
        json!({
            "cosine": self.layers.iter().map(|layer| layer.cosine).collect::<Vec<_>>(),
            "ner_halves": halves(0),
            "classify_halves": halves(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const WEIGHTS: usize = 20_000;

    /// Sums of `batches` gradients: what both families want along `shared`, what each wants of its own, and noise twice as long.
    fn half(shared: f32, seed: u64) -> Vec<Vec<f32>> {
        let mut noise = ChaCha8Rng::seed_from_u64(seed);
        let mut of_family = |own: usize| -> Vec<f32> {
            let mut gradient: Vec<f32> = (0..WEIGHTS).map(|_| noise.random_range(-1.0..1.0)).collect();
            gradient[..4000].iter_mut().for_each(|x| *x += if own == 0 { 0.6 } else { 0.6 * shared });
            gradient[4000 * (own + 1)..4000 * (own + 2)]
                .iter_mut()
                .for_each(|x| *x += 0.6 * (1.0 - shared * shared).sqrt());
            gradient
        };
        vec![of_family(0), of_family(1)]
    }

    #[test]
    fn the_cosine_of_the_means_is_found_under_noise() {
        for (shared, least, most) in [(1.0, 0.9, 1.1), (0.0, -0.1, 0.1), (-1.0, -1.1, -0.9)] {
            let found = conflict(&half(shared, 1), &half(shared, 2), from_ref(&(0..WEIGHTS))).layers[0];
            let cosine = found.cosine.expect("the halves agree");
            assert!(cosine >= least && cosine <= most, "{shared}: {found:?}");
            assert!(found.halves.iter().all(|&halves| halves < 0.4), "noise is most of it: {found:?}");
        }
    }

    #[test]
    fn halves_of_noise_alone_tell_nothing() {
        let noise = |seed| half(0.0, seed).into_iter().map(|sum| sum[12_000..].to_vec()).collect::<Vec<_>>();
        assert_eq!(conflict(&noise(1), &noise(2), from_ref(&(0..8000))).layers[0].cosine, None);
        let nothing = vec![vec![0.0; 4]; 2];
        assert_eq!(
            conflict(&nothing, &nothing, from_ref(&(0..4))).layers[0],
            Layer { cosine: None, halves: [0.0, 0.0] }
        );
    }

    #[test]
    fn a_measurement_is_small_beside_its_run() {
        for (steps, expected) in [(1, 2), (100, 2), (1200, 30), (1250, 30), (100_000, 64)] {
            assert_eq!(batches(steps), expected, "{steps} steps");
        }
    }
}

//! SetFit's first stage on LoRA: two texts of a class belong together, texts of other classes apart.

use candle_core::Tensor;
use rand::seq::index;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::WarmStart;
use super::pooled::{Pooled, add, dot};
use crate::domain::{Decay, Result};
use crate::model::Mode;
use crate::training::batches::{Draw, seed_of, shards};
use crate::training::dataset::Example;
use crate::training::objective::contrast;
use crate::training::optimizer::{AdamW, clip};
use crate::training::predict::hidden;
use crate::training::prefix::bounds;
use crate::training::schedule::Schedule;
use crate::training::workers::{Run, Steer};

/// Classes of a step, two texts each: a step then costs as much as two of fine-tuning.
const CLASSES_A_STEP: usize = 32;

/// Times that each text is drawn, about.
const DRAWS_A_TEXT: usize = 5;

/// A few seconds on one core.
const STEPS_MAX: usize = 80;

/// What sentence encoders are usually trained with.
const TEMPERATURE: f32 = 0.05;

/// Of fine-tuning's: what is learnt here is only to begin with.
const RATE: f64 = 0.5;

impl WarmStart<'_> {
    /// How many steps it made of LoRA; None where no two classes have two texts.
    pub(super) fn contrast(&self, weights: &mut [f32], steer: Steer<'_>) -> Run<Option<usize>> {
        let classes = self.classes();
        let drawn = 2 * CLASSES_A_STEP.min(classes.len());
        if classes.len() < 2 {
            return Ok(None);
        }
        let rows: usize = classes.iter().map(Vec::len).sum();
        let steps = (DRAWS_A_TEXT * rows).div_ceil(drawn).min(STEPS_MAX);
        let groups = self.variables.groups_by(|name| {
            let is_lora = name.contains("lora_");
            (f64::from(u8::from(is_lora)), if is_lora { self.recipe.weight_decay } else { 0.0 })
        });
        let schedule = Schedule {
            peak: RATE * self.recipe.learning_rate,
            warmup_steps: steps as u64 / 10,
            steps: steps as u64,
            decay: Decay::Linear,
        };
        let mut adam = AdamW::new(weights.len());
        for step in 0..steps as u64 {
            self.variables.set(weights)?;
            let batch = draw(&classes, seed_of(self.recipe.seed, Draw::Warm, [step, 0]));
            let mut gradient = self.contrast_gradient(&batch, step, steer)?;
            clip(&mut gradient, self.recipe.max_gradient_norm);
            adam.update(weights, &gradient, &groups, schedule.learning_rate(step));
        }
        Ok(Some(steps))
    }

    /// Training rows of each class that has two.
    fn classes(&self) -> Vec<Vec<usize>> {
        let mut classes = vec![Vec::new(); self.adapter.labels.len()];
        for (row, example) in self.examples.iter().enumerate() {
            let Example::Classify { labels, .. } = example else { continue };
            let class = labels.first().and_then(|label| self.adapter.labels.index_of(label));
            class.into_iter().for_each(|class| classes[class].push(row));
        }
        classes.retain(|rows| rows.len() > 1);
        classes
    }

    /// Each thread runs a share of the texts; the loss is of all of them, so its slope is worked out between the passes forward
    /// and backward.
    fn contrast_gradient(&self, batch: &[usize], step: u64, steer: Steer<'_>) -> Run<Vec<f32>> {
        let sequences = &self.training.sequences;
        let shards = shards(batch, self.workers.0, |row| sequences.tokens(row));
        let passes = self.workers.map(shards.len(), steer, |shard| {
            let seed = seed_of(self.recipe.seed, Draw::Warm, [step, 1 + shard as u64]);
            let mode = Mode::Train { dropout: self.recipe.dropout as f32, seed };
            hidden(self.encoder, self.adapter, (sequences, &self.training.prefix), shards[shard], mode)
        })?;
        let mut texts = Vec::new();
        for (states, rows) in passes.iter().zip(&shards) {
            let numbers = states.flatten_all()?.to_vec1::<f32>()?;
            texts.push(Pooled::all(&numbers, &bounds(sequences, rows), states.dim(1)?));
        }
        let slopes = slopes(&texts.iter().flatten().collect::<Vec<_>>());
        let mut left = slopes.into_iter();
        let slopes: Vec<Vec<f32>> = texts
            .iter()
            .map(|texts| texts.iter().zip(left.by_ref()).flat_map(|(text, slope)| text.scatter(&slope)).collect())
            .collect();
        let gradients = self.workers.map(passes.len(), steer, |shard| -> Result<Vec<f32>> {
            let states = &passes[shard];
            let slope = Tensor::from_slice(&slopes[shard], states.shape(), states.device())?;
            let gradients = (states * slope)?.sum_all()?.backward()?;
            self.variables.gradient_where(&gradients, |name| name.contains("lora_"))
        })?;
        let mut sum = vec![0.0; self.variables.len()];
        gradients.iter().for_each(|gradient| add(&mut sum, gradient, 1.0));
        Ok(sum)
    }
}

/// Two rows of some classes: all firsts, then all seconds.
fn draw(classes: &[Vec<usize>], seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let chosen = index::sample(&mut rng, classes.len(), CLASSES_A_STEP.min(classes.len()));
    let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
    for class in chosen {
        let rows = &classes[class];
        let first = rng.random_range(0..rows.len());
        let second = (first + rng.random_range(1..rows.len())) % rows.len();
        firsts.push(rows[first]);
        seconds.push(rows[second]);
    }
    firsts.extend(seconds);
    firsts
}

/// By each text's unit vector; `texts` are the firsts of all classes, then the seconds.
fn slopes(texts: &[&Pooled]) -> Vec<Vec<f32>> {
    let classes = texts.len() / 2;
    let (firsts, seconds) = texts.split_at(classes);
    let cosine = |i: usize, j: usize| dot(&firsts[i].unit, &seconds[j].unit) / TEMPERATURE;
    let logits: Vec<f32> = (0..classes * classes).map(|at| cosine(at / classes, at % classes)).collect();
    let loss = contrast::loss(&logits, classes, |_, _| false);
    let mut slopes = vec![vec![0.0; firsts[0].unit.len()]; texts.len()];
    for (at, slope) in loss.slope.iter().enumerate() {
        let (i, j) = (at / classes, at % classes);
        add(&mut slopes[i], &seconds[j].unit, slope / TEMPERATURE);
        add(&mut slopes[classes + j], &firsts[i].unit, slope / TEMPERATURE);
    }
    slopes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_two_different_rows_of_each_class_it_draws() {
        let classes: Vec<Vec<usize>> =
            (0..40).map(|class| (0..2 + class % 3).map(|i| 10 * class + i).collect()).collect();
        for seed in 0..20 {
            let rows = draw(&classes, seed);
            assert_eq!(rows.len(), 2 * CLASSES_A_STEP);
            let (firsts, seconds) = rows.split_at(CLASSES_A_STEP);
            assert!(firsts.iter().zip(seconds).all(|(a, b)| a / 10 == b / 10 && a != b), "{rows:?}");
            let mut drawn: Vec<usize> = firsts.iter().map(|row| row / 10).collect();
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), CLASSES_A_STEP, "a class is drawn once");
        }
    }

    #[test]
    fn a_step_along_the_slope_brings_the_texts_of_a_class_together() {
        let width = 4;
        let numbers: Vec<f32> = (0..6 * width).map(|i| ((i * 37 % 11) as f32 - 5.0) / 3.0).collect();
        let bounds: Vec<usize> = (0..=6).collect();
        let own = |numbers: &[f32]| -> f32 {
            let texts = Pooled::all(numbers, &bounds, width);
            let logit = |i: usize, j: usize| dot(&texts[i].unit, &texts[3 + j].unit) / TEMPERATURE;
            let logits: Vec<f32> = (0..9).map(|at| logit(at / 3, at % 3)).collect();
            contrast::loss(&logits, 3, |_, _| false).sum as f32
        };
        let texts = Pooled::all(&numbers, &bounds, width);
        let slopes = slopes(&texts.iter().collect::<Vec<_>>());
        let whole: Vec<f32> = texts.iter().zip(&slopes).flat_map(|(text, slope)| text.scatter(slope)).collect();
        for at in 0..numbers.len() {
            let moved = |by: f32| {
                let mut numbers = numbers.clone();
                numbers[at] += by;
                own(&numbers)
            };
            let quotient = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            assert!(
                (quotient - whole[at]).abs() < 2e-2 * (1.0 + quotient.abs()),
                "number {at}: {quotient}, {}",
                whole[at]
            );
        }
    }
}

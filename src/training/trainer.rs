//! The loop: batch, gradient, update; validation at every epoch's end; checkpoints. Leaves what is trained on what to `fine_tune`.

use std::time::{Duration, Instant};

use crate::adapter::AdapterBundle;
use crate::domain::{Decay, Error, GateMetric, Result};
use crate::model::{Encoder, Mode};
use crate::training::batches::{Draw, Epoch, seed_of, shards};
use crate::training::checkpoint::{Best, Checkpoints, State};
use crate::training::evaluate::Evaluation;
use crate::training::fine_tune::{Control, Observer, TrainingEvent};
use crate::training::objective::Targets;
use crate::training::optimizer::{Group, clip};
use crate::training::pace::Pace;
use crate::training::predict::{Held, forward};
use crate::training::schedule::Schedule;
use crate::training::settle::Recipe;
use crate::training::variables::Variables;
use crate::training::workers::{Halt, Run, Workers};

/// What a crash may cost. Writing a checkpoint takes milliseconds: LoRA is small.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(15);

/// One run: what is trained, on what, how.
pub(super) struct Trainer<'a> {
    pub encoder: &'a Encoder,
    /// Made of `variables`.
    pub adapter: &'a AdapterBundle,
    pub variables: &'a Variables,
    pub training: &'a Held<'a>,
    /// Of each training sequence.
    pub targets: &'a [Targets],
    pub validation: &'a Held<'a>,
    /// What the best epoch is chosen by.
    pub metric: GateMetric,
    pub recipe: &'a Recipe,
    pub workers: Workers,
    pub checkpoints: &'a Checkpoints,
}

/// One thread's part of a step.
struct Share {
    loss: f64,
    gradient: Vec<f32>,
}

impl Trainer<'_> {
    /// Trains until the recipe's end or until validation stops getting better. A pause leaves a checkpoint of `state`.
    pub(super) fn run(&self, state: &mut State, observer: &mut dyn Observer) -> Run<Pace> {
        let ended = self.advance(state, observer);
        if let Err(Halt::Stopped(Control::Pause)) = ended {
            self.save(state, observer)?;
        }
        ended
    }

    fn advance(&self, state: &mut State, observer: &mut dyn Observer) -> Run<Pace> {
        let mut pace = Pace::starting(Instant::now());
        let mut saved_at = Instant::now();
        let groups = self.variables.groups(self.recipe);
        let mut epoch = None;
        loop {
            let owes_validation = state.step > state.validated && self.ends_epoch(state.step);
            if owes_validation {
                self.validate(state, observer)?;
            }
            if owes_validation || saved_at.elapsed() >= CHECKPOINT_EVERY {
                self.save(state, observer)?;
                saved_at = Instant::now();
            }
            if self.is_over(state) {
                return Ok(pace);
            }
            match observer.control() {
                Control::Continue => {}
                stop => return Err(Halt::Stopped(stop)),
            }
            let batch = self.batch(state.step, &mut epoch);
            let event = self.step(state, &batch, &groups, &mut pace)?;
            observer.event(event);
        }
    }

    fn ends_epoch(&self, step: u64) -> bool {
        step.is_multiple_of(self.recipe.steps_per_epoch)
    }

    fn is_over(&self, state: &State) -> bool {
        let is_stale = self.recipe.patience > 0 && state.stale_epochs >= self.recipe.patience;
        state.step >= self.recipe.steps || is_stale
    }

    fn save(&self, state: &State, observer: &mut dyn Observer) -> Run<()> {
        let path = self.checkpoints.save(state)?;
        observer.event(TrainingEvent::Checkpoint { step: state.step, path });
        Ok(())
    }

    fn batch(&self, step: u64, current: &mut Option<(u64, Epoch)>) -> Vec<usize> {
        let recipe = self.recipe;
        let (number, index) = (step / recipe.steps_per_epoch, step % recipe.steps_per_epoch);
        if current.as_ref().is_none_or(|&(known, _)| known != number) {
            let epoch = Epoch::new(self.training.sequences.len(), recipe.batch_size, recipe.seed, number);
            *current = Some((number, epoch));
        }
        current.as_ref().map(|(_, epoch)| epoch.batch(index as usize).to_vec()).unwrap_or_default()
    }

    /// One update of all weights.
    fn step(&self, state: &mut State, batch: &[usize], groups: &[Group], pace: &mut Pace) -> Run<TrainingEvent> {
        self.variables.set(&state.weights)?;
        let (loss, mut gradient) = self.gradient(state.step, batch)?;
        self.check_finite(state.step, loss, &gradient)?;
        let recipe = self.recipe;
        clip(&mut gradient, recipe.max_gradient_norm);
        let schedule = Schedule {
            peak: recipe.learning_rate,
            warmup_steps: recipe.warmup_steps,
            steps: recipe.steps,
            decay: Decay::Linear,
        };
        let learning_rate = schedule.learning_rate(state.step);
        state.adam.update(&mut state.weights, &gradient, groups, learning_rate);
        blend(&mut state.average, &state.weights, self.recipe.averaging, state.step);
        state.step += 1;
        state.losses.push(loss as f32);
        pace.count(batch.len(), batch.iter().map(|&row| self.training.sequences.tokens(row)).sum());
        let (rows_per_second, tokens_per_second) = pace.per_second(Instant::now());
        Ok(TrainingEvent::Step {
            step: state.step,
            steps: recipe.steps,
            epoch: self.epoch(state),
            loss,
            learning_rate,
            tokens_per_second,
            rows_per_second,
        })
    }

    /// Counted from 1.
    fn epoch(&self, state: &State) -> u32 {
        state.step.div_ceil(self.recipe.steps_per_epoch) as u32
    }

    /// The batch's mean loss and its gradient: each thread takes a share of the rows, and the shares are summed in their order.
    fn gradient(&self, step: u64, batch: &[usize]) -> Run<(f64, Vec<f32>)> {
        let labels = self.adapter.labels.len();
        let terms: usize = batch.iter().map(|&row| self.targets[row].terms(labels)).sum();
        let scale = 1.0 / terms.max(1) as f64;
        let shards = shards(batch, self.workers.0, |row| self.training.sequences.tokens(row));
        let shares = self.workers.map(shards.len(), &mut || Control::Continue, |shard| {
            let seed = seed_of(self.recipe.seed, Draw::Dropout, [step, shard as u64]);
            self.share(shards[shard], scale, seed)
        })?;
        let mut sum = Share { loss: 0.0, gradient: vec![0.0; self.variables.len()] };
        for share in shares {
            sum.loss += share.loss;
            sum.gradient.iter_mut().zip(&share.gradient).for_each(|(sum, slope)| *sum += slope);
        }
        Ok((sum.loss, sum.gradient))
    }

    /// `rows` forward and backward. The loss is worked out on plain numbers: `Σ logits·slope` has its gradient.
    fn share(&self, rows: &[usize], scale: f64, seed: u64) -> Result<Share> {
        let mode = Mode::Train { dropout: self.recipe.dropout as f32, seed };
        let logits =
            forward(self.encoder, self.adapter, (&self.training.sequences, &self.training.prefix), rows, mode)?;
        let mut targets = self.targets[rows[0]].clone();
        rows[1..].iter().for_each(|&row| targets.extend(&self.targets[row]));
        let loss = targets.loss(&logits.flatten_all()?.to_vec1::<f32>()?, self.adapter.labels.len(), scale);
        let slope = candle_core::Tensor::from_vec(loss.slope, logits.shape(), logits.device())?;
        let gradients = (logits * slope)?.sum_all()?.backward()?;
        Ok(Share { loss: loss.sum, gradient: self.variables.gradient(&gradients)? })
    }

    fn check_finite(&self, step: u64, loss: f64, gradient: &[f32]) -> Result<()> {
        let at = format!("step {}", step + 1);
        if !loss.is_finite() {
            return Err(Error::internal(format!("the loss is {loss} at {at}; a lower learning rate may help")));
        }
        match self.variables.not_finite(gradient) {
            Some(name) => Err(Error::internal(format!("the gradient of {name} is not finite at {at}"))),
            None => Ok(()),
        }
    }

    fn validate(&self, state: &mut State, observer: &mut dyn Observer) -> Run<()> {
        self.variables.set(&state.average)?;
        let steer = &mut || observer.control();
        let evaluation = self.validation.evaluate(self.encoder, self.adapter, "validation", self.workers, steer)?;
        let score = evaluation.metric(self.metric).unwrap_or_default();
        let is_best = state.best.as_ref().is_none_or(|best| score > best.score);
        if is_best {
            state.best = Some(Best { step: state.step, score, weights: state.average.clone() });
        }
        state.validated = state.step;
        state.stale_epochs = if is_best { 0 } else { state.stale_epochs + 1 };
        let (epoch, metrics) = (self.epoch(state), metrics(&evaluation));
        observer.event(TrainingEvent::Validation { step: state.step, epoch, metrics, best: is_best });
        Ok(())
    }
}

/// The exponential mean with `keep` of the old at each step; fewer at the beginning, where the old is the untrained.
fn blend(average: &mut [f32], weights: &[f32], keep: f64, step: u64) {
    let keep = keep.min((1 + step) as f64 / (10 + step) as f64) as f32;
    average.iter_mut().zip(weights).for_each(|(mean, weight)| *mean = keep * *mean + (1.0 - keep) * weight);
}

/// The headline figures of a report.
pub(super) fn metrics(evaluation: &Evaluation) -> Vec<(&'static str, f64)> {
    use GateMetric::{Accuracy, F1, MacroF1, Precision, Recall, WeightedF1};
    let wanted = if evaluation.ner.is_some() {
        [F1, Precision, Recall, MacroF1].as_slice()
    } else {
        &[Accuracy, MacroF1, WeightedF1]
    };
    wanted.iter().filter_map(|&metric| Some((metric.as_str(), evaluation.metric(metric)?))).collect()
}

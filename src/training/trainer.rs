//! The loop: batch, gradient, update; validation where the recipe wants it; checkpoints. Leaves what is trained on what to `fine_tune`.

use std::time::{Duration, Instant};

use crate::adapter::AdapterBundle;
use crate::domain::{Decay, Error, GateMetric, Result};
use crate::model::{Encoder, Mode};
use crate::training::batches::{Draw, Epoch, seed_of, shards};
use crate::training::checkpoint::{Best, Checkpoints, State};
use crate::training::evaluate::{Asked, Evaluation};
use crate::training::fine_tune::{Control, Observer, TrainingEvent, Validated};
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
    /// What chooses among the weights along the way; None: the last ones are kept.
    pub judge: Option<Judge<'a>>,
    pub recipe: &'a Recipe,
    pub workers: Workers,
    pub checkpoints: &'a Checkpoints,
}

/// Rows that choose the best weights, and by what.
pub(super) struct Judge<'a> {
    pub validation: &'a Held<'a>,
    pub asked: Asked,
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
            let owes_validation = state.step > state.validated && self.is_milestone(state.step);
            if owes_validation {
                self.validate(state, observer)?;
            }
            if owes_validation || saved_at.elapsed() >= CHECKPOINT_EVERY {
                self.save(state, observer)?;
                saved_at = Instant::now();
            }
            if self.is_over(state) {
                self.tell_end(state, observer);
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

    fn is_milestone(&self, step: u64) -> bool {
        step.is_multiple_of(self.recipe.validate_every) || step == self.recipe.steps
    }

    fn is_over(&self, state: &State) -> bool {
        state.step >= self.recipe.steps || self.is_stale(state)
    }

    /// Whether validation has been no better for as long as the recipe waits. The warm-up does not count: nothing moves yet.
    fn is_stale(&self, state: &State) -> bool {
        let Recipe { patience_steps, warmup_steps, .. } = *self.recipe;
        let judged = patience_steps > 0 && self.judge.is_some();
        judged && state.validated >= state.improved.max(warmup_steps) + patience_steps
    }

    fn tell_end(&self, state: &State, observer: &mut dyn Observer) {
        if state.step < self.recipe.steps {
            let kept = state.best.as_ref().map_or(state.step, |best| best.step);
            observer.event(TrainingEvent::StoppedEarly { step: state.step, steps: self.recipe.steps, kept });
        }
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

    /// Of equal scores the later one counts as the best: it has seen more. It is no reason to wait longer, though.
    fn validate(&self, state: &mut State, observer: &mut dyn Observer) -> Run<()> {
        let Some(Judge { validation, asked }) = &self.judge else {
            state.validated = state.step;
            return Ok(());
        };
        self.variables.set(&state.average)?;
        let steer = &mut || observer.control();
        let evaluation = validation.evaluate(self.encoder, self.adapter, "validation", *asked, self.workers, steer)?;
        let score = evaluation.metric(asked.metric).unwrap_or_default();
        let before = state.best.as_ref().map(|best| best.score);
        let is_best = before.is_none_or(|before| score >= before);
        if before.is_none_or(|before| score > before) {
            state.improved = state.step;
        }
        if is_best {
            state.best = Some(Best { step: state.step, score, weights: state.average.clone() });
        }
        state.validated = state.step;
        let validated = Validated::of(&evaluation);
        observer.event(TrainingEvent::Validation {
            step: state.step,
            epoch: self.epoch(state),
            validated,
            best: is_best,
        });
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

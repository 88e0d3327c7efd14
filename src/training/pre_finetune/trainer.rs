//! The loop of a run: draw, gradients, update, measure; checkpoints as it goes. Leaves one step's gradients to `step`.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::domain::{Error, Family, PreFinetuneHyperparameters, Result};
use crate::model::{Slot, TrainableEncoder};
use crate::training::checkpoint::Checkpoints;
use crate::training::fine_tune::{Control, Observer, TrainingEvent};
use crate::training::optimizer::{Group, clip};
use crate::training::pace::Pace;
use crate::training::pre_finetune::calibrate::{Calibrated, calibrate};
use crate::training::pre_finetune::conflict::{self, Conflict};
use crate::training::pre_finetune::gradient::{Agreement, Sinks, layers_of};
use crate::training::pre_finetune::pool::Pool;
use crate::training::pre_finetune::primary::Primary;
use crate::training::pre_finetune::read::{Batch, Reader};
use crate::training::pre_finetune::series::{Measurement, POINTS_MAX};
use crate::training::pre_finetune::state::{State, Trained};
use crate::training::pre_finetune::step::{Found, Stepper};
use crate::training::schedule::Schedule;
use crate::training::workers::{Halt, Run, Workers};

/// What a crash may cost. A checkpoint holds all weights with their moments: some hundred megabytes.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(45);

/// Biases and norms do not decay.
fn backbone_groups(encoder: &TrainableEncoder, weight_decay: f64) -> Vec<Group> {
    let group = |slot: Slot| {
        let weight_decay = if slot.shape.len() == 2 { weight_decay } else { 0.0 };
        Group { range: slot.range, rate: 1.0, weight_decay }
    };
    encoder.slots().into_iter().map(group).collect()
}

/// One run: what is trained, on what, how.
pub(super) struct Trainer<'a> {
    asked: &'a PreFinetuneHyperparameters,
    encoder: &'a TrainableEncoder,
    primaries: &'a [Primary],
    reader: Reader<'a>,
    sinks: Sinks,
    layers: Vec<Range<usize>>,
    groups: Vec<Group>,
    checkpoints: &'a Checkpoints,
    workers: Workers,
}

impl<'a> Trainer<'a> {
    pub(super) fn new(
        asked: &'a PreFinetuneHyperparameters,
        encoder: &'a TrainableEncoder,
        primaries: &'a [Primary],
        reader: Reader<'a>,
        checkpoints: &'a Checkpoints,
        workers: Workers,
    ) -> Result<Self> {
        let sinks = Sinks::new(encoder.numbers().len(), workers.0, primaries.len());
        let (layers, groups) = (layers_of(encoder)?, backbone_groups(encoder, asked.weight_decay));
        Ok(Self { asked, encoder, primaries, reader, sinks, layers, groups, checkpoints, workers })
    }

    /// Trains to the last step; steps a second. A pause leaves a checkpoint of `state`.
    pub(super) fn run(&self, state: &mut State, observer: &mut dyn Observer) -> Run<f64> {
        let ended = self.advance(state, observer);
        if let Err(Halt::Stopped(Control::Pause)) = ended {
            self.save(state, observer)?;
        }
        ended
    }

    fn advance(&self, state: &mut State, observer: &mut dyn Observer) -> Run<f64> {
        let asked = self.asked;
        let (began_at, began) = (Instant::now(), state.step);
        let (mut pace, mut saved_at) = (Pace::starting(began_at), began_at);
        let mut gradient = vec![0.0; state.backbone.weights.len()];
        while state.step < asked.steps {
            match observer.control() {
                Control::Continue => {}
                stop => return Err(Halt::Stopped(stop)),
            }
            let event = self.step(state, &mut gradient, &mut pace, observer)?;
            observer.event(event);
            let is_last = state.step == asked.steps;
            if saved_at.elapsed() >= CHECKPOINT_EVERY || is_last {
                self.save(state, observer)?;
                saved_at = Instant::now();
            }
        }
        Ok((state.step - began) as f64 / began_at.elapsed().as_secs_f64().max(1e-9))
    }

    fn save(&self, state: &State, observer: &mut dyn Observer) -> Run<()> {
        let path = self.checkpoints.save(state)?;
        observer.event(TrainingEvent::Checkpoint { step: state.step, path });
        Ok(())
    }

    /// One update of everything.
    fn step(
        &self,
        state: &mut State,
        gradient: &mut [f32],
        pace: &mut Pace,
        observer: &mut dyn Observer,
    ) -> Run<TrainingEvent> {
        let batches = self.prepare(state)?;
        let Self { encoder, primaries, asked, workers, .. } = *self;
        let measures = self.measures(state.step);
        let stepper = Stepper { encoder, primaries, asked, sinks: &self.sinks, workers };
        let mut found = stepper.gradients(&batches, state.step, measures)?;
        let agreement = if measures { self.sinks.agreement(&self.layers, workers)? } else { Vec::new() };
        let norm = self.sinks.drain(gradient, workers).sqrt();
        self.check_finite(state.step, &found, norm)?;
        self.update(state, gradient, norm, &mut found);
        state.step += 1;
        state.series.count(self.by_family(|index| Some(found[index].loss)).map(Option::unwrap_or_default));
        if measures {
            let measurement = self.measure(state, &agreement);
            state.series.points.push(measurement.clone());
            observer.event(TrainingEvent::Measured(measurement));
        }
        pace.count(batches.iter().map(Batch::texts).sum(), batches.iter().map(Batch::tokens).sum());
        Ok(self.made(state.step, &found, pace))
    }

    /// The variables as the state has them, and the step's micro-batches.
    fn prepare(&self, state: &State) -> Result<Vec<Batch>> {
        for (primary, (_, trained)) in self.primaries.iter().zip(&state.primaries) {
            primary.variables.set(&trained.weights)?;
        }
        self.batches(state.step)
    }

    fn batches(&self, step: u64) -> Result<Vec<Batch>> {
        self.primaries.iter().map(|primary| self.reader.batch(primary.family, step)).collect()
    }

    fn measures(&self, step: u64) -> bool {
        let every = self.asked.measure_every.max(self.asked.steps.div_ceil(POINTS_MAX)).max(1);
        step.is_multiple_of(every) || step + 1 == self.asked.steps
    }

    fn made(&self, step: u64, found: &[Found], pace: &Pace) -> TrainingEvent {
        let (rows_per_second, tokens_per_second) = pace.per_second(Instant::now());
        TrainingEvent::Step {
            step,
            steps: self.asked.steps,
            epoch: 1,
            loss: found.iter().map(|found| found.loss).sum(),
            learning_rate: self.rate(self.asked.backbone_learning_rate, step - 1),
            tokens_per_second,
            rows_per_second,
        }
    }

    fn update(&self, state: &mut State, gradient: &[f32], norm: f64, found: &mut [Found]) {
        let asked = self.asked;
        let scale = if norm > asked.max_gradient_norm { asked.max_gradient_norm / norm } else { 1.0 };
        let rate = self.rate(asked.backbone_learning_rate, state.step);
        let Trained { weights, adam } = &mut state.backbone;
        adam.update_parallel(weights, gradient, &self.groups, rate, scale, self.workers.0);
        self.encoder.update(|numbers| numbers.copy_from_slice(weights));
        let rate = self.rate(asked.adapter_learning_rate, state.step);
        for ((primary, (_, trained)), found) in self.primaries.iter().zip(&mut state.primaries).zip(found) {
            clip(&mut found.gradient, asked.max_gradient_norm);
            trained.adam.update(&mut trained.weights, &found.gradient, &primary.groups(asked), rate);
        }
    }

    fn rate(&self, peak: f64, step: u64) -> f64 {
        let asked = self.asked;
        let warmup_steps = (asked.warmup_ratio * asked.steps as f64).round() as u64;
        Schedule { peak, warmup_steps, steps: asked.steps, decay: asked.decay }.learning_rate(step)
    }

    /// `of` the index of NER's and of classification's primary; None for a family that is not trained.
    fn by_family<T>(&self, of: impl Fn(usize) -> Option<T>) -> [Option<T>; 2] {
        [Family::Ner, Family::Classify].map(|family| {
            let index = self.primaries.iter().position(|primary| primary.family == family);
            index.and_then(&of)
        })
    }

    fn measure(&self, state: &mut State, agreement: &[Agreement]) -> Measurement {
        let asked = self.asked;
        let means = state.series.take_means();
        let norm = |index: usize| {
            let side = if index == 0 { 0 } else { 1 };
            agreement.iter().map(|layer| layer.squares[side]).sum::<f64>().sqrt()
        };
        let [ner_loss, classify_loss] = self.by_family(Some);
        let [ner_norm, classify_norm] = self.by_family(|index| Some(norm(index)));
        let is_joint = self.primaries.len() > 1;
        Measurement {
            step: state.step,
            ner_loss: ner_loss.map(|_| means[0]),
            classify_loss: classify_loss.map(|_| means[1]),
            backbone_learning_rate: self.rate(asked.backbone_learning_rate, state.step - 1),
            adapter_learning_rate: self.rate(asked.adapter_learning_rate, state.step - 1),
            ner_gradient_norm: ner_norm,
            classify_gradient_norm: classify_norm,
            cosine: if is_joint { agreement.iter().map(|layer| layer.cosine()).collect() } else { Vec::new() },
        }
    }

    fn check_finite(&self, step: u64, found: &[Found], norm: f64) -> Result<()> {
        let is_finite = norm.is_finite()
            && found.iter().all(|found| found.loss.is_finite() && found.gradient.iter().all(|x| x.is_finite()));
        if is_finite {
            return Ok(());
        }
        let losses: Vec<f64> = found.iter().map(|found| found.loss).collect();
        Err(Error::internal(format!(
            "losses {losses:?}, gradient norm {norm} at step {}: not finite; lower learning rates may help",
            step + 1
        )))
    }

    /// How the families' mean gradients agree at `weights`: the backbone's and each primary's. None where one family is trained
    /// alone. The same weights see the same micro-batches, which are none of the run's; the encoder is left with them.
    pub(super) fn conflict(&self, weights: &[Vec<f32>], observer: &mut dyn Observer) -> Run<Option<Conflict>> {
        let ([backbone, own @ ..], [_, _]) = (weights, self.primaries) else { return Ok(None) };
        self.encoder.update(|numbers| numbers.copy_from_slice(backbone));
        for (primary, weights) in self.primaries.iter().zip(own) {
            primary.variables.set(weights)?;
        }
        let half = conflict::batches(self.asked.steps) / 2;
        let mut sums = |from: u64| self.sums(from..from + half, observer);
        let (first, second) = (sums(self.asked.steps)?, sums(self.asked.steps + half)?);
        Ok(Some(conflict::conflict(&first, &second, &self.layers)))
    }

    /// Of each family the sum of its gradients by the backbone in the micro-batches of `steps`; nothing is updated.
    fn sums(&self, steps: Range<u64>, observer: &mut dyn Observer) -> Run<Vec<Vec<f32>>> {
        let Self { encoder, primaries, asked, workers, .. } = *self;
        let stepper = Stepper { encoder, primaries, asked, sinks: &self.sinks, workers };
        for step in steps {
            match observer.control() {
                Control::Continue => {}
                stop => return Err(Halt::Stopped(stop)),
            }
            stepper.gradients(&self.batches(step)?, step, true)?;
        }
        Ok(self.sinks.take_apart())
    }

    /// With the weights as they are now. None where no NER is trained.
    pub(super) fn calibrate(&self, pool: &Pool, state: &State, observer: &mut dyn Observer) -> Run<Option<Calibrated>> {
        let Some(at) = self.primaries.iter().position(|primary| primary.family == Family::Ner) else {
            return Ok(None);
        };
        let primary = &self.primaries[at];
        primary.variables.set(&state.primaries[at].1.weights)?;
        let steer = &mut || observer.control();
        calibrate(self.encoder, primary, &self.reader, pool, self.workers, steer).map(Some)
    }
}

//! A run from its data to a trained backbone and its primaries: the loop, checkpoints, measurements.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tracing::info;

use crate::adapter::AdapterFiles;
use crate::domain::{Digest, Error, Family, PreFinetuneSpec, Result};
use crate::model::kernels::give_back_memory;
use crate::model::kernels::packed::Kernel;
use crate::model::{Encoder, TrainableEncoder};
use crate::text::Tokenizer;
use crate::training::checkpoint::Checkpoints;
use crate::training::fine_tune::{Control, Observer, TrainingEvent};
use crate::training::optimizer::{Group, clip};
use crate::training::pace::Pace;
use crate::training::pre_finetune::calibrate::{Calibrated, calibrate};
use crate::training::pre_finetune::gradient::{Agreement, Sinks, layers_of};
use crate::training::pre_finetune::pool::{Pool, PoolSet};
use crate::training::pre_finetune::primary::Primary;
use crate::training::pre_finetune::read::Reader;
use crate::training::pre_finetune::report::{Account, provenance, report};
use crate::training::pre_finetune::series::{Measurement, POINTS_MAX, Series};
use crate::training::pre_finetune::state::{State, Trained};
use crate::training::pre_finetune::step::{Found, Stepper};
use crate::training::schedule::Schedule;
use crate::training::workers::{Halt, Run, Workers};

/// What a crash may cost. A checkpoint holds all weights with their moments: some hundred megabytes.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(45);

/// Everything a run needs. The same setup (spec, data, seed, threads) gives the same weights.
pub struct PreFinetuneSetup {
    /// What the run starts from.
    pub encoder: Arc<Encoder>,
    pub tokenizer: Arc<Tokenizer>,
    pub fingerprint: Digest,
    pub spec: PreFinetuneSpec,
    pub ner: Vec<PoolSet>,
    pub classify: Vec<PoolSet>,
    /// Checkpoints live here; one that is there already is gone on from.
    pub checkpoint_folder: PathBuf,
    pub threads: usize,
}

/// What a run leaves. The primaries need the fingerprint of the backbone's folder, which only exists once it is written.
pub struct PreFinetuned {
    encoder: TrainableEncoder,
    primaries: Vec<(Primary, Vec<f32>)>,
    threshold: Option<f32>,
    /// Parent, spec, data and seed: for the file beside the weights. Nothing in it differs between two runs of one setup.
    pub provenance: Value,
    /// The series of measurements, plots and the calibration.
    pub report: Value,
    pub steps_per_second: f64,
}

pub enum PreFinetuneOutcome {
    Finished(Box<PreFinetuned>),
    /// Paused or cancelled, as `Control` asked.
    Stopped(Control),
}

impl PreFinetuned {
    /// Writes `model.safetensors`.
    pub fn write_weights(&self, path: &Path) -> Result<()> {
        self.encoder.write(path)
    }

    /// The family's primary for the backbone with this fingerprint. A family that was not trained has one too: fresh LoRA and
    /// an untrained head, so that each strategy leaves the same things.
    pub fn primary(&self, family: Family, fingerprint: &Digest) -> Result<AdapterFiles> {
        let (primary, numbers) = self
            .primaries
            .iter()
            .find(|(primary, _)| primary.family == family)
            .ok_or_else(|| Error::internal(format!("no primary of family {family}")))?;
        let origin = self.encoder.origin();
        let threshold = self.threshold.filter(|_| family == Family::Ner);
        let adapter = primary.finished(numbers, origin, |mut card| {
            card.backbone_fingerprint = fingerprint.clone();
            card.training = Some(self.provenance.clone());
            match threshold {
                Some(threshold) => card.with_concept_threshold(threshold),
                None => card,
            }
        })?;
        adapter.to_files(origin)
    }
}

/// Runs to the end, a pause or a cancel. Blocking; does its work on threads of its own.
pub fn pre_finetune(setup: PreFinetuneSetup, observer: &mut dyn Observer) -> Result<PreFinetuneOutcome> {
    let ended = run(setup, observer);
    give_back_memory();
    match ended {
        Ok(trained) => Ok(PreFinetuneOutcome::Finished(Box::new(trained))),
        Err(Halt::Stopped(control)) => Ok(PreFinetuneOutcome::Stopped(control)),
        Err(Halt::Failed(error)) => Err(error),
    }
}

fn run(mut setup: PreFinetuneSetup, observer: &mut dyn Observer) -> Run<PreFinetuned> {
    let (ner, classify) = (std::mem::take(&mut setup.ner), std::mem::take(&mut setup.classify));
    let pool = Pool::new(setup.spec.strategy.families(), ner, classify)?;
    let encoder = TrainableEncoder::new(setup.encoder.clone(), Kernel::best(false))?;
    let primaries = setup.primaries()?;
    let (trained, spare): (Vec<Primary>, Vec<Primary>) =
        primaries.into_iter().partition(|primary| setup.spec.strategy.families().contains(&primary.family));
    let checkpoints =
        Checkpoints { folder: setup.checkpoint_folder.clone(), run: setup.run_digest(&pool), threads: setup.threads };
    let mut state = resume(&checkpoints, &encoder, &trained, observer)?;
    info!(run = checkpoints.run, step = state.step, steps = setup.spec.hyperparameters.steps, "pre-finetuning");
    let asked = &setup.spec.hyperparameters;
    let trainer = Trainer {
        setup: &setup,
        encoder: &encoder,
        primaries: &trained,
        reader: Reader::new(&setup.tokenizer, &pool, asked, setup.max_length()),
        sinks: Sinks::new(encoder.numbers().len(), setup.threads, trained.len()),
        layers: layers_of(&encoder)?,
        groups: backbone_groups(&encoder, asked.weight_decay),
        checkpoints: &checkpoints,
        workers: Workers(setup.threads),
    };
    let steps_per_second = trainer.run(&mut state, observer)?;
    observer.event(TrainingEvent::Evaluating);
    let calibrated = trainer.calibrate(&pool, &state, observer)?;
    drop(trainer);
    let account = Account { setup: &setup, pool: &pool, state: &state, calibrated: calibrated.as_ref() };
    let (provenance, report) = (provenance(&account), report(&account));
    let numbers = |primary: &Primary| -> Result<Vec<f32>> {
        let trained = state.primaries.iter().find(|(family, _)| *family == primary.family);
        trained.map_or_else(|| primary.variables.flat(), |(_, trained)| Ok(trained.weights.clone()))
    };
    let primaries = trained.into_iter().chain(spare).map(|primary| numbers(&primary).map(|numbers| (primary, numbers)));
    let primaries = primaries.collect::<Result<_>>()?;
    let threshold = calibrated.map(|calibrated| calibrated.threshold);
    Ok(PreFinetuned { encoder, primaries, threshold, provenance, report, steps_per_second })
}

impl PreFinetuneSetup {
    /// No longer than the backbone can read.
    fn max_length(&self) -> usize {
        self.spec.hyperparameters.max_length.min(self.encoder.config().max_length)
    }

    /// Of both families, in their order.
    fn primaries(&self) -> Result<Vec<Primary>> {
        let spec = &self.spec;
        let of = |family| Primary::new(family, spec.strategy, &spec.hyperparameters, &self.encoder, &self.fingerprint);
        [Family::Ner, Family::Classify].into_iter().map(of).collect()
    }

    /// Digest of everything that decides the run's course but the number of threads.
    fn run_digest(&self, pool: &Pool) -> String {
        let mut hasher = Sha256::new();
        let (spec, sets) = (&self.spec, &pool.digests);
        hasher.update(format!("{} {:?} {:?}\n", self.fingerprint, spec.strategy, spec.hyperparameters));
        hasher.update(format!("{:?} {:?} {sets:?}\n", spec.ner, spec.classify));
        Digest::from_sha256(&hasher.finalize().into()).to_string()
    }
}

/// The newest checkpoint of this very run, or its beginning. The encoder has the state's weights then.
fn resume(
    checkpoints: &Checkpoints,
    encoder: &TrainableEncoder,
    primaries: &[Primary],
    observer: &mut dyn Observer,
) -> Result<State> {
    let (found, passed_over) = checkpoints.latest::<State>()?;
    passed_over.into_iter().for_each(|message| observer.event(TrainingEvent::Message(message)));
    if let Some(found) = found {
        observer.event(TrainingEvent::Message(format!("goes on from the checkpoint of step {}", found.state.step)));
        if found.threads != checkpoints.threads {
            observer.event(TrainingEvent::Message(format!(
                "the checkpoint was made with {} threads, this run has {}: the last bits of the result may differ",
                found.threads, checkpoints.threads
            )));
        }
        encoder.update(|numbers| numbers.copy_from_slice(&found.state.backbone.weights));
        return Ok(found.state);
    }
    let primary = |primary: &Primary| Ok((primary.family, Trained::new(primary.variables.flat()?)));
    Ok(State {
        step: 0,
        backbone: Trained::new(encoder.numbers()),
        primaries: primaries.iter().map(primary).collect::<Result<_>>()?,
        series: Series::default(),
    })
}

/// Biases and norms do not decay.
fn backbone_groups(encoder: &TrainableEncoder, weight_decay: f64) -> Vec<Group> {
    let group = |slot: crate::model::Slot| {
        let weight_decay = if slot.shape.len() == 2 { weight_decay } else { 0.0 };
        Group { range: slot.range, rate: 1.0, weight_decay }
    };
    encoder.slots().into_iter().map(group).collect()
}

struct Trainer<'a> {
    setup: &'a PreFinetuneSetup,
    encoder: &'a TrainableEncoder,
    primaries: &'a [Primary],
    reader: Reader<'a>,
    sinks: Sinks,
    layers: Vec<Range<usize>>,
    groups: Vec<Group>,
    checkpoints: &'a Checkpoints,
    workers: Workers,
}

impl Trainer<'_> {
    /// Trains to the last step; steps a second. A pause leaves a checkpoint of `state`.
    fn run(&self, state: &mut State, observer: &mut dyn Observer) -> Run<f64> {
        let ended = self.advance(state, observer);
        if let Err(Halt::Stopped(Control::Pause)) = ended {
            self.save(state, observer)?;
        }
        ended
    }

    fn advance(&self, state: &mut State, observer: &mut dyn Observer) -> Run<f64> {
        let asked = &self.setup.spec.hyperparameters;
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
        let asked = &self.setup.spec.hyperparameters;
        for (primary, (_, trained)) in self.primaries.iter().zip(&state.primaries) {
            primary.variables.set(&trained.weights)?;
        }
        let batches = self.primaries.iter().map(|primary| self.reader.batch(primary.family, state.step));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        let stepper = Stepper {
            encoder: self.encoder,
            primaries: self.primaries,
            asked,
            sinks: &self.sinks,
            workers: self.workers,
        };
        let every = asked.measure_every.max(asked.steps.div_ceil(POINTS_MAX)).max(1);
        let measures = state.step.is_multiple_of(every) || state.step + 1 == asked.steps;
        let mut found = stepper.gradients(&batches, state.step, measures)?;
        let agreement = if measures { self.sinks.agreement(&self.layers, self.workers)? } else { Vec::new() };
        let norm = self.sinks.drain(gradient, self.workers).sqrt();
        self.check_finite(state.step, &found, norm)?;
        self.update(state, gradient, norm, &mut found);
        state.step += 1;
        state.series.count(self.by_family(|index| Some(found[index].loss)).map(Option::unwrap_or_default));
        if measures {
            let measurement = self.measure(state, &agreement);
            state.series.points.push(measurement.clone());
            observer.event(TrainingEvent::Measured(measurement));
        }
        pace.count(batches.iter().map(|batch| batch.texts()).sum(), batches.iter().map(|batch| batch.tokens()).sum());
        let (rows_per_second, tokens_per_second) = pace.per_second(Instant::now());
        Ok(TrainingEvent::Step {
            step: state.step,
            steps: asked.steps,
            epoch: 1,
            loss: found.iter().map(|found| found.loss).sum(),
            learning_rate: self.rate(asked.backbone_learning_rate, state.step - 1),
            tokens_per_second,
            rows_per_second,
        })
    }

    fn update(&self, state: &mut State, gradient: &[f32], norm: f64, found: &mut [Found]) {
        let asked = &self.setup.spec.hyperparameters;
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
        let asked = &self.setup.spec.hyperparameters;
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
        let asked = &self.setup.spec.hyperparameters;
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

    fn calibrate(&self, pool: &Pool, state: &State, observer: &mut dyn Observer) -> Run<Option<Calibrated>> {
        let Some(at) = self.primaries.iter().position(|primary| primary.family == Family::Ner) else {
            return Ok(None);
        };
        let primary = &self.primaries[at];
        primary.variables.set(&state.primaries[at].1.weights)?;
        let steer = &mut || observer.control();
        calibrate(self.encoder, primary, &self.reader, pool, self.workers, steer).map(Some)
    }
}

//! The fine-tuning run: frozen backbone, LoRA and head of one adapter. Prepares what the trainer trains on, and makes files of what it leaves.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tracing::info;

use crate::adapter::{AdapterBundle, AdapterFiles};
use crate::domain::{Digest, Error, Family, FineTuneSpec, GateMetric, LabelSet, Result};
use crate::model::Encoder;
use crate::text::Tokenizer;
use crate::training::batches::hold_out;
use crate::training::card::{account, card, lora_config};
use crate::training::checkpoint::{Checkpoints, State};
use crate::training::collate::check_family;
use crate::training::dataset::{Example, Split};
use crate::training::evaluate::Evaluation;
use crate::training::labels::labels_of;
use crate::training::predict::Held;
use crate::training::prefix::KEPT_BYTES_MAX;
use crate::training::settle::Recipe;
use crate::training::trainer::Trainer;
use crate::training::variables::Variables;
use crate::training::workers::{Halt, Run, Workers};

/// Everything a run needs. The same setup (spec, data, seed, threads) gives the same adapter bytes.
pub struct FineTuneSetup {
    pub encoder: Arc<Encoder>,
    pub tokenizer: Arc<Tokenizer>,
    pub fingerprint: Digest,
    pub spec: FineTuneSpec,
    pub train: Split,
    pub validation: Option<Split>,
    pub test: Option<Split>,
    /// The adapter to start from.
    pub init: Option<AdapterBundle>,
    /// Checkpoints live here; one that is there already is gone on from.
    pub checkpoint_folder: PathBuf,
    pub threads: usize,
    /// For the log alone: the files of two runs of one spec are equal.
    pub job_id: Option<String>,
}

/// What the caller wants next; asked at every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Continue,
    /// Write a checkpoint and stop; the same setup goes on later.
    Pause,
    Cancel,
}

/// Told by a run as it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainingEvent {
    Message(String),
    /// What `auto` became.
    Settled {
        epochs: u32,
        batch_size: u32,
        learning_rate: f64,
        steps: u64,
    },
    Step {
        step: u64,
        steps: u64,
        epoch: u32,
        loss: f64,
        learning_rate: f64,
        tokens_per_second: f64,
        rows_per_second: f64,
    },
    Validation {
        step: u64,
        epoch: u32,
        metrics: Vec<(&'static str, f64)>,
        best: bool,
    },
    Checkpoint {
        step: u64,
        path: PathBuf,
    },
    /// Training is over; validation and test are evaluated now.
    Evaluating,
}

/// Who watches and steers a run.
pub trait Observer {
    fn event(&mut self, event: TrainingEvent);
    fn control(&mut self) -> Control;
}

pub struct TrainedAdapter {
    pub files: AdapterFiles,
    pub validation: Evaluation,
    pub test: Option<Evaluation>,
    pub rows_per_second: f64,
    pub tokens_per_second: f64,
}

pub enum Outcome {
    Finished(Box<TrainedAdapter>),
    /// Paused or cancelled, as `Control` asked.
    Stopped(Control),
}

/// Runs to the end, a pause or a cancel. Blocking; does its work on threads of its own.
pub fn fine_tune(setup: FineTuneSetup, observer: &mut dyn Observer) -> Result<Outcome> {
    match run(&setup, observer) {
        Ok(trained) => Ok(Outcome::Finished(Box::new(trained))),
        Err(Halt::Stopped(control)) => Ok(Outcome::Stopped(control)),
        Err(Halt::Failed(error)) => Err(error),
    }
}

fn run(setup: &FineTuneSetup, observer: &mut dyn Observer) -> Run<TrainedAdapter> {
    let data = Data::of(setup)?;
    let fresh = fresh_adapter(setup, &data.labels)?;
    let (adapter, variables) = Variables::of(&fresh, &setup.encoder)?;
    let recipe = Recipe::settle(setup.spec.family, &setup.spec.hyperparameters, data.training.len());
    observer.event(TrainingEvent::Settled {
        epochs: recipe.epochs,
        batch_size: recipe.batch_size as u32,
        learning_rate: recipe.learning_rate,
        steps: recipe.steps,
    });
    let initial = variables.flat()?;
    let checkpoints = Checkpoints {
        folder: setup.checkpoint_folder.clone(),
        run: run_digest(setup, &recipe, &data, &initial),
        threads: setup.threads,
    };
    info!(job = setup.job_id, run = checkpoints.run, steps = recipe.steps, "fine-tuning");

    let mut budget = KEPT_BYTES_MAX;
    let training = setup.hold(&adapter, &data.training, &mut budget, observer)?;
    let validation = setup.hold(&adapter, &data.validation, &mut budget, observer)?;
    if !training.prefix.is_kept() {
        let message =
            format!("lower layers are computed anew at every step: more than {KEPT_BYTES_MAX} bytes otherwise");
        observer.event(TrainingEvent::Message(message));
    }
    let targets = training.sequences.targets(&data.training, &data.labels, setup.train.multi_label)?;
    let trainer = Trainer {
        encoder: &setup.encoder,
        adapter: &adapter,
        variables: &variables,
        sequences: &training.sequences,
        targets: &targets,
        prefix: &training.prefix,
        validation: &validation,
        metric: setup.selection_metric(),
        recipe: &recipe,
        workers: Workers(setup.threads),
        checkpoints: &checkpoints,
    };
    let mut state = resume(&checkpoints, initial, observer)?;
    let pace = trainer.run(&mut state, observer)?;
    let (rows_per_second, tokens_per_second) = pace.per_second(std::time::Instant::now());

    observer.event(TrainingEvent::Evaluating);
    let best = state.best.as_ref().map_or(&state.weights, |best| &best.weights);
    let mut trained = fresh.with_tensors(&setup.encoder, &variables.tensors(best)?)?;
    let workers = Workers(setup.threads);
    let name = setup.spec.validation.as_ref().unwrap_or(&setup.spec.train).to_string();
    let validation = validation.evaluate(&setup.encoder, &trained, &name, workers, &mut || observer.control())?;
    drop(training); // its activations make room for the test split's
    let test = match &setup.test {
        Some(test) => Some(setup.test(&trained, test, observer)?),
        None => None,
    };
    let rows = [data.training.len(), data.validation.len()];
    trained.card.training =
        Some(account(&setup.spec, &recipe, rows, &state, &checkpoints.run, &validation, test.as_ref()));
    Ok(TrainedAdapter {
        files: trained.to_files(&setup.encoder)?,
        validation,
        test,
        rows_per_second,
        tokens_per_second,
    })
}

/// The rows that are trained on and those that choose the best epoch, and the labels of both.
struct Data {
    training: Vec<Example>,
    validation: Vec<Example>,
    labels: LabelSet,
}

impl Data {
    fn of(setup: &FineTuneSetup) -> Result<Self> {
        let splits = [Some(&setup.train), setup.validation.as_ref(), setup.test.as_ref()];
        for split in splits.into_iter().flatten() {
            check_family(&split.examples, setup.spec.family)?;
        }
        let all = &setup.train.examples;
        let (training, validation) = match &setup.validation {
            Some(validation) => (all.clone(), validation.examples.clone()),
            None => {
                let (training, held_out) = hold_out(all.len(), setup.spec.hyperparameters.seed);
                let take = |rows: Vec<usize>| rows.into_iter().map(|row| all[row].clone()).collect();
                (take(training), take(held_out))
            }
        };
        if training.is_empty() || validation.is_empty() {
            let counts = format!("{} rows to train on and {} to validate on", training.len(), validation.len());
            return Err(Error::unprocessable(format!("{counts}; at least one of each is wanted")));
        }
        let labels = labels_of(&setup.train, setup.spec.family)?;
        let labels = match &setup.init {
            Some(init) if labels.iter().all(|label| init.labels.index_of(label).is_some()) => init.labels.clone(),
            _ => labels,
        };
        Ok(Self { training, validation, labels })
    }
}

impl FineTuneSetup {
    /// No longer than the backbone can read.
    fn max_length(&self) -> usize {
        self.spec.hyperparameters.max_length.min(self.encoder.config().max_length)
    }

    /// What the gate asks for, else what the task is usually measured by.
    fn selection_metric(&self) -> GateMetric {
        let usual = match self.spec.family {
            Family::Ner => GateMetric::F1,
            Family::Classify if self.train.multi_label => GateMetric::MacroF1,
            Family::Classify => GateMetric::Accuracy,
        };
        self.spec.gate.as_ref().map_or(usual, |gate| gate.metric)
    }

    fn hold<'a>(
        &self,
        adapter: &AdapterBundle,
        examples: &'a [Example],
        budget: &mut usize,
        observer: &mut dyn Observer,
    ) -> Run<Held<'a>> {
        let steer = &mut || observer.control();
        Held::prepare((&self.encoder, &self.tokenizer), adapter, examples, budget, Workers(self.threads), steer)
    }

    fn test(&self, adapter: &AdapterBundle, test: &Split, observer: &mut dyn Observer) -> Run<Evaluation> {
        let held = self.hold(adapter, &test.examples, &mut 0, observer)?;
        let name = self.spec.test.as_ref().map(ToString::to_string).unwrap_or_default();
        let steer = &mut || observer.control();
        held.evaluate(&self.encoder, adapter, &name, Workers(self.threads), steer)
    }
}

/// A new adapter, or a copy of the one to start from: of its head too where it has the same labels.
fn fresh_adapter(setup: &FineTuneSetup, labels: &LabelSet) -> Result<AdapterBundle> {
    let spec = &setup.spec;
    let config = match &setup.init {
        Some(init) => init.config.clone(),
        None => lora_config(spec.family, &spec.hyperparameters, &setup.encoder)?,
    };
    let card = card(spec, labels, setup.train.multi_label, &setup.fingerprint, setup.max_length());
    let fresh = AdapterBundle::fresh(config, card, &setup.encoder, spec.hyperparameters.seed)?;
    let Some(init) = &setup.init else { return Ok(fresh) };
    if init.family() != spec.family {
        return Err(Error::conflict(format!(
            "init_from is an adapter of family {}; {} is wanted",
            init.family(),
            spec.family
        )));
    }
    let own: Vec<String> = fresh.trainable().into_iter().map(|(name, _)| name).collect();
    let same_labels = init.labels == *labels;
    let kept =
        init.trainable().into_iter().filter(|(name, _)| own.contains(name) && (same_labels || name.contains("lora_")));
    fresh.with_tensors(&setup.encoder, &kept.collect())
}

/// The newest checkpoint of this very run, or its beginning.
fn resume(checkpoints: &Checkpoints, initial: Vec<f32>, observer: &mut dyn Observer) -> Result<State> {
    let (found, passed_over) = checkpoints.latest()?;
    passed_over.into_iter().for_each(|message| observer.event(TrainingEvent::Message(message)));
    let Some(found) = found else { return Ok(State::new(initial)) };
    observer.event(TrainingEvent::Message(format!("goes on from the checkpoint of step {}", found.state.step)));
    if found.threads != checkpoints.threads {
        observer.event(TrainingEvent::Message(format!(
            "the checkpoint was made with {} threads, this run has {}: the last bits of the result may differ",
            found.threads, checkpoints.threads
        )));
    }
    Ok(found.state)
}

/// Digest of everything that decides the run's course but the number of threads.
fn run_digest(setup: &FineTuneSetup, recipe: &Recipe, data: &Data, initial: &[f32]) -> String {
    let mut hasher = Sha256::new();
    // Debug forms quote their strings, so no two rows read alike
    hasher.update(format!("{} {recipe:?} {:?}\n", setup.fingerprint, setup.selection_metric()));
    hasher.update(format!("{} {:?} {}\n", setup.spec.family, data.labels, setup.max_length()));
    initial.iter().for_each(|number| hasher.update(number.to_le_bytes()));
    for example in data.training.iter().chain(&data.validation) {
        hasher.update(format!("{example:?}\n"));
    }
    hasher.update(data.training.len().to_le_bytes());
    Digest::from_sha256(&hasher.finalize().into()).to_string()
}

/// Predicts `split` with an adapter and evaluates it.
pub fn evaluate_adapter(
    encoder: &Encoder,
    tokenizer: &Tokenizer,
    adapter: &AdapterBundle,
    split: &Split,
    dataset: &str,
    threads: usize,
) -> Result<Evaluation> {
    check_family(&split.examples, adapter.family())?;
    let (workers, steer) = (Workers(threads), &mut || Control::Continue);
    let held = Held::prepare((encoder, tokenizer), adapter, &split.examples, &mut 0, workers, steer);
    let evaluation = held.and_then(|held| held.evaluate(encoder, adapter, dataset, workers, steer));
    evaluation.map_err(|halt| match halt {
        Halt::Failed(error) => error,
        Halt::Stopped(_) => Error::internal("an evaluation that nobody stops was stopped"),
    })
}

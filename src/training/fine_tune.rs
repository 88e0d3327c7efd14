//! The fine-tuning run: frozen backbone, LoRA and head of one adapter. Prepares what the trainer trains on, and makes files of what it leaves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use crate::adapter::{AdapterBundle, AdapterFiles};
use crate::domain::{Digest, Error, Family, FineTuneSpec, GateMetric, Result};
use crate::model::Encoder;
use crate::model::kernels::give_back_memory;
use crate::text::Tokenizer;
use crate::training::card::{Account, account};
use crate::training::collate::check_family;
use crate::training::data::Data;
use crate::training::dataset::{Example, Split};
use crate::training::evaluate::Evaluation;
use crate::training::plan::Plan;
use crate::training::pre_finetune::Measurement;
use crate::training::predict::{Held, Predicted};
use crate::training::prefix::KEPT_BYTES_MAX;
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
    /// Whether a new classification head reads the mean of the tokens, in place of what the architecture's own reads. None: as the
    /// adapter to start from does; without one, where rows are few.
    pub pools_mean: Option<bool>,
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
    /// Of pre-finetuning: losses and gradients since the last one.
    Measured(Measurement),
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
pub fn fine_tune(mut setup: FineTuneSetup, observer: &mut dyn Observer) -> Result<Outcome> {
    let ended = run(&mut setup, observer);
    drop(setup);
    give_back_memory();
    match ended {
        Ok(trained) => Ok(Outcome::Finished(Box::new(trained))),
        Err(Halt::Stopped(control)) => Ok(Outcome::Stopped(control)),
        Err(Halt::Failed(error)) => Err(error),
    }
}

fn run(setup: &mut FineTuneSetup, observer: &mut dyn Observer) -> Run<TrainedAdapter> {
    let data = Data::take(setup)?;
    let setup = &*setup;
    let plan = Plan::new(setup, &data)?;
    observer.event(plan.settled());
    info!(job = setup.job_id, run = plan.checkpoints.run, steps = plan.recipe.steps, "fine-tuning");

    let mut budget = KEPT_BYTES_MAX;
    let training = setup.hold(&plan.adapter, &data.training, &mut budget, observer)?;
    let validation = setup.hold(&plan.adapter, &data.validation, &mut budget, observer)?;
    if !training.prefix.is_kept() {
        let message =
            format!("over {KEPT_BYTES_MAX} bytes of activations: the lower layers are computed at every step");
        observer.event(TrainingEvent::Message(message));
    }
    let (state, pace) = plan.train(setup, &data, [&training, &validation], observer)?;
    let (rows_per_second, tokens_per_second) = pace.per_second(Instant::now());

    observer.event(TrainingEvent::Evaluating);
    let mut trained = plan.adapter_of(setup, &state)?;
    let name = setup.spec.validation.as_ref().unwrap_or(&setup.spec.train).to_string();
    let steer = &mut || observer.control();
    let validation = validation.evaluate(&setup.encoder, &trained, &name, Workers(setup.threads), steer)?;
    let test = setup.test.as_ref().map(|test| setup.evaluate_test(&trained, test, observer)).transpose()?;
    trained.card.training = Some(account(&Account {
        spec: &setup.spec,
        recipe: &plan.recipe,
        rows: data.training.len(),
        state: &state,
        run: &plan.checkpoints.run,
        validation: &validation,
        test: test.as_ref(),
    }));
    let files = trained.to_files(&setup.encoder)?;
    Ok(TrainedAdapter { files, validation, test, rows_per_second, tokens_per_second })
}

impl FineTuneSetup {
    /// No longer than the backbone can read.
    pub(super) fn max_length(&self) -> usize {
        self.spec.hyperparameters.max_length.min(self.encoder.config().max_length)
    }

    /// What the gate asks for, else what the task is usually measured by.
    pub(super) fn selection_metric(&self) -> GateMetric {
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

    fn evaluate_test(&self, adapter: &AdapterBundle, test: &Split, observer: &mut dyn Observer) -> Run<Evaluation> {
        let held = self.hold(adapter, &test.examples, &mut 0, observer)?;
        let name = self.spec.test.as_ref().map(ToString::to_string).unwrap_or_default();
        let steer = &mut || observer.control();
        held.evaluate(&self.encoder, adapter, &name, Workers(self.threads), steer)
    }
}

/// The answers of an adapter to `examples`, in order.
pub(super) fn predict_all(
    encoder: &Encoder,
    tokenizer: &Tokenizer,
    adapter: &AdapterBundle,
    examples: &[Example],
    workers: Workers,
) -> Run<Predicted> {
    let steer = &mut || Control::Continue;
    let held = Held::prepare((encoder, tokenizer), adapter, examples, &mut 0, workers, steer)?;
    held.predict(encoder, adapter, workers, steer)
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

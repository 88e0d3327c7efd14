//! The fine-tuning run: frozen backbone, LoRA and head of one adapter. Prepares what the trainer trains on, and makes files of what it leaves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use crate::adapter::{AdapterBundle, AdapterFiles};
use crate::domain::{Digest, Error, FineTuneSpec, Result};
use crate::model::Encoder;
use crate::model::kernels::give_back_memory;
use crate::text::Tokenizer;
use crate::training::calibrate::Calibration;
use crate::training::card::{Account, account, calibration_to_json};
use crate::training::collate::check_family;
use crate::training::cross_validate::{Progress, cross_validate};
use crate::training::data::{Data, FOLDS};
use crate::training::dataset::{Example, Split};
use crate::training::doubts::doubts;
use crate::training::evaluate::{Asked, Evaluation, Method};
use crate::training::plan::{Plan, recipe};
use crate::training::pre_finetune::Measurement;
use crate::training::predict::{Answer, Held, Predicted, is_multi_label};
use crate::training::prefix::KEPT_BYTES_MAX;
use crate::training::trainer::metrics;
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
    /// Something that the figures alone would hide.
    Warning(String),
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
        validated: Validated,
        best: bool,
    },
    /// Validation was no better for as long as the run waits: it ends after `step` of `steps`, with the weights of step `kept`.
    StoppedEarly {
        step: u64,
        steps: u64,
        kept: u64,
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

/// A validation's headline figures, the rows they are of, and where the true one of them may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    pub metrics: Vec<(&'static str, f64)>,
    pub rows: usize,
    pub method: Method,
    /// Low and high, of the metric that the run is chosen or gated by.
    pub interval: Option<[f64; 2]>,
}

impl Validated {
    pub(super) fn of(evaluation: &Evaluation) -> Self {
        let Evaluation { rows, method, interval, .. } = *evaluation;
        Self { metrics: metrics(evaluation), rows, method, interval }
    }
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
    /// As the card has it: `temperature`, `ece_before`, `ece_after`; null where there was too little to fit one to.
    pub calibration: serde_json::Value,
    /// What the figures alone would hide.
    pub warnings: Vec<String>,
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
    let plan = Plan::new(setup, &data, setup.checkpoint_folder.clone())?;
    observer.event(plan.settled());
    info!(job = setup.job_id, run = plan.checkpoints.run, steps = plan.recipe.steps, "fine-tuning");

    let mut progress = Progress::of(observer, steps_of_all(setup, &data, &plan));
    let crossed = data.is_cross_validated().then(|| cross_validate(setup, &data, &mut progress)).transpose()?;
    let observer = &mut progress.part(plan.recipe.steps, None);

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
    let trained = plan.adapter_of(setup, &state)?;
    let answered = match crossed {
        Some(answers) => Answered { examples: &data.training, answers, method: Method::CrossValidation },
        None => {
            let steer = &mut || observer.control();
            let answers = validation.answers(&setup.encoder, &trained, Workers(setup.threads), steer)?;
            Answered { examples: &data.validation, answers, method: Method::Split }
        }
    };
    let (mut trained, calibration) = answered.calibrate(setup, trained)?;
    let validation = answered.evaluate(setup, &trained, calibration.as_ref());
    let test = setup.test.as_ref().map(|test| setup.evaluate_test(&trained, test, observer)).transpose()?;
    let warnings = doubts(&validation, test.as_ref(), &data.labels);
    warnings.iter().for_each(|warning| observer.event(TrainingEvent::Warning(warning.clone())));
    trained.card.training = Some(account(&Account {
        spec: &setup.spec,
        recipe: &plan.recipe,
        rows: data.training.len(),
        state: &state,
        run: &plan.checkpoints.run,
        validation: &validation,
        test: test.as_ref(),
        calibration: calibration.as_ref(),
        warnings: &warnings,
    }));
    let files = trained.to_files(&setup.encoder)?;
    let calibration = calibration.as_ref().map_or(serde_json::Value::Null, calibration_to_json);
    Ok(TrainedAdapter { files, validation, test, calibration, warnings, rows_per_second, tokens_per_second })
}

/// Steps of the run and of the folds before it.
fn steps_of_all(setup: &FineTuneSetup, data: &Data, plan: &Plan) -> u64 {
    let folds = (0..FOLDS).filter(|_| data.is_cross_validated());
    let of_fold = |fold: usize| recipe(setup, data, data.fold(fold).0.training.len()).steps;
    folds.map(of_fold).sum::<u64>() + plan.recipe.steps
}

/// Rows that measure a run, and what was said of each by a model that has not seen it.
struct Answered<'a> {
    examples: &'a [Example],
    answers: Vec<Answer>,
    method: Method,
}

impl Answered<'_> {
    fn calibrate(&self, setup: &FineTuneSetup, trained: AdapterBundle) -> Result<(AdapterBundle, Option<Calibration>)> {
        let calibration = Calibration::fit(&trained, self.examples, &self.answers);
        let trained = match &calibration {
            Some(calibration) => calibration.apply(trained, &setup.encoder)?,
            None => trained,
        };
        Ok((trained, calibration))
    }

    /// The report on the answers as `trained`, which is calibrated, would give them.
    fn evaluate(
        &self,
        setup: &FineTuneSetup,
        trained: &AdapterBundle,
        calibration: Option<&Calibration>,
    ) -> Evaluation {
        let temperature = calibration.map_or(1.0, |calibration| calibration.temperature as f32);
        let answers = self.answers.iter().map(|answer| answer.cooled(temperature)).collect();
        let name = setup.spec.validation.as_ref().unwrap_or(&setup.spec.train).to_string();
        let predicted = Predicted::of(trained, self.examples, answers);
        let evaluation = predicted.evaluate(&name, setup.train.multi_label, setup.asked());
        Evaluation { method: self.method, ..evaluation }
    }
}

impl FineTuneSetup {
    /// No longer than the backbone can read.
    pub(super) fn max_length(&self) -> usize {
        self.spec.hyperparameters.max_length.min(self.encoder.config().max_length)
    }

    /// What the gate asks for, else what the task is usually measured by.
    pub(super) fn asked(&self) -> Asked {
        let usual = Asked::usual(self.spec.family, self.train.multi_label);
        self.spec.gate.as_ref().map_or(usual, |gate| Asked {
            metric: gate.metric,
            confidence: gate.confidence.unwrap_or(usual.confidence),
        })
    }

    pub(super) fn hold<'a>(
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
        held.evaluate(&self.encoder, adapter, &name, self.asked(), Workers(self.threads), steer)
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
    let asked = Asked::usual(adapter.family(), is_multi_label(adapter));
    let evaluation = held.and_then(|held| held.evaluate(encoder, adapter, dataset, asked, workers, steer));
    evaluation.map_err(|halt| match halt {
        Halt::Failed(error) => error,
        Halt::Stopped(_) => Error::internal("an evaluation that nobody stops was stopped"),
    })
}

//! Training jobs: what can be asked for, and which states follow which.

use std::fmt;
use std::str::FromStr;

use crate::domain::{AdapterName, AdapterRef, Error, Family, PreFinetuneSpec};

/// `job_…`, given by the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value the caller gave, or leaves to us.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Auto<T> {
    Auto,
    Set(T),
}

impl<T: Copy> Auto<T> {
    pub fn unwrap_or(self, default: T) -> T {
        match self {
            Self::Auto => default,
            Self::Set(value) => value,
        }
    }
}

/// `dataset:split`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRef {
    pub dataset: String,
    pub split: String,
}

impl fmt::Display for DataRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.dataset, self.split)
    }
}

impl FromStr for DataRef {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        match s.split_once(':') {
            Some((dataset, split)) if !dataset.is_empty() && !split.is_empty() => {
                Ok(Self { dataset: dataset.to_owned(), split: split.to_owned() })
            }
            _ => Err(Error::invalid(format!("{s:?} is not DATASET:SPLIT, as in \"banking77:train\""))),
        }
    }
}

/// Which layers get LoRA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerChoice {
    /// Settled by the family: NER wants more layers than classification, whose backbone pools well already.
    Auto,
    /// The top `n` (`last:2`).
    Last(usize),
    All,
    /// These, counted from 0 at the bottom.
    These(Vec<usize>),
}

/// `auto` values are settled by `training` from the data; what was chosen is in the adapter's card.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyperparameters {
    pub epochs: Auto<u32>,
    pub batch_size: Auto<u32>,
    pub learning_rate: Auto<f64>,
    pub rank: usize,
    pub alpha: f64,
    pub layers: LayerChoice,
    /// None: `auto`, every linear of the chosen layers.
    pub target_modules: Option<Vec<String>>,
    /// Tokens, special ones included.
    pub max_length: usize,
    /// Epochs without a better validation score before training stops, counted after the warm-up; 0: never.
    pub early_stopping_patience: Auto<u32>,
    pub dropout: f64,
    pub weight_decay: f64,
    /// Share of the steps over which the learning rate rises.
    pub warmup_ratio: f64,
    /// The gradient's norm is clipped to this.
    pub max_gradient_norm: f64,
    pub seed: u64,
    /// Whether the run begins with what few rows are worth before the first step; auto: where rows are few for their labels.
    pub warm_start: Auto<bool>,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            epochs: Auto::Auto,
            batch_size: Auto::Auto,
            learning_rate: Auto::Auto,
            rank: 8,
            alpha: 16.0,
            layers: LayerChoice::Auto,
            target_modules: None,
            max_length: 128,
            early_stopping_patience: Auto::Auto,
            dropout: 0.1,
            weight_decay: 0.01,
            warmup_ratio: 0.06,
            max_gradient_norm: 1.0,
            seed: 42,
            warm_start: Auto::Auto,
        }
    }
}

/// The score a new version must reach before it is published.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    pub metric: GateMetric,
    pub min: f64,
    pub not_worse_than_active: bool,
    /// Some: not the figure itself is compared, but the lower end of the interval that holds the true one so surely (0 to 1).
    pub confidence: Option<f64>,
    pub on: GateSplit,
}

impl Gate {
    /// Whether the figure is that of the test split.
    pub fn is_on_test(&self, spec: &FineTuneSpec) -> bool {
        match self.on {
            GateSplit::Auto => spec.test.is_some(),
            GateSplit::Test => true,
            GateSplit::Validation => false,
        }
    }

    /// The split that the figure is measured on, if it is one of its own.
    pub fn split_of<'a>(&self, spec: &'a FineTuneSpec) -> Option<&'a DataRef> {
        if self.is_on_test(spec) { spec.test.as_ref() } else { spec.validation.as_ref() }
    }
}

/// The rows that a gate's figure is measured on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateSplit {
    /// `test` where the job has one: nothing was chosen on it.
    #[default]
    Auto,
    Test,
    Validation,
}

impl GateSplit {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Test, Self::Validation];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Test => "test",
            Self::Validation => "validation",
        }
    }
}

impl FromStr for GateSplit {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let wanted = || Error::invalid(format!("{s:?} is none of \"auto\", \"test\" and \"validation\""));
        Self::ALL.into_iter().find(|split| split.as_str() == s).ok_or_else(wanted)
    }
}

/// NER: `f1`, `macro_f1`, `precision`, `recall`; classification: `accuracy`, `macro_f1`, `weighted_f1` (`f1` reads as `macro_f1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateMetric {
    F1,
    MacroF1,
    WeightedF1,
    Accuracy,
    Precision,
    Recall,
}

impl GateMetric {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F1 => "f1",
            Self::MacroF1 => "macro_f1",
            Self::WeightedF1 => "weighted_f1",
            Self::Accuracy => "accuracy",
            Self::Precision => "precision",
            Self::Recall => "recall",
        }
    }
}

impl FromStr for GateMetric {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        [Self::F1, Self::MacroF1, Self::WeightedF1, Self::Accuracy, Self::Precision, Self::Recall]
            .into_iter()
            .find(|metric| metric.as_str() == s)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "gate metric {s:?} is none of f1, macro_f1, weighted_f1, accuracy, precision, recall"
                ))
            })
    }
}

/// What happens to an adapter that passed its gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Publish {
    /// A new version that answers from now on.
    #[default]
    Activate,
    /// A new version that waits for an operator.
    Stage,
    /// Only the report.
    Never,
}

/// One fine-tuning run.
#[derive(Clone, Debug, PartialEq)]
pub struct FineTuneSpec {
    pub adapter: AdapterName,
    pub family: Family,
    pub init_from: Option<AdapterRef>,
    pub train: DataRef,
    /// None: some of the training rows are held out, or, where there are few, all of them are cross-validated.
    pub validation: Option<DataRef>,
    pub test: Option<DataRef>,
    pub hyperparameters: Hyperparameters,
    pub gate: Option<Gate>,
    pub publish: Publish,
}

/// Every kind of job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobSpec {
    FineTune(FineTuneSpec),
    PreFinetune(PreFinetuneSpec),
}

impl JobSpec {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FineTune(_) => "fine_tune",
            Self::PreFinetune(_) => "pre_finetune",
        }
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    Queued,
    Validating,
    Running,
    Paused,
    Evaluating,
    Publishing,
    Succeeded,
    /// The gate was not met.
    Rejected,
    Failed,
    Cancelled,
}

impl JobState {
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Validating,
        Self::Running,
        Self::Paused,
        Self::Evaluating,
        Self::Publishing,
        Self::Succeeded,
        Self::Rejected,
        Self::Failed,
        Self::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Validating => "validating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Evaluating => "evaluating",
            Self::Publishing => "publishing",
            Self::Succeeded => "succeeded",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Rejected | Self::Failed | Self::Cancelled)
    }

    /// Whether `next` may follow. A restart puts an interrupted job back to `Queued`; its checkpoint is kept, and what
    /// is trained (or ready to be published) already is not trained again: hence the ways past `Running`.
    pub fn may_become(self, next: Self) -> bool {
        use JobState::{
            Cancelled, Evaluating, Failed, Paused, Publishing, Queued, Rejected, Running, Succeeded, Validating,
        };
        match (self, next) {
            (from, Failed | Cancelled) => !from.is_final(),
            (Queued, Validating | Paused) | (Validating, Running | Paused | Evaluating | Publishing) => true,
            (Running, Paused | Evaluating) | (Paused, Queued) => true,
            (Evaluating, Publishing | Rejected | Succeeded) | (Publishing, Succeeded) => true,
            (Validating | Running | Evaluating | Publishing, Queued) => true,
            _ => false,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == s)
            .ok_or_else(|| Error::invalid(format!("no job state {s:?}")))
    }
}

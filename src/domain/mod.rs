//! The product's words and their rules: no I/O, no async, no tensors, no serde. Everything else is left to the layers above.

mod adapter;
mod backbone;
mod cancel;
mod candidates;
mod error;
mod excerpt;
mod input;
mod job;
mod label;
mod matrix;
mod offsets;
mod parameters;
mod pre_finetune;
mod prediction;
mod problems;
mod task;

pub use adapter::{AdapterIdentity, AdapterName, AdapterRef, Alias, AliasTarget, Digest};
pub use backbone::BackboneIdentity;
pub use cancel::{Cancel, CancelOnDrop};
pub use candidates::{CandidateLabels, HypothesisTemplate};
pub use error::{Error, ErrorKind, Result};
pub use excerpt::Excerpt;
pub use input::TextInput;
pub use job::{
    Auto, DataRef, FineTuneSpec, Gate, GateMetric, GateSplit, Hyperparameters, JobId, JobSpec, JobState, LayerChoice,
    Publish,
};
pub use label::{LabelSet, Tag};
pub use matrix::Matrix;
pub use offsets::convert_ranges;
pub use parameters::{
    Activation, Aggregation, ClassifyParameters, EmbedParameters, LongText, NerParameters, OffsetUnit, Pooling,
};
pub use pre_finetune::{
    Decay, MixedSet, PreFinetuneHyperparameters, PreFinetuneOutputs, PreFinetuneSpec, Strategy, TrainingPrecision,
};
pub use prediction::{ClassifyPrediction, Entity, NerPrediction, ScoredLabel};
pub use problems::Problems;
pub use task::{Family, HeadForm, ProblemType};

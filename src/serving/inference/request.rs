//! What is asked of [`Inference`](crate::serving::Inference), and what it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{
    AdapterIdentity, AdapterRef, BackboneIdentity, CandidateLabels, ClassifyParameters, ClassifyPrediction,
    EmbedParameters, Family, NerParameters, NerPrediction, TextInput,
};
use crate::serving::flow::Caller;

/// What is wanted of every input of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    Ner(NerParameters),
    Classify(ClassifyParameters),
}

impl Task {
    pub fn family(&self) -> Family {
        match self {
            Self::Ner(_) => Family::Ner,
            Self::Classify(_) => Family::Classify,
        }
    }

    pub(super) fn candidate_labels(&self) -> Option<&CandidateLabels> {
        match self {
            Self::Ner(parameters) => parameters.candidate_labels.as_ref(),
            Self::Classify(parameters) => parameters.candidate_labels.as_ref(),
        }
    }

    /// What is encoded of a name.
    pub(super) fn said(&self, name: &str) -> String {
        match self {
            Self::Ner(_) => name.to_owned(),
            Self::Classify(parameters) => parameters.hypothesis_template.with(name),
        }
    }
}

#[derive(Clone, Debug)]
pub struct InferenceRequest {
    pub task: Task,
    /// None: `default-ner` or `default-classify`.
    pub adapter: Option<AdapterRef>,
    pub inputs: Vec<TextInput>,
    pub deadline: Option<Instant>,
    pub caller: Caller,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    pub queue: Duration,
    pub tokenize: Duration,
    pub compute: Duration,
    pub decode: Duration,
}

impl Timings {
    /// Of two things that were done one after the other.
    pub(super) fn then(self, next: Self) -> Self {
        Self {
            queue: self.queue + next.queue,
            tokenize: self.tokenize + next.tokenize,
            compute: self.compute + next.compute,
            decode: self.decode + next.decode,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Predictions {
    Ner(Vec<NerPrediction>),
    Classify(Vec<ClassifyPrediction>),
}

/// One request's answer: every input by the same adapter version.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub adapter: AdapterIdentity,
    /// What the adapter ran on.
    pub backbone: Arc<BackboneIdentity>,
    pub predictions: Predictions,
    /// What was asked, back for who shows it beside the predictions; empty in an analysis, whose answers share theirs.
    pub inputs: Vec<TextInput>,
    pub timings: Timings,
}

/// One adapter of `/v1/analyze`; the family is the adapter's own.
#[derive(Clone, Debug)]
pub struct AnalyzeTarget {
    /// As the caller wrote it; the key of the answer.
    pub asked: String,
    pub adapter: AdapterRef,
}

#[derive(Clone, Debug)]
pub struct AnalyzeRequest {
    pub inputs: Vec<TextInput>,
    pub targets: Vec<AnalyzeTarget>,
    pub ner: NerParameters,
    pub classify: ClassifyParameters,
    pub deadline: Option<Instant>,
}

#[derive(Clone, Debug)]
pub struct EmbedRequest {
    pub inputs: Vec<TextInput>,
    /// None: the base model.
    pub adapter: Option<AdapterRef>,
    pub parameters: EmbedParameters,
    pub deadline: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EmbedAnswer {
    pub adapter: Option<AdapterIdentity>,
    pub backbone: Arc<BackboneIdentity>,
    pub embeddings: Vec<Vec<f32>>,
    /// One an input: whether some of the text went unread.
    pub truncated: Vec<bool>,
    /// Tokens the encoder read, special tokens included.
    pub tokens: usize,
    pub timings: Timings,
}

#[derive(Clone, Debug)]
pub struct InferenceConfig {
    /// Tokens of one forward pass.
    pub batch_tokens_max: usize,
    /// Tokens in the queue and at work, over all adapters.
    pub queue_tokens_max: usize,
    /// Requests without a deadline of their own get this one.
    pub request_timeout: Duration,
    /// Threads that tokenize.
    pub tokenizer_threads: usize,
}

//! The one request path: resolve, tokenize, admit, queue, batch, compute, decode.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{
    AdapterIdentity, AdapterRef, ClassifyParameters, ClassifyPrediction, EmbedParameters, NerParameters, NerPrediction,
    Result, TextInput,
};
use crate::engine::Engine;
use crate::serving::Registry;
use crate::telemetry::Metrics;
use crate::text::Tokenizer;

/// What is wanted of every input of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    Ner(NerParameters),
    Classify(ClassifyParameters),
}

#[derive(Clone, Debug)]
pub struct InferenceRequest {
    pub task: Task,
    /// None: `default-ner` or `default-classify`.
    pub adapter: Option<AdapterRef>,
    pub inputs: Vec<TextInput>,
    pub deadline: Option<Instant>,
    /// Streams wait for a permit within their deadline where unary calls are refused at once.
    pub wait: bool,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    pub queue: Duration,
    pub tokenize: Duration,
    pub compute: Duration,
    pub decode: Duration,
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
    pub predictions: Predictions,
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
    pub embeddings: Vec<Vec<f32>>,
    pub tokens: usize,
    pub timings: Timings,
}

#[derive(Clone, Debug)]
pub struct InferenceConfig {
    /// Tokens of one forward pass.
    pub batch_tokens_max: usize,
    /// Tokens admitted and not yet answered, over all adapters.
    pub queue_tokens_max: usize,
    /// Requests without a deadline of their own get this one.
    pub request_timeout: Duration,
    /// Threads that tokenize.
    pub tokenizer_threads: usize,
}

/// Cloneable handle; a `tower::Service<InferenceRequest>`.
#[derive(Clone)]
pub struct Inference {
    registry: Arc<Registry>,
}

impl Inference {
    pub fn start(
        registry: Arc<Registry>,
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        metrics: Arc<Metrics>,
        config: InferenceConfig,
    ) -> Self {
        let _ = (engine, tokenizer, metrics, config);
        Self { registry }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Answers all inputs of a request, or fails with the first failure among them.
    pub async fn infer(&self, request: InferenceRequest) -> Result<Answer> {
        let _ = request;
        todo!()
    }

    /// One list of answers a target, in the order asked; a failing target fails alone.
    pub async fn analyze(&self, request: AnalyzeRequest) -> Result<Vec<(String, Result<Answer>)>> {
        let _ = request;
        todo!()
    }

    pub async fn embed(&self, request: EmbedRequest) -> Result<EmbedAnswer> {
        let _ = request;
        todo!()
    }

    /// A tiny forward pass off the queue, bounded by `timeout`.
    pub async fn probe(&self, timeout: Duration) -> Result<()> {
        let _ = timeout;
        todo!()
    }

    /// Waits until everything admitted is answered, or `deadline`; true if nothing was left.
    pub async fn drained(&self, deadline: Instant) -> bool {
        let _ = deadline;
        todo!()
    }
}

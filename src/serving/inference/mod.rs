//! The one request path: resolve, admit, tokenize, queue, batch, compute, decode. Leaves residency to the registry, batching to the
//! scheduler, wires to `transport`.

mod analyze;
mod answer;
mod decode;
mod expiry;
mod names;
mod pass;
mod read;
mod request;
mod shadow;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::domain::{Error, Result};
use crate::engine::Engine;
use crate::serving::admission::{Admission, AdmissionConfig};
use crate::serving::batcher::Limits;
use crate::serving::registry::Registry;
use crate::serving::scheduler::Scheduler;
use crate::telemetry::Metrics;

use expiry::within;
use names::Names;
use pass::Line;
use read::Reader;
pub use request::{
    AnalyzeRequest, AnalyzeTarget, Answer, EmbedAnswer, EmbedRequest, InferenceConfig, InferenceRequest, Predictions,
    Task, Timings,
};
use shadow::Shadows;

/// Tokens that a pass is filled to. A longer one computes no more tokens a second (weights are packed once, and tokens go through the
/// layers in smaller chunks anyway) unless its texts are equal, which share their lower layers; it lets those wait longer who come
/// meanwhile. A longer sequence goes alone.
const PASS_TOKENS: usize = 256;

/// Flows that a full pass has room for: each of four busy adapters has its turn in every pass.
const TURNS_A_PASS: usize = 4;

/// Cloneable handle; a `tower::Service<InferenceRequest>`.
#[derive(Clone)]
pub struct Inference {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Arc<Registry>,
    engine: Engine,
    line: Line,
    metrics: Arc<Metrics>,
    request_timeout: Duration,
    shadows: Shadows,
    names: Names,
}

impl Inference {
    /// Starts the batching task, which ends with the last handle. Call it within a tokio runtime.
    pub fn start(registry: Arc<Registry>, engine: Engine, metrics: Arc<Metrics>, config: InferenceConfig) -> Self {
        let InferenceConfig { batch_tokens_max, queue_tokens_max, request_timeout, tokenizer_threads } = config;
        let bounds = AdmissionConfig { queue_tokens_max, batch_tokens_max, workers: engine.threads() };
        let admission = Admission::new(bounds, metrics.clone());
        let pass_tokens = PASS_TOKENS.min(batch_tokens_max);
        let limits = Limits { batch_tokens_max: pass_tokens, quantum_tokens: (pass_tokens / TURNS_A_PASS).max(1) };
        let scheduler = Scheduler::start(engine.clone(), limits, admission.clone(), metrics.clone());
        let reader = Reader::new(tokenizer_threads);
        let line = Line { admission, reader, scheduler, metrics: metrics.clone(), batch_tokens_max };
        let (shadows, names) = (Shadows::default(), Names::default());
        Self { inner: Arc::new(Inner { registry, engine, line, metrics, request_timeout, shadows, names }) }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    /// Answers all inputs of a request, or fails with the first failure among them.
    pub async fn infer(&self, request: InferenceRequest) -> Result<Answer> {
        let inner = &*self.inner;
        let deadline = inner.deadline(request.deadline);
        let work = async move |progress| inner.answer(request, deadline, progress).await;
        let (answer, shadow) = within(deadline, &inner.metrics, work).await?;
        shadow.into_iter().for_each(|request| self.shadow(request));
        Ok(answer)
    }

    /// One answer a target, in the order asked; a failing target fails alone.
    pub async fn analyze(&self, request: AnalyzeRequest) -> Result<Vec<(String, Result<Answer>)>> {
        let inner = &*self.inner;
        let deadline = inner.deadline(request.deadline);
        within(deadline, &inner.metrics, async move |progress| inner.analyze(request, deadline, progress).await).await
    }

    /// One vector an input.
    pub async fn embed(&self, request: EmbedRequest) -> Result<EmbedAnswer> {
        let inner = &*self.inner;
        let deadline = inner.deadline(request.deadline);
        within(deadline, &inner.metrics, async move |progress| inner.embed(request, deadline, progress).await).await
    }

    /// A tiny forward pass off the queue: it takes the next free worker, behind at most one batch. `unavailable` after `timeout`.
    pub async fn probe(&self, timeout: Duration) -> Result<()> {
        let pass = self.inner.engine.run(self.inner.tiny_batch()?);
        let late = |_| Error::unavailable(format!("the engine did not answer within {} ms", timeout.as_millis()));
        let answer = tokio::time::timeout(timeout, pass).await.map_err(late)??;
        answer.outputs.into_iter().try_for_each(|output| output.map(drop))
    }

    /// Waits until everything admitted is answered, or `deadline`; true if nothing was left.
    pub async fn drained(&self, deadline: Instant) -> bool {
        self.inner.line.admission.drained(deadline).await
    }
}

impl Inner {
    fn deadline(&self, asked: Option<Instant>) -> Instant {
        asked.unwrap_or_else(|| Instant::now() + self.request_timeout)
    }
}

impl tower::Service<InferenceRequest> for Inference {
    type Response = Answer;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer>> + Send>>;

    /// Always ready: admission decides by tokens, which only the request itself tells.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: InferenceRequest) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.infer(request).await })
    }
}

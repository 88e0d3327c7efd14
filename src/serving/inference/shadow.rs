//! Shadows: the same request on another version after the answer, when there is room; nobody waits for it.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::serving::Inference;
use crate::serving::inference::request::InferenceRequest;

/// Shadow requests at once: they may never crowd out a caller.
const SHADOWS_MAX: usize = 4;
/// They run only while at most one part in so many of the queue is taken.
const QUEUE_SHARE: usize = 8;

pub(super) struct Shadows(Arc<Semaphore>);

impl Default for Shadows {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SHADOWS_MAX)))
    }
}

impl Inference {
    /// Runs `request` beside what callers ask, or not at all. Its predictions are counted under its own adapter; its failures are logged.
    pub(super) fn shadow(&self, request: InferenceRequest) {
        let admission = &self.inner.line.admission;
        let place = self.inner.shadows.0.clone().try_acquire_owned();
        let is_quiet = admission.queued() * QUEUE_SHARE <= admission.tokens_max();
        let (Ok(place), true) = (place, is_quiet) else {
            debug!("a shadow request was skipped: callers come first");
            return;
        };
        let this = self.clone();
        tokio::spawn(async move {
            let _place = place;
            let adapter = request.adapter.clone();
            if let Err(error) = this.inner.answer(request, this.inner.deadline(None), Arc::default()).await {
                warn!(adapter = ?adapter.map(|a| a.to_string()), %error, "a shadow request failed");
            }
        });
    }
}

//! A request's deadline, and the count of those that expired or were given up, by where they were.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout_at;

use crate::domain::{Error, ErrorKind, Result};
use crate::serving::scheduler::Progress;
use crate::telemetry::{LabelValue as _, Metrics};

/// Counts the request as expired unless it ended: dropped with its future, it knows that the client left.
struct Unfinished<'a> {
    progress: Arc<Progress>,
    metrics: &'a Metrics,
    ended: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.expired.inc(self.progress.stage());
        }
    }
}

/// Runs `work` until `deadline`, then drops it: what it has in the queue is skipped.
pub(super) async fn within<R>(
    deadline: Instant,
    metrics: &Metrics,
    work: impl AsyncFnOnce(Arc<Progress>) -> Result<R>,
) -> Result<R> {
    let progress = Arc::new(Progress::default());
    let mut unfinished = Unfinished { progress: progress.clone(), metrics, ended: false };
    let expired = || Error::deadline_exceeded(format!("the deadline passed at stage {}", progress.stage().as_str()));
    if deadline <= Instant::now() {
        return Err(expired());
    }
    let outcome = timeout_at(deadline.into(), work(progress.clone())).await.map_err(|_| expired())?;
    // The queue may skip what expired a moment before the timer says so: to the caller that is the same.
    let skipped = |error: &Error| error.kind() == ErrorKind::Unavailable && deadline <= Instant::now();
    if outcome.as_ref().is_err_and(skipped) {
        return Err(expired());
    }
    unfinished.ended = true;
    outcome
}

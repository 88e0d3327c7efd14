//! From the signal to the last answer: unready, finish what was accepted, stop within the deadline.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::domain::Result;
use crate::serving::jobs::Jobs;
use crate::serving::{Health, Inference};
use crate::transport::Server;

/// Returns at SIGTERM or SIGINT.
pub(super) async fn signalled() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

/// Drains everything; true if nothing accepted was left without an answer.
pub(super) async fn drain(
    server: Server,
    inference: &Inference,
    jobs: &Jobs,
    health: &Health,
    timeout: Duration,
) -> bool {
    let deadline = Instant::now() + timeout;
    health.start_draining();
    let (finished, _stopped) = tokio::join!(server.shut_down(deadline), jobs.shut_down());
    let answered = inference.drained(deadline).await;
    finished && answered
}

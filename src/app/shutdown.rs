//! From the signal to the last answer: unready, finish what was accepted, stop within the deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::app::signals::signalled;
use crate::app::wiring::block_on_this_thread;
use crate::domain::Result;
use crate::serving::jobs::Jobs;
use crate::serving::{Health, Inference};
use crate::transport::Server;

/// Whether SIGTERM, SIGINT or SIGHUP has come, for work that does not wait for anything.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens on a thread of its own until the process ends.
    pub(super) fn new() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let heard = asked.clone();
        let listen = move || block_on_this_thread(signalled()).map(|_| heard.store(true, Ordering::Relaxed));
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
        Ok(Self(asked))
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Drains everything by the deadline; true if nothing accepted was left without an answer.
pub(super) async fn drain(
    server: Server,
    inference: &Inference,
    jobs: &Jobs,
    health: &Health,
    timeout: Duration,
) -> bool {
    let deadline = Instant::now() + timeout;
    health.start_draining();
    // A job that does not stop in time goes on from its checkpoint after the next start: it costs no answer.
    let jobs_stop = timeout_at(deadline.into(), jobs.shut_down());
    let (finished, _stopped) = tokio::join!(server.shut_down(deadline), jobs_stop);
    let answered = inference.drained(deadline).await;
    finished && answered
}

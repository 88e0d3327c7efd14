//! The thread that reads and packs adapters, one after the other: loads take neither the engine's threads nor more than one core from
//! them, however many are asked for, and what they allocate for a moment is used again by the next one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tracing::error;

use crate::domain::{Error, Result};
use crate::engine::give_back_memory;

/// What loads and evictions leave between what stays is given back to the system after so many of them: it grew to a tenth of the
/// resident set within a few thousand.
const LOADS_BETWEEN_TRIMS: usize = 256;

/// Loads that wait on the thread; who asks for more waits to be let in. A load takes milliseconds.
const LOADS_WAITING_MAX: usize = 64;

type Load = Box<dyn FnOnce() + Send>;

/// Ends with its last handle.
pub(super) struct Loader(mpsc::Sender<Load>);

impl Loader {
    pub(super) fn start() -> Result<Self> {
        let (loads, mut queue) = mpsc::channel::<Load>(LOADS_WAITING_MAX);
        let run = move || {
            for count in 1.. {
                let Some(load) = queue.blocking_recv() else { break };
                if catch_unwind(AssertUnwindSafe(load)).is_err() {
                    error!("the load of an adapter panicked");
                }
                if count % LOADS_BETWEEN_TRIMS == 0 {
                    give_back_memory();
                }
            }
        };
        thread::Builder::new().name("adapters".to_owned()).spawn(run)?;
        Ok(Self(loads))
    }

    /// Runs `work` on the thread. It goes on if the asker leaves.
    pub(super) async fn run<R: Send + 'static>(&self, work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
        let (reply, answer) = oneshot::channel();
        let load = move || drop(reply.send(work()));
        let unfinished = || Error::internal("the load of an adapter ended unexpectedly");
        self.0.send(Box::new(load)).await.map_err(|_gone| unfinished())?;
        answer.await.map_err(|_gone| unfinished())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_load_that_panics_fails_alone() {
        let loader = Loader::start().unwrap();
        let panics = loader.run(|| -> Result<()> { panic!("no") }).await;
        assert!(panics.unwrap_err().to_string().contains("unexpectedly"));
        assert_eq!(loader.run(|| Ok(7)).await.unwrap(), 7);
    }
}

//! Long work that a caller waits for: reading and checking data. Each on a thread of its own that yields to inference, a few at once,
//! and given up when its caller goes or its deadline passes. What the work is, is left to whoever has it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use crate::domain::{Cancel, Error, Result};
use crate::engine::give_back_memory;
use crate::training::yield_to_inference;

/// The longest that any of it may take: the largest data is read and checked in about a minute of one core.
const WORK_TIME_MAX: Duration = Duration::from_secs(600);

/// When a refused caller may come again: most work is done by then.
const RETRY_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct LongWork {
    /// Of the threads, and in messages: `uploads`.
    what: &'static str,
    at_once_max: usize,
    free: Arc<Semaphore>,
}

impl LongWork {
    pub(super) fn new(what: &'static str, at_once_max: usize) -> Self {
        Self { what, at_once_max, free: Arc::new(Semaphore::new(at_once_max)) }
    }

    /// Fails with `overloaded` while as many are at work as may be, and as `work` does. When the returned future is dropped, as the
    /// caller's connection is gone, `work` ends at its next look at the [`Cancel`]; it counts until then.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce(&Cancel) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.free.clone().try_acquire_owned().map_err(|_| self.overloaded())?;
        let latest = Instant::now() + WORK_TIME_MAX;
        let cancel = Cancel::at(Some(deadline.map_or(latest, |deadline| deadline.min(latest))));
        let _caller = cancel.on_drop();
        let (answer, answered) = oneshot::channel();
        thread::Builder::new().name(self.what.to_owned()).spawn(move || {
            yield_to_inference();
            let outcome = work(&cancel);
            give_back_memory(); // what was read is gone, but for what a caller asked for
            drop(permit);
            let _caller_is_gone = answer.send(outcome);
        })?;
        let died = |error| Error::internal(format!("{} ran into a bug of the server", self.what)).with_source(error);
        answered.await.map_err(died)?
    }

    fn overloaded(&self) -> Error {
        let message = format!("{} {} are at work, as many as may be at once; try again", self.at_once_max, self.what);
        Error::overloaded(message, RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::Builder;

    use super::*;
    use crate::domain::ErrorKind;

    /// Works until it is not wanted any more, and says so.
    fn endless(started: mpsc::Sender<()>, ended: mpsc::Sender<ErrorKind>) -> impl FnOnce(&Cancel) -> Result<()> + Send {
        move |cancel| {
            started.send(()).expect("the test listens");
            loop {
                if let Err(error) = cancel.check() {
                    ended.send(error.kind()).expect("the test listens");
                    return Err(error);
                }
                thread::yield_now();
            }
        }
    }

    #[test]
    fn work_ends_with_its_caller_and_more_than_allowed_is_refused() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime");
        let works = Arc::new(LongWork::new("tests", 1));
        let ((started, starts), (ended, ends)) = (mpsc::channel(), mpsc::channel());
        let one = works.clone();
        let caller = runtime.spawn(async move { one.run(None, endless(started, ended)).await });
        starts.recv().expect("it starts");
        let refused = runtime.block_on(works.run(None, |_| Ok(()))).expect_err("one is at work");
        assert_eq!((refused.kind(), refused.retry_after()), (ErrorKind::Overloaded, Some(RETRY_AFTER)));
        caller.abort();
        assert_eq!(ends.recv(), Ok(ErrorKind::Unavailable), "its caller is gone");
        while works.free.available_permits() == 0 {
            thread::yield_now();
        }
        assert_eq!(runtime.block_on(works.run(None, |_| Ok(7))).ok(), Some(7), "its place is free again");
    }

    #[test]
    fn work_ends_at_its_deadline_and_a_panic_is_an_error() {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let works = LongWork::new("tests", 1);
        let ((started, _starts), (ended, _ends)) = (mpsc::channel(), mpsc::channel());
        let late = runtime.block_on(works.run(Some(Instant::now()), endless(started, ended)));
        assert_eq!(late.map_err(|error| error.kind()), Err(ErrorKind::DeadlineExceeded));
        let died = runtime.block_on(works.run(None, |_| -> Result<()> { panic!("a bug") }));
        assert_eq!(died.map_err(|error| error.kind()), Err(ErrorKind::Internal));
        assert!(runtime.block_on(works.run(None, |_| Ok(()))).is_ok(), "its place is free again");
    }
}

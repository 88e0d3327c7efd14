//! Threads for training: named, of low priority, with room for a recursive backward pass. Results come in order, whichever thread made them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::domain::{Error, Result};
use crate::model::kernels::lower_priority;
use crate::training::fine_tune::Control;

/// candle's backward pass recurses over the graph; six layers need about a tenth of this, and untouched pages cost nothing.
const STACK_BYTES: usize = 64 << 20;

/// Serving goes first: a training thread takes what the request path leaves.
const NICENESS: i32 = 10;

/// The calling thread takes from now on what the request path leaves.
pub fn yield_to_inference() {
    lower_priority(NICENESS);
}

/// Why a run ended before its end.
#[derive(Debug)]
pub(super) enum Halt {
    /// The observer asked for it.
    Stopped(Control),
    Failed(Error),
}

/// What may be stopped from outside.
pub(super) type Run<T> = std::result::Result<T, Halt>;

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Asked between pieces of work.
pub(super) type Steer<'a> = &'a mut dyn FnMut() -> Control;

/// How many threads a run may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workers(pub usize);

impl Workers {
    /// `work(0)`, …, `work(count − 1)`, in that order. `steer` is asked after each piece; what is under way then still ends.
    pub(super) fn map<T: Send>(
        self,
        count: usize,
        steer: Steer<'_>,
        work: impl Fn(usize) -> Result<T> + Sync,
    ) -> Run<Vec<T>> {
        let (next, halted) = (AtomicUsize::new(0), AtomicBool::new(false));
        let pieces = || {
            let taken = (!halted.load(Ordering::Relaxed)).then(|| next.fetch_add(1, Ordering::Relaxed));
            taken.filter(|&piece| piece < count)
        };
        thread::scope(|scope| {
            // one place a thread: a thread that is ahead waits for the collector
            let (sender, receiver) = mpsc::sync_channel(self.0.max(1));
            let mut threads = Vec::new();
            for index in 0..self.0.clamp(1, count.max(1)) {
                let (sender, pieces, work) = (sender.clone(), &pieces, &work);
                let builder = thread::Builder::new().name(format!("train-{index}")).stack_size(STACK_BYTES);
                threads.push(builder.spawn_scoped(scope, move || {
                    yield_to_inference();
                    while let Some(piece) = pieces() {
                        if sender.send((piece, work(piece))).is_err() {
                            break;
                        }
                    }
                })?);
            }
            drop(sender);
            let result = collect(count, receiver, steer);
            halted.store(true, Ordering::Relaxed);
            // joined by hand: a panic has become an error already
            threads.into_iter().for_each(|thread| drop(thread.join()));
            result
        })
    }
}

/// Takes the results as they come until all are there, one failed, or `steer` ends it. Dropping `receiver` frees waiting threads.
fn collect<T>(count: usize, receiver: mpsc::Receiver<(usize, Result<T>)>, steer: Steer<'_>) -> Run<Vec<T>> {
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    for _ in 0..count {
        let (piece, result) = receiver.recv().map_err(|_| Error::internal("a training thread panicked"))?;
        results[piece] = Some(result?);
        match steer() {
            Control::Continue => {}
            stop => return Err(Halt::Stopped(stop)),
        }
    }
    Ok(results.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go_on() -> Control {
        Control::Continue
    }

    #[test]
    fn results_come_in_order_for_any_number_of_threads() {
        for threads in 0..5 {
            for count in 0..9 {
                let squares = Workers(threads).map(count, &mut go_on, |i| Ok(i * i)).expect("no piece fails");
                assert_eq!(squares, (0..count).map(|i| i * i).collect::<Vec<_>>(), "{threads} threads");
            }
        }
    }

    #[test]
    fn the_first_failure_ends_the_work() {
        let failing = |i| if i == 3 { Err(Error::internal("piece 3")) } else { Ok(i) };
        let Err(Halt::Failed(error)) = Workers(2).map(1000, &mut go_on, failing) else { panic!("piece 3 fails") };
        assert_eq!(error.message(), "piece 3");
    }

    #[test]
    fn a_stop_is_heard_between_pieces() {
        let mut asked = 0;
        let mut steer = || {
            asked += 1;
            if asked < 5 { Control::Continue } else { Control::Cancel }
        };
        let done = AtomicUsize::new(0);
        let result = Workers(2).map(1000, &mut steer, |_| Ok(done.fetch_add(1, Ordering::Relaxed)));
        assert!(matches!(result, Err(Halt::Stopped(Control::Cancel))));
        assert!(done.into_inner() < 20);
    }

    #[test]
    fn a_panic_in_a_thread_is_an_error_here() {
        let result = Workers(2).map(3, &mut go_on, |i| if i == 1 { panic!("piece 1") } else { Ok(i) });
        let Err(Halt::Failed(error)) = result else { panic!("piece 1 panics") };
        assert_eq!(error.message(), "a training thread panicked");
    }
}

//! How callers and shutdown reach the run under way: asked at every training step, so it is two atomic reads.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::JobId;
use crate::serving::jobs::journal::Wish;
use crate::training::Control;

/// A copy of the running job's wish in the journal, which alone is the truth.
#[derive(Default)]
pub(super) struct Steering {
    current: Mutex<Option<JobId>>,
    /// 0 none, 1 pause, 2 cancel; written under the lock of `current`.
    wish: AtomicU8,
    stopping: AtomicBool,
}

impl Steering {
    /// From here on wishes for `id` are heeded. The caller then passes on the wish the journal has by now.
    pub(super) fn begin(&self, id: &JobId) {
        let mut current = self.lock();
        *current = Some(id.clone());
        self.wish.store(0, Ordering::Release);
    }

    pub(super) fn end(&self) {
        *self.lock() = None;
    }

    /// Wishes for a job that is not running are left to the journal.
    pub(super) fn ask(&self, id: &JobId, wish: Option<Wish>) {
        let current = self.lock();
        if current.as_ref() == Some(id) {
            let number = wish.map_or(0, |wish| if wish == Wish::Pause { 1 } else { 2 });
            self.wish.store(number, Ordering::Release);
        }
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// A cancelled run needs no checkpoint; one that stops with the server does. Past training a pause comes too late.
    pub(super) fn control(&self, trains: bool) -> Control {
        match self.wish.load(Ordering::Acquire) {
            2 => Control::Cancel,
            1 if trains => Control::Pause,
            _ if self.is_stopping() => Control::Pause,
            _ => Control::Continue,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<JobId>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_reaches_its_own_job_alone() {
        let (one, two) = (JobId("job_1".into()), JobId("job_2".into()));
        let steering = Steering::default();
        steering.ask(&one, Some(Wish::Cancel));
        steering.begin(&one);
        assert_eq!(steering.control(true), Control::Continue);
        steering.ask(&two, Some(Wish::Cancel));
        assert_eq!(steering.control(true), Control::Continue);
        steering.ask(&one, Some(Wish::Pause));
        assert_eq!(steering.control(true), Control::Pause);
        assert_eq!(steering.control(false), Control::Continue);
        steering.ask(&one, None);
        assert_eq!(steering.control(true), Control::Continue);
        steering.stop();
        assert_eq!(steering.control(true), Control::Pause);
        steering.ask(&one, Some(Wish::Cancel));
        assert_eq!(steering.control(true), Control::Cancel);
        steering.end();
        steering.begin(&two);
        assert_eq!(steering.control(false), Control::Pause);
    }
}

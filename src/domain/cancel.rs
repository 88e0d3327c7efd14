//! Whether work is still wanted: its caller waits for it, and its deadline has not passed. Who works, and how often it looks, is left to the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::domain::{Error, Result};

/// What long work asks every few thousand rows. Clones share one flag; the default is wanted for ever.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    cancelled: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Cancel {
    /// Wanted until `deadline`, where there is one.
    pub fn at(deadline: Option<Instant>) -> Self {
        Self { cancelled: Arc::default(), deadline }
    }

    /// Nobody waits any more. The work ends at its next [`Cancel::check`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Fails with `unavailable` once it was cancelled, with `deadline_exceeded` once its deadline has passed.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::unavailable("the work was given up: nobody waits for its answer"));
        }
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => {
                Err(Error::deadline_exceeded("the deadline passed before the work was done"))
            }
            _ => Ok(()),
        }
    }

    /// Cancels when it is dropped: held by the future of the caller, which goes with its connection.
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// See [`Cancel::on_drop`].
#[derive(Debug)]
pub struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::ErrorKind;

    #[test]
    fn work_is_wanted_until_its_caller_goes_or_its_deadline_passes() {
        let kind = |cancel: &Cancel| cancel.check().err().map(|error| error.kind());
        let now = Instant::now();
        assert_eq!(kind(&Cancel::default()), None);
        assert_eq!(kind(&Cancel::at(Some(now))), Some(ErrorKind::DeadlineExceeded));
        let cancel = Cancel::at(now.checked_add(Duration::from_secs(3600)));
        let guard = cancel.on_drop();
        assert_eq!(kind(&cancel), None);
        drop(guard);
        assert_eq!(kind(&cancel.clone()), Some(ErrorKind::Unavailable), "clones share the flag");
    }
}

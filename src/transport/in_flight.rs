//! The bound on bytes in flight: bodies, messages and answers of all connections together. Who holds them, and who is cut for them, is `server`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// Of each connection, for nobody else: small requests get through while large ones fill what is shared.
pub(super) const CONNECTION_BYTES_OWN: usize = 32 << 10;

/// Bytes that several connections hold of one bound.
pub(super) struct Pool {
    used: AtomicUsize,
    /// The most that was used since it was last asked for.
    peak: AtomicUsize,
    bytes_max: usize,
    /// Bodies that wait for room.
    waiting: AtomicUsize,
    freed: Arc<Notify>,
    /// Rings when a body begins to wait.
    pub(super) pressed: Notify,
}

impl Pool {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            bytes_max,
            waiting: AtomicUsize::new(0),
            freed: Arc::default(),
            pressed: Notify::new(),
        }
    }

    /// Takes `bytes` if they fit.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|&used| used <= self.bytes_max);
        let taken = bytes == 0 || self.used.fetch_update(Relaxed, Relaxed, fits).is_ok();
        self.peak.fetch_max(self.used(), Relaxed);
        taken
    }

    /// Takes bytes that exist already, over the bound if need be.
    pub(super) fn take_anyway(&self, bytes: usize) {
        if bytes > 0 {
            let used = self.used.fetch_add(bytes, Relaxed) + bytes;
            self.peak.fetch_max(used, Relaxed);
        }
    }

    pub(super) fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, Relaxed);
        if self.waiting() > 0 {
            self.freed.notify_waiters();
        }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// The most that was used since the last call.
    pub(super) fn take_peak(&self) -> usize {
        self.peak.swap(self.used(), Relaxed)
    }
}

/// A place among those that wait for room.
pub(super) struct Waiting(Arc<Pool>);

impl Waiting {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        pool.waiting.fetch_add(1, Relaxed);
        pool.pressed.notify_one();
        Self(pool)
    }

    /// Something was given back since this was called.
    pub(super) fn freed(&self) -> tokio::sync::futures::OwnedNotified {
        self.0.freed.clone().notified_owned()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_taken_unless_it_exists_already() {
        let pool = Pool::new(100);
        assert!(pool.take(60) && !pool.take(60) && pool.take(40) && pool.take(0));
        pool.take_anyway(20);
        assert!(!pool.take(1));
        pool.give_back(100);
        assert_eq!((pool.used(), pool.take_peak(), pool.take_peak()), (20, 120, 20));
    }

    #[tokio::test]
    async fn who_waits_hears_of_what_is_given_back_and_not_of_what_was_refused() {
        let pool = Arc::new(Pool::new(100));
        pool.take_anyway(100);
        let waiting = Waiting::new(pool.clone());
        let freed = waiting.freed();
        tokio::pin!(freed);
        assert!(!pool.take(10));
        assert!(futures_util::poll!(freed.as_mut()).is_pending());
        pool.give_back(10);
        assert!(futures_util::poll!(freed.as_mut()).is_ready());
    }
}

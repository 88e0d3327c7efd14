//! Who waits for a job's next event. Nothing is kept for jobs that nobody watches.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::domain::JobId;

#[derive(Default)]
pub(super) struct Watchers(Mutex<HashMap<JobId, watch::Sender<()>>>);

impl Watchers {
    /// Changes after this call are seen by the receiver: subscribe first, then look.
    pub(super) fn subscribe(&self, id: &JobId) -> watch::Receiver<()> {
        let mut senders = self.lock();
        senders.retain(|_, sender| sender.receiver_count() > 0);
        senders.entry(id.clone()).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    pub(super) fn ring(&self, ids: &[JobId]) {
        let senders = self.lock();
        ids.iter().filter_map(|id| senders.get(id)).for_each(|sender| sender.send_replace(()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

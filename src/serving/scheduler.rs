//! Between the requests and the engine: one queue, and a task that picks a batch whenever a worker is free, never sooner and never later.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tracing::error;

use crate::domain::{Error, Result};
use crate::engine::{Batch, BatchOutput, BatchSequence, Engine, Output, Slot};
use crate::serving::admission::{Admission, Hold};
use crate::serving::batcher::{Batcher, Limits};
use crate::serving::flow::{Caller, Flow};
use crate::telemetry::{ExpiredStage, Metrics};

/// Where a request is; tells where it expired.
#[derive(Default)]
pub(super) struct Progress(AtomicU8);

impl Progress {
    pub(super) fn queued(&self) {
        self.0.fetch_max(1, Ordering::Relaxed);
    }

    fn computing(&self) {
        self.0.fetch_max(2, Ordering::Relaxed);
    }

    pub(super) fn stage(&self) -> ExpiredStage {
        match self.0.load(Ordering::Relaxed) {
            0 => ExpiredStage::Admission,
            1 => ExpiredStage::Queue,
            _ => ExpiredStage::Compute,
        }
    }
}

/// Sequences that go into the same batch, and who waits for them.
pub(super) struct Item {
    pub(super) sequences: Vec<BatchSequence>,
    pub(super) deadline: Instant,
    pub(super) enqueued_at: Instant,
    pub(super) progress: Arc<Progress>,
    /// Closed once the caller is gone.
    pub(super) reply: oneshot::Sender<Done>,
    /// The queue's tokens that it takes, also if its request has been given up.
    pub(super) hold: Hold,
}

impl Item {
    pub(super) fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.ids.len()).sum()
    }

    fn is_wanted(&self, now: Instant) -> bool {
        now < self.deadline && !self.reply.is_closed()
    }
}

/// The outputs of one item, in its order.
pub(super) struct Done {
    pub(super) outputs: Vec<Result<Output>>,
    pub(super) queue: Duration,
}

/// Owns the queue and its task, which ends with the last handle.
pub(super) struct Scheduler {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    queue: Mutex<Batcher<Flow, Item>>,
    arrived: Notify,
    engine: Engine,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
}

impl Scheduler {
    pub(super) fn start(engine: Engine, limits: Limits, admission: Arc<Admission>, metrics: Arc<Metrics>) -> Self {
        let queue = Mutex::new(Batcher::new(limits));
        let shared = Arc::new(Shared { queue, arrived: Notify::new(), engine, admission, metrics });
        let task = tokio::spawn(schedule(shared.clone()));
        Self { shared, task }
    }

    /// Queues items of one caller, in order. Bounded by what they hold.
    pub(super) fn push(&self, flow: Flow, caller: Caller, items: Vec<Item>) {
        items.iter().for_each(|item| item.progress.queued());
        self.shared.queue().push(flow, caller.id(), items.into_iter().map(|item| (item.tokens(), item)));
        self.shared.arrived.notify_one();
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The engine never idles while work waits, and never waits for a fuller batch.
async fn schedule(shared: Arc<Shared>) {
    loop {
        while !shared.queue().is_empty() {
            let Ok(slot) = shared.engine.slot().await else {
                let dropped = shared.queue().drain().len();
                error!(dropped, "the engine is lost: queued work cannot be answered");
                break;
            };
            let now = Instant::now();
            let items = shared.queue().pick(|item| item.is_wanted(now));
            if !items.is_empty() {
                tokio::spawn(run(shared.clone(), slot, items, now));
            }
        }
        shared.arrived.notified().await;
    }
}

async fn run(shared: Arc<Shared>, slot: Slot, items: Vec<Item>, picked_at: Instant) {
    items.iter().for_each(|item| item.progress.computing());
    let batch = Batch { sequences: items.iter().flat_map(|item| item.sequences.iter().cloned()).collect() };
    shared.observe_batch(&batch);
    let tokens = items.iter().map(Item::tokens).sum();
    let sequences = batch.sequences.len();
    let answer = slot.run(batch).await;
    let outputs = match answer {
        Ok(BatchOutput { outputs, prefix_tokens_saved }) => {
            shared.admission.record(tokens, picked_at.elapsed());
            shared.metrics.prefix_tokens_saved.inc_by(prefix_tokens_saved as u64);
            outputs
        }
        Err(error) => vec![Err(error); sequences],
    };
    deliver(items, outputs, picked_at);
}

fn deliver(items: Vec<Item>, outputs: Vec<Result<Output>>, picked_at: Instant) {
    let mut outputs = outputs.into_iter();
    for item in items {
        let own = outputs.by_ref().take(item.sequences.len()).collect();
        let queue = picked_at.saturating_duration_since(item.enqueued_at);
        let Item { reply, hold, .. } = item;
        // First, so that who is answered finds its tokens free again.
        drop(hold);
        let _caller_gone = reply.send(Done { outputs: own, queue });
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Batcher<Flow, Item>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observe_batch(&self, batch: &Batch) {
        let tokens: usize = batch.sequences.iter().map(|sequence| sequence.ids.len()).sum();
        let adapters: std::collections::HashSet<_> =
            batch.sequences.iter().map(|sequence| sequence.work.adapter().map(Arc::as_ptr)).collect();
        self.metrics.batch_tokens.observe(tokens as f64);
        self.metrics.batch_sequences.observe(batch.sequences.len() as f64);
        self.metrics.batch_adapters.observe(adapters.len() as f64);
    }
}

/// The answer to an item, or `unavailable` if the engine went away with it.
pub(super) async fn answer(reply: oneshot::Receiver<Done>) -> Result<Done> {
    reply.await.map_err(|_dropped| Error::unavailable("the engine stopped before it answered"))
}

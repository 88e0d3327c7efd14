//! The threads that own the device, and the cloneable async handle to them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::error;

use crate::domain::{Error, Result};
use crate::engine::forward::forward;
use crate::engine::isolate::isolate;
use crate::engine::prefix::PrefixCache;
use crate::engine::{Batch, BatchOutput, BatchSequence, Output};
use crate::model::Encoder;

#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Forward passes that run at once, one thread each.
    pub threads: usize,
    /// For activations of texts below their adapters' layers, kept between passes, in bytes; 0 keeps none.
    pub prefix_cache_bytes: usize,
}

/// Handle to the engine; clones share it. The threads end when the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    threads: usize,
    /// A permit is a worker that waits for a batch; closed once a worker is gone.
    idle: Arc<Semaphore>,
    jobs: SyncSender<Job>,
}

/// What a worker takes over: it gives `slot` back when it can take the next.
struct Job {
    batch: Batch,
    reply: oneshot::Sender<BatchOutput>,
    slot: OwnedSemaphorePermit,
}

/// A free worker, reserved: the batch for it can be picked as late as possible. Dropping it frees the worker for others.
pub struct Slot {
    permit: OwnedSemaphorePermit,
    jobs: SyncSender<Job>,
}

impl Engine {
    pub fn start(config: &EngineConfig) -> Result<Self> {
        let threads = config.threads.max(1);
        let idle = Arc::new(Semaphore::new(threads));
        // As many places as permits: who holds a slot never waits here.
        let (jobs, queue) = sync_channel(threads);
        let queue = Arc::new(Mutex::new(queue));
        let prefixes = Arc::new(PrefixCache::new(config.prefix_cache_bytes));
        for at in 0..threads {
            let worker = Worker { queue: queue.clone(), idle: idle.clone(), prefixes: prefixes.clone() };
            thread::Builder::new().name(format!("engine-{at}")).spawn(move || worker.run())?;
        }
        Ok(Self { threads, idle, jobs })
    }

    /// Forward passes that run at once.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether a worker is gone; nothing is answered any more.
    pub fn is_lost(&self) -> bool {
        self.idle.is_closed()
    }

    /// Waits for a free worker, first come first served. `unavailable` once the engine is lost.
    pub async fn slot(&self) -> Result<Slot> {
        let permit = self.idle.clone().acquire_owned().await.map_err(|_closed| lost())?;
        Ok(Slot { permit, jobs: self.jobs.clone() })
    }

    /// Runs one batch on a free worker; waits for one if all are busy. `unavailable` once the engine is lost.
    pub async fn run(&self, batch: Batch) -> Result<BatchOutput> {
        self.slot().await?.run(batch).await
    }
}

impl Slot {
    /// Runs `batch` on this worker. If the future is dropped the pass still ends, unheard.
    pub async fn run(self, batch: Batch) -> Result<BatchOutput> {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job { batch, reply, slot: self.permit }).map_err(|_gone| lost())?;
        answer.await.map_err(|_gone| lost())
    }
}

fn lost() -> Error {
    Error::unavailable("the engine has stopped; the server must be restarted")
}

struct Worker {
    queue: Arc<Mutex<Receiver<Job>>>,
    idle: Arc<Semaphore>,
    prefixes: Arc<Option<PrefixCache>>,
}

impl Worker {
    fn run(self) {
        while let Some(job) = self.next() {
            let output = answer(&job.batch.sequences, self.prefixes.as_ref().as_ref());
            drop(job.slot);
            // The asker may have gone; the work is done all the same.
            let _unheard = job.reply.send(output);
        }
    }

    fn next(&self) -> Option<Job> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

/// However a worker ends, nobody waits for it any longer.
impl Drop for Worker {
    fn drop(&mut self) {
        self.idle.close();
        if thread::panicking() {
            error!(thread = thread::current().name(), "an engine thread is gone: the engine is lost");
        }
    }
}

/// One pass for each network among `sequences`; most batches have one.
pub(super) fn answer(sequences: &[BatchSequence], cache: Option<&PrefixCache>) -> BatchOutput {
    let groups = by_encoder(sequences);
    if let [_only] = &groups[..] {
        return pass(sequences[0].work.encoder(), sequences, cache);
    }
    let mut outputs: Vec<Result<Output>> = vec![Err(lost()); sequences.len()];
    let mut prefix_tokens_saved = 0;
    for of_one in groups {
        let own: Vec<BatchSequence> = of_one.iter().map(|&at| sequences[at].clone()).collect();
        let output = pass(own[0].work.encoder(), &own, cache);
        prefix_tokens_saved += output.prefix_tokens_saved;
        of_one.into_iter().zip(output.outputs).for_each(|(at, output)| outputs[at] = output);
    }
    BatchOutput { outputs, prefix_tokens_saved }
}

/// Indices of the sequences of each network, the first one's first.
fn by_encoder(sequences: &[BatchSequence]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, sequence) in sequences.iter().enumerate() {
        let encoder = sequence.work.encoder();
        let own = groups.iter_mut().find(|group| Arc::ptr_eq(sequences[group[0]].work.encoder(), encoder));
        match own {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

/// All `sequences` are this encoder's.
fn pass(encoder: &Encoder, sequences: &[BatchSequence], cache: Option<&PrefixCache>) -> BatchOutput {
    let saved = std::cell::Cell::new(0);
    let outputs = isolate(sequences, &|sequences: &[BatchSequence]| {
        let output = forward(encoder, sequences, cache).map_err(|error| match sequences {
            [one] => error.context(one.work.describe()),
            _ => error,
        })?;
        saved.set(saved.get() + output.prefix_tokens_saved);
        Ok(output.outputs)
    });
    BatchOutput { outputs, prefix_tokens_saved: saved.get() }
}

//! The threads that own the device, and the cloneable async handle to them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::error;

use crate::adapter::AdapterBundle;
use crate::domain::{AdapterIdentity, EmbedParameters, Error, HeadForm, Result};
use crate::engine::forward::forward;
use crate::engine::isolate::isolate;
use crate::engine::{Batch, BatchOutput, BatchSequence, ResidentAdapter, Work};
use crate::model::Encoder;

/// A text no tokenizer is needed for: every vocabulary has a token 0.
const TRIAL_IDS: [u32; 4] = [0; 4];

#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Forward passes that run at once, one thread each.
    pub threads: usize,
}

/// Handle to the engine; clones share it. The threads end when the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    encoder: Arc<Encoder>,
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
    pub fn start(encoder: Arc<Encoder>, config: &EngineConfig) -> Result<Self> {
        let threads = config.threads.max(1);
        let idle = Arc::new(Semaphore::new(threads));
        // As many places as permits: who holds a slot never waits here.
        let (jobs, queue) = sync_channel(threads);
        let queue = Arc::new(Mutex::new(queue));
        for at in 0..threads {
            let worker = Worker { encoder: encoder.clone(), queue: queue.clone(), idle: idle.clone() };
            thread::Builder::new().name(format!("engine-{at}")).spawn(move || worker.run())?;
        }
        Ok(Self { encoder, threads, idle, jobs })
    }

    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
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

    /// Makes an adapter resident: it has run once, with finite scores, when this returns. Blocks; the pass runs on the
    /// caller's thread, so that no request waits for it.
    pub fn admit(&self, identity: AdapterIdentity, bundle: AdapterBundle) -> Result<Arc<ResidentAdapter>> {
        let adapter = Arc::new(ResidentAdapter::new(identity, bundle, &self.encoder)?);
        let trial = BatchSequence {
            ids: TRIAL_IDS.into(),
            type_ids: [0; TRIAL_IDS.len()].into(),
            work: match adapter.head.form() {
                HeadForm::Labels => Work::Head(adapter.clone()),
                HeadForm::Concepts | HeadForm::Similarity => {
                    Work::Embed(Some(adapter.clone()), EmbedParameters::default())
                }
            },
        };
        let answers = answer(&self.encoder, &Batch { sequences: vec![trial] });
        answers.outputs.into_iter().next().ok_or_else(lost)??;
        Ok(adapter)
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
    encoder: Arc<Encoder>,
    queue: Arc<Mutex<Receiver<Job>>>,
    idle: Arc<Semaphore>,
}

impl Worker {
    fn run(self) {
        while let Some(job) = self.next() {
            let output = answer(&self.encoder, &job.batch);
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

fn answer(encoder: &Encoder, batch: &Batch) -> BatchOutput {
    let saved = std::cell::Cell::new(0);
    let outputs = isolate(&batch.sequences, &|sequences: &[BatchSequence]| {
        let output = forward(encoder, sequences).map_err(|error| match sequences {
            [one] => error.context(one.work.describe()),
            _ => error,
        })?;
        saved.set(saved.get() + output.prefix_tokens_saved);
        Ok(output.outputs)
    });
    BatchOutput { outputs, prefix_tokens_saved: saved.get() }
}

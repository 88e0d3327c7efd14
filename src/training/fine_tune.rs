//! The fine-tuning run: frozen backbone, LoRA and head of one adapter.

use std::path::PathBuf;
use std::sync::Arc;

use crate::adapter::{AdapterBundle, AdapterFiles};
use crate::domain::{Digest, FineTuneSpec, Result};
use crate::model::Encoder;
use crate::text::Tokenizer;
use crate::training::Evaluation;
use crate::training::dataset::Split;

/// Everything a run needs. The same setup (spec, data, seed, threads) gives the same adapter bytes.
pub struct FineTuneSetup {
    pub encoder: Arc<Encoder>,
    pub tokenizer: Arc<Tokenizer>,
    pub fingerprint: Digest,
    pub spec: FineTuneSpec,
    pub train: Split,
    pub validation: Option<Split>,
    pub test: Option<Split>,
    /// The adapter to start from.
    pub init: Option<AdapterBundle>,
    /// Checkpoints live here; one that is there already is gone on from.
    pub checkpoint_folder: PathBuf,
    pub threads: usize,
    /// Goes into the card.
    pub job_id: Option<String>,
}

/// What the caller wants next; asked at every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Continue,
    /// Write a checkpoint and stop; the same setup goes on later.
    Pause,
    Cancel,
}

/// Told by a run as it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainingEvent {
    Message(String),
    /// What `auto` became.
    Settled {
        epochs: u32,
        batch_size: u32,
        learning_rate: f64,
        steps: u64,
    },
    Step {
        step: u64,
        steps: u64,
        epoch: u32,
        loss: f64,
        learning_rate: f64,
        tokens_per_second: f64,
        rows_per_second: f64,
    },
    Validation {
        step: u64,
        epoch: u32,
        metrics: Vec<(&'static str, f64)>,
        best: bool,
    },
    Checkpoint {
        step: u64,
        path: PathBuf,
    },
    /// Training is over; validation and test are evaluated now.
    Evaluating,
}

/// Who watches and steers a run.
pub trait Observer {
    fn event(&mut self, event: TrainingEvent);
    fn control(&mut self) -> Control;
}

pub struct TrainedAdapter {
    pub files: AdapterFiles,
    pub validation: Evaluation,
    pub test: Option<Evaluation>,
    pub rows_per_second: f64,
    pub tokens_per_second: f64,
}

pub enum Outcome {
    Finished(Box<TrainedAdapter>),
    /// Paused or cancelled, as `Control` asked.
    Stopped(Control),
}

/// Runs to the end, a pause or a cancel. Blocking; wants a thread with a large stack.
pub fn fine_tune(setup: FineTuneSetup, observer: &mut dyn Observer) -> Result<Outcome> {
    let _ = (setup, observer);
    todo!()
}

/// Predicts `split` with an adapter and evaluates it.
pub fn evaluate_adapter(
    encoder: &Encoder,
    tokenizer: &Tokenizer,
    adapter: &AdapterBundle,
    split: &Split,
    dataset: &str,
    threads: usize,
) -> Result<Evaluation> {
    let _ = (encoder, tokenizer, adapter, split, dataset, threads);
    todo!()
}

//! Training jobs: queue, journal (SQLite), runner thread, cancel, pause, resume, gate, publication. Leaves the loop to `training`.

mod fields;
mod journal;
mod record;
mod runner;

pub use record::{parse_spec, spec_from_json, spec_to_json};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::domain::{Digest, JobId, JobSpec, JobState, Result};
use crate::engine::Engine;
use crate::serving::{DatasetService, PublishedVersion, Registry};
use crate::telemetry::Metrics;
use crate::text::Tokenizer;

/// A job as `GET /jobs/{id}` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    pub id: JobId,
    pub spec: JobSpec,
    pub status: JobState,
    pub created_at: SystemTime,
    pub started_at: Option<SystemTime>,
    pub finished_at: Option<SystemTime>,
    pub estimated_finish: Option<SystemTime>,
    pub step: u64,
    pub steps: u64,
    pub epoch: u32,
    /// Name → value: latest training and validation figures.
    pub metrics: Vec<(String, f64)>,
    pub result: Option<PublishedVersion>,
    /// `code` and message.
    pub error: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JobEvent {
    /// Counts the job's events, from 1.
    pub id: u64,
    pub created_at: SystemTime,
    /// `info`, `warn`, `error`
    pub level: &'static str,
    /// `message`, `metrics`, `state`
    pub kind: &'static str,
    pub message: String,
    pub data: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointView {
    pub step: u64,
    pub created_at: SystemTime,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// Journal, checkpoints and reports.
    pub state_dir: PathBuf,
    /// Of the training thread.
    pub threads: usize,
    /// Jobs waiting or running; one more is refused.
    pub queue_max: usize,
    pub fingerprint: Digest,
}

/// Cloneable handle.
#[derive(Clone)]
pub struct Jobs {
    _inner: Arc<()>,
}

impl Jobs {
    /// Opens the journal; interrupted jobs are queued again and go on from their checkpoints.
    pub async fn start(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        registry: Arc<Registry>,
        datasets: Arc<DatasetService>,
        metrics: Arc<Metrics>,
        config: JobsConfig,
    ) -> Result<Self> {
        let _ = (engine, tokenizer, registry, datasets, metrics, config);
        Ok(Self { _inner: Arc::new(()) })
    }

    /// Checks the spec against datasets and registry at once (`unprocessable` names everything wrong), then queues.
    pub async fn submit(&self, spec: JobSpec) -> Result<JobView> {
        let _ = spec;
        todo!()
    }

    /// Newest first, after job `after`; and whether there are more.
    pub async fn list(&self, after: Option<JobId>, limit: usize) -> Result<(Vec<JobView>, bool)> {
        let _ = (after, limit);
        todo!()
    }

    pub async fn get(&self, id: &JobId) -> Result<JobView> {
        let _ = id;
        todo!()
    }

    pub async fn cancel(&self, id: &JobId) -> Result<JobView> {
        let _ = id;
        todo!()
    }

    pub async fn pause(&self, id: &JobId) -> Result<JobView> {
        let _ = id;
        todo!()
    }

    pub async fn resume(&self, id: &JobId) -> Result<JobView> {
        let _ = id;
        todo!()
    }

    /// Events with ids above `after`, at most `limit`, oldest first.
    pub async fn events(&self, id: &JobId, after: u64, limit: usize) -> Result<Vec<JobEvent>> {
        let _ = (id, after, limit);
        todo!()
    }

    /// Returns when the job has an event above `after` (true), or is over and has none (false). A stream is a loop over this and [`Jobs::events`].
    pub async fn wait_for_events(&self, id: &JobId, after: u64) -> Result<bool> {
        let _ = (id, after);
        todo!()
    }

    pub async fn checkpoints(&self, id: &JobId) -> Result<Vec<CheckpointView>> {
        let _ = id;
        todo!()
    }

    /// The evaluation report as JSON: `validation`, `test`, `gate`.
    pub async fn report(&self, id: &JobId) -> Result<serde_json::Value> {
        let _ = id;
        todo!()
    }

    /// Stops the runner at its next step, with a checkpoint.
    pub async fn shut_down(&self) {
        todo!()
    }
}

//! Training jobs: queue, journal (SQLite), runner thread, cancel, pause, resume, gate, publication. Leaves the loop to `training`.

mod check;
mod desk;
mod fields;
mod folder;
mod gate;
mod journal;
mod observer;
mod ports;
mod progress;
mod record;
mod runner;
mod steering;
#[cfg(test)]
mod tests;

pub use record::{parse_spec, spec_from_json, spec_to_json};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

use crate::disk::Damage;
use crate::domain::{Error, JobId, JobSpec, JobState, Result};
use crate::serving::long_work::LongWork;
use crate::serving::{DatasetService, PublishedVersion, Registry};
use crate::telemetry::Metrics;
use desk::{Desk, Parts};
use ports::{HousePublisher, HouseTrainer};
use runner::Runner;

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
    /// Jobs queued, running or paused; one more is refused.
    pub queue_max: usize,
}

/// How long [`Jobs::shut_down`] waits for the runner: a step and a checkpoint take seconds, an evaluation may take longer and is
/// done again after the restart.
const SHUT_DOWN_WAIT_MAX: Duration = Duration::from_secs(20);

/// Jobs checked at once before they are queued: each has its data in memory.
const CHECKS_AT_ONCE_MAX: usize = 2;

/// Cloneable handle; when the last one goes, the runner stops at its next step.
#[derive(Clone)]
pub struct Jobs {
    /// Or why there are none.
    inner: Result<Arc<Inner>>,
}

struct Inner {
    desk: Arc<Desk>,
    bell: SyncSender<()>,
    runner: watch::Receiver<()>,
    checks: LongWork,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.desk.steering.stop();
    }
}

impl Jobs {
    /// Stands for jobs that cannot be had: every method answers `unavailable` with this reason.
    pub fn unavailable(why: Error) -> Self {
        Self { inner: Err(why.into_unavailable()) }
    }

    /// What is wrong with the journal in `state_dir`, all of it read; with `repair` it is moved aside, and jobs begin anew.
    pub fn check(state_dir: &Path, repair: bool) -> Result<Option<Damage>> {
        desk::check_journal(state_dir, repair)
    }

    /// Opens the journal; interrupted jobs are queued again and go on from their checkpoints. `conflict` if another process runs the
    /// jobs of this folder, `unavailable` if the journal is damaged or cannot be written.
    pub async fn start(
        registry: Arc<Registry>,
        datasets: Arc<DatasetService>,
        metrics: Arc<Metrics>,
        config: JobsConfig,
    ) -> Result<Self> {
        let JobsConfig { state_dir, threads, queue_max } = config;
        let trainer = Arc::new(HouseTrainer { backbones: registry.backbones().clone(), threads });
        let publisher = Arc::new(HousePublisher { registry, runtime: Handle::current() });
        Self::open(Parts { trainer, publisher, data: datasets, metrics, state_dir, queue_max }).await
    }

    async fn open(parts: Parts) -> Result<Self> {
        let desk = Arc::new(blocking(move || Desk::open(parts)).await?);
        // One ring is as good as many.
        let (bell, ringing) = sync_channel(1);
        let (alive, runner) = watch::channel(());
        let thread = Runner { desk: desk.clone(), bell: ringing, _alive: alive };
        thread::Builder::new().name("jobs".to_owned()).spawn(move || thread.run())?;
        let checks = LongWork::new("job checks", CHECKS_AT_ONCE_MAX);
        Ok(Self { inner: Ok(Arc::new(Inner { desk, bell, runner, checks })) })
    }

    /// Checks the spec against datasets and registry at once (`unprocessable` names everything wrong), then queues.
    /// `overloaded` if too many jobs are unfinished.
    pub async fn submit(&self, spec: JobSpec) -> Result<JobView> {
        self.submit_until(spec, None).await
    }

    /// The same by a deadline. The check reads all of the job's data: `overloaded` while as many are at it as may be, and given up
    /// when the future is dropped.
    pub async fn submit_until(&self, spec: JobSpec, deadline: Option<Instant>) -> Result<JobView> {
        let id = JobId(format!("job_{}", uuid::Uuid::now_v7().simple()));
        let inner = self.inner()?;
        let desk = inner.desk.clone();
        let job = inner.checks.run(deadline, move |cancel| desk.submit(&id, &spec, cancel)).await?;
        tracing::info!(job = %job.view.id, "job queued");
        self.ring();
        Ok(job.view)
    }

    /// Newest first, after job `after`; and whether there are more.
    pub async fn list(&self, after: Option<JobId>, limit: usize) -> Result<(Vec<JobView>, bool)> {
        let mut jobs = self.with_desk(move |desk| desk.journal.list(after.as_ref(), limit.saturating_add(1))).await?;
        let has_more = jobs.len() > limit;
        jobs.truncate(limit);
        Ok((jobs.into_iter().map(|job| job.view).collect(), has_more))
    }

    pub async fn get(&self, id: &JobId) -> Result<JobView> {
        self.on_job(id, |desk, id| desk.journal.job(id)).await.map(|job| job.view)
    }

    /// A waiting job is cancelled at once, a running one at its next step. `conflict` once it is being published, or over.
    pub async fn cancel(&self, id: &JobId) -> Result<JobView> {
        self.on_job(id, Desk::cancel).await.map(|job| job.view)
    }

    /// A queued job is paused at once, a running one at its next step, with a checkpoint. `conflict` from evaluation on.
    pub async fn pause(&self, id: &JobId) -> Result<JobView> {
        self.on_job(id, Desk::pause).await.map(|job| job.view)
    }

    /// Queues a paused job again; it keeps its age. `conflict` if it is not paused.
    pub async fn resume(&self, id: &JobId) -> Result<JobView> {
        let job = self.on_job(id, Desk::resume).await?;
        self.ring();
        Ok(job.view)
    }

    /// Events with ids above `after`, at most `limit`, oldest first.
    pub async fn events(&self, id: &JobId, after: u64, limit: usize) -> Result<Vec<JobEvent>> {
        self.on_job(id, move |desk, id| desk.journal.events(id, after, limit)).await
    }

    /// Returns when the job has an event above `after` (true), or is over and has none (false). A stream is a loop over this and [`Jobs::events`].
    pub async fn wait_for_events(&self, id: &JobId, after: u64) -> Result<bool> {
        loop {
            let mut changes = self.inner()?.desk.journal.watch(id);
            let (last, is_over) = self.on_job(id, |desk, id| desk.journal.last_event(id)).await?;
            if last > after || is_over {
                return Ok(last > after);
            }
            // An error means that the sender was swept; looking again is right then too.
            let _swept = changes.changed().await;
        }
    }

    /// By step; none once the job is over.
    pub async fn checkpoints(&self, id: &JobId) -> Result<Vec<CheckpointView>> {
        self.on_job(id, Desk::checkpoints).await
    }

    /// The evaluation report as JSON: `validation`, `test`, `gate`. `not_found` before the job is evaluated.
    pub async fn report(&self, id: &JobId) -> Result<serde_json::Value> {
        self.on_job(id, Desk::report).await
    }

    /// Stops the runner at its next step, with a checkpoint: the job is queued, and goes on after the next start.
    pub async fn shut_down(&self) {
        let Ok(inner) = self.inner() else { return };
        inner.desk.steering.stop();
        self.ring();
        let mut runner = inner.runner.clone();
        let ended = async { while runner.changed().await.is_ok() {} };
        if timeout(SHUT_DOWN_WAIT_MAX, ended).await.is_err() {
            tracing::warn!("the running job did not stop in time; it goes on from its checkpoint after the next start");
        }
    }

    /// A full bell is ringing already.
    fn ring(&self) {
        let _ringing = self.inner().map(|inner| inner.bell.try_send(()));
    }

    fn inner(&self) -> Result<&Arc<Inner>> {
        self.inner.as_ref().map_err(Error::clone)
    }

    async fn on_job<T: Send + 'static>(
        &self,
        id: &JobId,
        work: impl FnOnce(&Desk, &JobId) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let id = id.clone();
        self.with_desk(move |desk| work(desk, &id)).await
    }

    async fn with_desk<T: Send + 'static>(&self, work: impl FnOnce(&Desk) -> Result<T> + Send + 'static) -> Result<T> {
        let desk = self.inner()?.desk.clone();
        blocking(move || work(&desk)).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let failed = |error: JoinError| Error::internal("a job request ran into a bug of the server").with_source(error);
    spawn_blocking(work).await.map_err(failed)?
}

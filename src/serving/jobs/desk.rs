//! What callers and the runner share: the journal, the jobs' folders, and the parts of the house a job needs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::domain::{Error, JobId, JobSpec, JobState, Result};
use crate::serving::jobs::check::{JobData, check};
use crate::serving::jobs::folder::{JobFolder, JobFolders};
use crate::serving::jobs::journal::{Ending, Job, Journal};
use crate::serving::jobs::ports::{DataSource, Publisher, Trainer};
use crate::serving::jobs::steering::Steering;
use crate::telemetry::Metrics;

pub(super) struct Desk {
    pub(super) journal: Journal,
    pub(super) folders: JobFolders,
    pub(super) steering: Steering,
    pub(super) trainer: Arc<dyn Trainer>,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) data: Arc<dyn DataSource>,
    pub(super) metrics: Arc<Metrics>,
    /// Unfinished jobs; one more is refused.
    pub(super) queue_max: usize,
}

/// The parts of the house that [`Desk::open`] puts together.
pub(super) struct Parts {
    pub(super) trainer: Arc<dyn Trainer>,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) data: Arc<dyn DataSource>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) state_dir: PathBuf,
    pub(super) queue_max: usize,
}

impl Desk {
    /// Opens the journal, queues again what was under way and sweeps what finished jobs left.
    pub(super) fn open(parts: Parts) -> Result<Self> {
        let Parts { trainer, publisher, data, metrics, state_dir, queue_max } = parts;
        let folders = JobFolders::open(state_dir.join("jobs"))?;
        let journal = Journal::open(&state_dir.join("jobs.sqlite"))?;
        let steering = Steering::default();
        let desk = Self { journal, folders, steering, trainer, publisher, data, metrics, queue_max };
        desk.recover("a restart")?;
        desk.sweep();
        Ok(desk)
    }

    pub(super) fn check(&self, spec: &JobSpec) -> Result<JobData> {
        let JobSpec::FineTune(spec) = spec;
        check(spec, &*self.data, &*self.publisher, self.trainer.limits())
    }

    pub(super) fn submit(&self, id: &JobId, spec: &JobSpec) -> Result<Job> {
        self.check(spec)?;
        let removed = self.journal.submit(id, spec, self.queue_max, SystemTime::now())?;
        removed.iter().for_each(|old| self.warn(old, "folder of a removed job stays", self.folders.of(old).remove()));
        self.count();
        self.journal.job(id)
    }

    /// Cancels; what the job left on disk goes at once where it was not running.
    pub(super) fn cancel(&self, id: &JobId) -> Result<Job> {
        let job = self.journal.cancel(id, SystemTime::now())?;
        if job.view.status.is_final() {
            self.tidy(id);
        }
        Ok(self.told(job))
    }

    pub(super) fn pause(&self, id: &JobId) -> Result<Job> {
        Ok(self.told(self.journal.pause(id, SystemTime::now())?))
    }

    pub(super) fn resume(&self, id: &JobId) -> Result<Job> {
        Ok(self.told(self.journal.resume(id, SystemTime::now())?))
    }

    fn told(&self, job: Job) -> Job {
        self.steering.ask(&job.view.id, job.wish);
        self.count();
        job
    }

    /// Only while no job runs: what is under way then has been left there.
    pub(super) fn recover(&self, cause: &str) -> Result<()> {
        self.journal.recover(cause, |id| self.folder(id).latest_checkpoint(), SystemTime::now())?;
        self.count();
        Ok(())
    }

    pub(super) fn take_next(&self) -> Result<Option<Job>> {
        let job = self.journal.take_next(SystemTime::now())?;
        self.count();
        Ok(job)
    }

    pub(super) fn become_state(&self, id: &JobId, next: JobState, message: &str) -> Result<()> {
        self.journal.become_state(id, next, message, SystemTime::now())?;
        self.count();
        Ok(())
    }

    pub(super) fn end(&self, id: &JobId, ending: &Ending) -> Result<()> {
        self.journal.end(id, ending, SystemTime::now())?;
        self.tidy(id);
        self.count();
        Ok(())
    }

    pub(super) fn folder(&self, id: &JobId) -> JobFolder {
        self.folders.of(id)
    }

    fn tidy(&self, id: &JobId) {
        self.metrics.remove_job(&id.0);
        self.warn(id, "job folder not tidied", self.folder(id).tidy());
    }

    /// After a crash between a job's end and its tidying.
    fn sweep(&self) {
        let ids = self.folders.ids().unwrap_or_default();
        for id in ids {
            match self.journal.job(&id) {
                Ok(job) if job.view.status.is_final() => self.tidy(&id),
                Ok(_) => {}
                Err(_) => tracing::warn!(job = %id, "a job folder that the journal does not know is left alone"),
            }
        }
    }

    fn warn(&self, id: &JobId, what: &'static str, outcome: Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(job = %id, %error, "{what}");
        }
    }

    /// The gauge follows the journal; it is no reason to fail.
    fn count(&self) {
        for state in JobState::ALL {
            if let Ok(count) = self.journal.count(state) {
                self.metrics.jobs.with_label_values(&[state.as_str()]).set(count);
            }
        }
    }

    /// `not_found` while there is none.
    pub(super) fn report(&self, id: &JobId) -> Result<serde_json::Value> {
        let job = self.journal.job(id)?;
        self.folder(id).report()?.ok_or_else(|| {
            Error::not_found(format!(
                "job {id} is {} and has no report; there is one once it was evaluated",
                job.view.status
            ))
        })
    }
}

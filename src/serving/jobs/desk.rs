//! What callers and the runner share: the journal, the jobs' folders, and the parts of the house a job needs.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::disk::{Damage, failed, open_lock};
use crate::domain::{Cancel, Error, FineTuneSpec, JobId, JobSpec, JobState, PreFinetuneSpec, Result};
use crate::serving::jobs::CheckpointView;
use crate::serving::jobs::check::{JobData, Pools, Rows, check, check_new, check_pre_finetune};
use crate::serving::jobs::folder::{JobFolder, JobFolders};
use crate::serving::jobs::journal::{Ending, Job, Journal};
use crate::serving::jobs::ports::{DataSource, Publisher, Trainer};
use crate::serving::jobs::steering::Steering;
use crate::telemetry::Metrics;

const LOCK: &str = "jobs.lock";
const JOURNAL: &str = "jobs.sqlite";

/// What SQLite keeps beside the journal.
const BESIDE: [&str; 2] = ["jobs.sqlite-wal", "jobs.sqlite-shm"];

/// A server that was killed a moment ago may still hold its lock.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);

pub(super) struct Desk {
    /// Held while this process runs the jobs of this state folder.
    _lock: File,
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
    /// Opens the journal, alone (`conflict` if another process has it; `unavailable` if it cannot be read or written), queues again what was under way and sweeps what finished jobs left.
    pub(super) fn open(parts: Parts) -> Result<Self> {
        let Parts { trainer, publisher, data, metrics, state_dir, queue_max } = parts;
        let folders = JobFolders::open(state_dir.join("jobs")).map_err(Error::into_unavailable)?;
        let lock = lock(&state_dir.join(LOCK))?;
        let journal = Journal::open(&state_dir.join(JOURNAL)).map_err(Error::into_unavailable)?;
        let steering = Steering::default();
        let desk = Self { _lock: lock, journal, folders, steering, trainer, publisher, data, metrics, queue_max };
        desk.show_endings();
        desk.recover("a restart").map_err(Error::into_unavailable)?;
        desk.sweep();
        Ok(desk)
    }

    pub(super) fn check(&self, spec: &FineTuneSpec, cancel: &Cancel) -> Result<JobData> {
        check(spec, &*self.data, &*self.publisher, self.trainer.limits(), cancel)
    }

    pub(super) fn check_pre_finetune(&self, spec: &PreFinetuneSpec, rows: Rows, cancel: &Cancel) -> Result<Pools> {
        check_pre_finetune(spec, &*self.data, &*self.publisher, self.trainer.limits(), rows, cancel)
    }

    /// Fails once it is cancelled, if it is not in the journal yet.
    pub(super) fn submit(&self, id: &JobId, spec: &JobSpec, cancel: &Cancel) -> Result<Job> {
        match spec {
            JobSpec::FineTune(spec) => drop(self.check(spec, cancel)?),
            JobSpec::PreFinetune(spec) => {
                check_new(spec, &*self.publisher)?;
                self.check_pre_finetune(spec, Rows::Drop, cancel)?;
            }
        }
        cancel.check()?;
        let removed = self.journal.submit(id, spec, self.queue_max, SystemTime::now())?;
        removed.iter().for_each(|old| self.warn(old, "folder of a removed job stays", self.folders.of(old).remove()));
        self.count();
        self.journal.job(id)
    }

    /// Cancels; what the job left on disk goes at once where it was not running.
    pub(super) fn cancel(&self, id: &JobId) -> Result<Job> {
        let job = self.journal.cancel(id, SystemTime::now())?;
        if job.view.status.is_final() {
            self.count_ending(job.view.status);
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
        let left = self.journal.recover(cause, |id| self.folder(id).latest_checkpoint(), SystemTime::now())?;
        left.into_iter().filter(|state| state.is_final()).for_each(|state| self.count_ending(state));
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
        self.count_ending(ending.state());
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

    /// The series of every ending exist from the start, so that the first failure is a rise and not a beginning.
    fn show_endings(&self) {
        let endings = JobState::ALL.into_iter().filter(|state| state.is_final());
        endings.for_each(|state| drop(self.metrics.jobs_finished.with_label_values(&[state.as_str()])));
    }

    fn count_ending(&self, state: JobState) {
        self.metrics.jobs_finished.with_label_values(&[state.as_str()]).inc();
    }

    /// A finished job's are gone, or about to be.
    pub(super) fn checkpoints(&self, id: &JobId) -> Result<Vec<CheckpointView>> {
        let is_over = self.journal.job(id)?.view.status.is_final();
        if is_over { Ok(Vec::new()) } else { self.folder(id).checkpoints() }
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

/// Two runners on one journal would each take the other's jobs for interrupted ones. The system drops the lock with its process.
fn lock(path: &Path) -> Result<File> {
    let file = open_lock(path).map_err(|error| failed(path, error).into_unavailable())?;
    let patience = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < patience => thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::WouldBlock) => {
                let message =
                    format!("another process runs the jobs of this state folder: it holds {}", path.display());
                return Err(Error::conflict(message));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::from(error).context(path.display()).into_unavailable());
            }
        }
    }
}

/// What is wrong with the journal, all of it read; with `repair` it is moved aside. `conflict` while a server runs its jobs.
pub(super) fn check_journal(state_dir: &Path, repair: bool) -> Result<Option<Damage>> {
    let path = state_dir.join(JOURNAL);
    if !path.exists() {
        return Ok(None);
    }
    // A server may go on while its journal is looked at.
    let _lock = if repair { Some(lock(&state_dir.join(LOCK))?) } else { None };
    let Err(error) = Journal::check(&path) else { return Ok(None) };
    let damage = Damage::new(&path, error.message());
    if !repair {
        return Ok(Some(damage));
    }
    let beside = BESIDE.map(|name| state_dir.join(name)).into_iter().filter(|path| path.exists());
    beside.for_each(|path| drop(Damage::new(&path, "").set_aside()));
    Ok(Some(damage.set_aside().and_then(|| "the next start begins a new journal; job folders stay".to_owned())))
}

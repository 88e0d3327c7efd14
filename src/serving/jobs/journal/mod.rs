//! The journal: jobs and their events in one SQLite file, written by one connection. What it says survives `kill -9`;
//! what it says of states, also a power cut. Leaves what the states do to the runner.

mod change;
mod event;
mod requests;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod watchers;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::watch;

use crate::domain::{Error, JobId, JobSpec, JobState, Result};
use crate::serving::jobs::JobEvent;
use change::{Change, find, last_event};
pub(super) use event::{Ending, NewEvent, Progress};
pub(super) use rows::{Intent, Job, Wish};
use watchers::Watchers;

/// Runs cut short in a row, with no checkpoint between, before a job is given up: it may be what kills the server.
const INTERRUPTIONS_MAX: u32 = 20;

/// How soon another job may fit the queue, when nothing is known of the one that runs.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(60);

/// What a commit must outlive.
#[derive(Clone, Copy)]
enum Outlives {
    /// The process: the system holds what was written. For progress, up to twice a second while a job trains.
    Kill,
    /// The machine: the disk holds it. For states, of which a job has a dozen: a lost one could publish twice.
    PowerCut,
}

pub(super) struct Journal {
    connection: Mutex<Connection>,
    watchers: Watchers,
}

impl Journal {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { connection: Mutex::new(schema::open(path)?), watchers: Watchers::default() })
    }

    /// Whether the file is one that can be opened, and all of it is sound.
    pub(super) fn check(path: &Path) -> Result<()> {
        schema::check(path)
    }

    /// Queues a job, unless `unfinished_max` are there already. The answer are finished jobs past their bound, now removed.
    pub(super) fn submit(
        &self,
        id: &JobId,
        spec: &JobSpec,
        unfinished_max: usize,
        now: SystemTime,
    ) -> Result<Vec<JobId>> {
        self.write(Outlives::PowerCut, now, |change| {
            let unfinished = change.unfinished()?;
            if unfinished >= unfinished_max {
                let message =
                    format!("{unfinished} jobs are queued, running or paused; at most {unfinished_max} may be");
                return Err(Error::overloaded(message, retry_after(change, now)?));
            }
            change.insert(id, spec)?;
            change.drop_oldest_finished()
        })
    }

    /// The oldest queued job, now validating.
    pub(super) fn take_next(&self, now: SystemTime) -> Result<Option<Job>> {
        self.write(Outlives::PowerCut, now, |change| {
            let Some(id) = change.ids(|state| state == JobState::Queued)?.into_iter().next() else { return Ok(None) };
            let event = NewEvent::state(JobState::Validating, "validating: reading data and adapters");
            change.become_state(&id, JobState::Validating, event)?;
            change.job(&id).map(Some)
        })
    }

    /// Puts back what `cause` left under way, or does what was asked of it by then. `checkpoint` tells a job's latest step.
    /// The states that the jobs are left in.
    pub(super) fn recover(
        &self,
        cause: &str,
        checkpoint: impl Fn(&JobId) -> Option<u64>,
        now: SystemTime,
    ) -> Result<Vec<JobState>> {
        let under_way = |state: JobState| !state.is_final() && state != JobState::Queued && state != JobState::Paused;
        self.write(Outlives::PowerCut, now, |change| {
            let interrupted = change.ids(under_way)?;
            interrupted.iter().map(|id| recover(change, id, cause, checkpoint(id))).collect()
        })
    }

    pub(super) fn become_state(&self, id: &JobId, next: JobState, message: &str, now: SystemTime) -> Result<()> {
        let event = NewEvent::state(next, message);
        self.write(Outlives::PowerCut, now, |change| change.become_state(id, next, event))
    }

    /// Past this point a job cannot be cancelled. False: it has just been asked to be.
    pub(super) fn begin_publishing(&self, id: &JobId, intent: &Intent, now: SystemTime) -> Result<bool> {
        self.write(Outlives::PowerCut, now, |change| {
            if change.job(id)?.wish == Some(Wish::Cancel) {
                return Ok(false);
            }
            let event = NewEvent::state(JobState::Publishing, format!("publishing {}", intent.digest));
            change.become_state(id, JobState::Publishing, event)?;
            change.set_intent(id, intent)?;
            Ok(true)
        })
    }

    pub(super) fn end(&self, id: &JobId, ending: &Ending, now: SystemTime) -> Result<()> {
        self.write(Outlives::PowerCut, now, |change| change.end(id, ending))
    }

    pub(super) fn append(&self, id: &JobId, event: NewEvent, now: SystemTime) -> Result<()> {
        self.write(Outlives::Kill, now, |change| change.append(id, event))
    }

    /// A metrics event with what it says of progress and figures.
    pub(super) fn measured(
        &self,
        id: &JobId,
        progress: Option<Progress>,
        figures: &[(String, f64)],
        event: NewEvent,
        now: SystemTime,
    ) -> Result<()> {
        self.write(Outlives::Kill, now, |change| {
            if let Some(progress) = progress {
                change.progress(id, &progress)?;
            }
            change.merge_metrics(id, figures)?;
            change.append(id, event)
        })
    }

    /// A job that reaches its next checkpoint is no job that kills the server.
    pub(super) fn checkpointed(&self, id: &JobId, step: u64, now: SystemTime) -> Result<()> {
        self.write(Outlives::Kill, now, |change| {
            change.count_interruption(id, false)?;
            change.append(id, NewEvent::message(format!("checkpoint at step {step}")))
        })
    }

    pub(super) fn job(&self, id: &JobId) -> Result<Job> {
        find(&self.lock(), id)
    }

    /// Newest first, older than `after`.
    pub(super) fn list(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<Job>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT * FROM jobs WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2")?;
        let after = after.map(|id| id.0.as_str());
        let jobs = statement.query_map(rusqlite::params![after, rows_max(limit)], |row| Ok(rows::job(row)))?;
        jobs.map(|job| job?).collect()
    }

    /// Oldest first, with numbers above `after`. `not_found` if there is no such job.
    pub(super) fn events(&self, id: &JobId, after: u64, limit: usize) -> Result<Vec<JobEvent>> {
        let connection = self.lock();
        find(&connection, id)?;
        let mut statement =
            connection.prepare_cached("SELECT * FROM events WHERE job = ? AND id > ? ORDER BY id LIMIT ?")?;
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let events =
            statement.query_map(rusqlite::params![id.0, after, rows_max(limit)], |row| Ok(rows::event(row)))?;
        events.map(|event| event?).collect()
    }

    /// The number of the job's last event, and whether it is over.
    pub(super) fn last_event(&self, id: &JobId) -> Result<(u64, bool)> {
        let connection = self.lock();
        let job = find(&connection, id)?;
        Ok((last_event(&connection, id)? as u64, job.view.status.is_final()))
    }

    /// Sees every event from now on.
    pub(super) fn watch(&self, id: &JobId) -> watch::Receiver<()> {
        self.watchers.subscribe(id)
    }

    pub(super) fn count(&self, state: JobState) -> Result<i64> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT count(*) FROM jobs WHERE state = ?")?;
        Ok(statement.query_row([state.as_str()], |row| row.get(0))?)
    }

    /// All or nothing; watchers are told after the commit.
    fn write<T>(
        &self,
        outlives: Outlives,
        now: SystemTime,
        change: impl FnOnce(&mut Change<'_>) -> Result<T>,
    ) -> Result<T> {
        let (value, touched) = {
            let mut connection = self.lock();
            let synchronous = match outlives {
                Outlives::Kill => "normal",
                Outlives::PowerCut => "full",
            };
            connection.pragma_update(None, "synchronous", synchronous)?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut changing = Change::new(transaction, now);
            let value = change(&mut changing)?;
            (value, changing.commit()?)
        };
        self.watchers.ring(&touched);
        Ok(value)
    }

    /// A panic under the lock has rolled its transaction back, so the connection is still good.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn recover(change: &mut Change<'_>, id: &JobId, cause: &str, checkpoint: Option<u64>) -> Result<JobState> {
    let job = change.job(id)?;
    if job.wish == Some(Wish::Cancel) && job.intent.is_none() {
        return end(change, id, &Ending::Cancelled);
    }
    if job.interruptions >= INTERRUPTIONS_MAX {
        let message = format!("interrupted {INTERRUPTIONS_MAX} times with no checkpoint between");
        return end(change, id, &Ending::Failed(Error::internal(message)));
    }
    change.count_interruption(id, true)?;
    let from =
        checkpoint.map_or_else(|| "from the beginning".to_owned(), |step| format!("from checkpoint step {step}"));
    let pauses = job.wish == Some(Wish::Pause) && job.view.status.may_become(JobState::Paused);
    let (next, message) = if pauses {
        (JobState::Paused, format!("paused, and interrupted by {cause}; goes on {from} when resumed"))
    } else {
        (JobState::Queued, format!("interrupted by {cause}, goes on {from}"))
    };
    change.become_state(id, next, NewEvent::state(next, message))?;
    Ok(next)
}

fn end(change: &mut Change<'_>, id: &JobId, ending: &Ending) -> Result<JobState> {
    change.end(id, ending)?;
    Ok(ending.state())
}

/// Until the running job is expected to be done.
fn retry_after(change: &Change<'_>, now: SystemTime) -> Result<Duration> {
    let running = change.ids(|state| state == JobState::Running)?;
    let finish = running.first().map(|id| change.job(id)).transpose()?.and_then(|job| job.view.estimated_finish);
    let left = finish.and_then(|finish| finish.duration_since(now).ok());
    Ok(left.map_or(RETRY_AFTER_DEFAULT, |left| left.max(Duration::from_secs(1))))
}

fn rows_max(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

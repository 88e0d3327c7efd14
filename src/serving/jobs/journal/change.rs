//! One transaction of the journal: the guarded transition, the event beside it, the bounds on both tables.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::{Map, Value, json};

use crate::domain::{Error, JobId, JobSpec, JobState, Result};
use crate::serving::jobs::journal::rows::{self, Intent, Job, Wish, millis};
use crate::serving::jobs::journal::{Ending, NewEvent, Progress};
use crate::serving::jobs::record::{SPEC_VERSION, spec_to_json};

/// Events of one job, about: past it the oldest in the middle go, metrics first. Twice a second, that is over an hour.
pub(super) const EVENTS_PER_JOB_MAX: i64 = 10_000;

/// The first events tell how a job began; they stay.
const EVENTS_KEPT_FIRST: i64 = 100;

/// How far past its bound a job's list may grow before it is cut back: counting it costs more than a row.
const EVENTS_CUT_AT_ONCE: i64 = 500;

/// Finished jobs, with their events and reports; the oldest go.
pub(super) const FINISHED_JOBS_MAX: i64 = 1000;

pub(super) struct Change<'a> {
    transaction: Transaction<'a>,
    now: SystemTime,
    /// Jobs with new events.
    touched: Vec<JobId>,
}

impl<'a> Change<'a> {
    pub(super) fn new(transaction: Transaction<'a>, now: SystemTime) -> Self {
        Self { transaction, now, touched: Vec::new() }
    }

    /// The jobs whose watchers want to know.
    pub(super) fn commit(self) -> Result<Vec<JobId>> {
        self.transaction.commit()?;
        Ok(self.touched)
    }

    pub(super) fn insert(&mut self, id: &JobId, spec: &JobSpec) -> Result<()> {
        self.transaction.execute(
            "INSERT INTO jobs (id, kind, spec_version, spec, state, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            params![
                id.0,
                spec.kind(),
                SPEC_VERSION,
                spec_to_json(spec).to_string(),
                JobState::Queued.as_str(),
                millis(self.now)
            ],
        )?;
        self.append(id, NewEvent::state(JobState::Queued, "queued"))
    }

    pub(super) fn job(&self, id: &JobId) -> Result<Job> {
        find(&self.transaction, id)
    }

    /// Queued, running or paused, and not about to be cancelled: at most one job is.
    pub(super) fn unfinished(&self) -> Result<usize> {
        let unfinished = states(|state| !state.is_final());
        let sql = format!("SELECT count(*) FROM jobs WHERE state IN ({unfinished}) AND wish IS NOT 'cancel'");
        Ok(self.transaction.query_row(&sql, [], |row| row.get::<_, u32>(0))? as usize)
    }

    pub(super) fn ids(&self, wanted: impl Fn(JobState) -> bool) -> Result<Vec<JobId>> {
        let sql = format!("SELECT id FROM jobs WHERE state IN ({}) ORDER BY id", states(wanted));
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let ids = statement.query_map([], |row| row.get(0).map(JobId))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    /// The one way a job's state changes: only along [`JobState::may_become`], with its event in the same transaction.
    pub(super) fn become_state(&mut self, id: &JobId, next: JobState, event: NewEvent) -> Result<()> {
        let now = millis(self.now);
        let sql = format!(
            "UPDATE jobs SET state = ?2,
                started_at = CASE WHEN ?2 = 'validating' THEN coalesce(started_at, ?3) ELSE started_at END,
                finished_at = CASE WHEN ?4 THEN ?3 END,
                run_started_at = CASE WHEN ?2 = 'running' THEN NULL ELSE run_started_at END,
                wish = CASE WHEN ?4 OR ?2 IN ('queued', 'paused') THEN NULL ELSE wish END
             WHERE id = ?1 AND state IN ({})",
            states(|state| state.may_become(next))
        );
        let changed = self.transaction.execute(&sql, params![id.0, next.as_str(), now, next.is_final()])?;
        if changed == 0 {
            let status = self.job(id)?.view.status;
            return Err(Error::conflict(format!("job {id} is {status}; from there it cannot become {next}")));
        }
        self.append(id, event)
    }

    pub(super) fn end(&mut self, id: &JobId, ending: &Ending) -> Result<()> {
        self.become_state(id, ending.state(), ending.event())?;
        let result = ending.result().map(|result| rows::result_to_json(result).to_string());
        let (code, message) = ending.error().unzip();
        self.transaction.execute(
            "UPDATE jobs SET result = ?, error_code = ?, error_message = ? WHERE id = ?",
            params![result, code, message, id.0],
        )?;
        Ok(())
    }

    pub(super) fn set_wish(&mut self, id: &JobId, wish: Option<Wish>, message: &str) -> Result<()> {
        self.transaction.execute("UPDATE jobs SET wish = ? WHERE id = ?", params![wish.map(Wish::as_str), id.0])?;
        self.append(id, NewEvent::message(message))
    }

    pub(super) fn set_intent(&mut self, id: &JobId, intent: &Intent) -> Result<()> {
        self.transaction.execute(
            "UPDATE jobs SET intent_digest = ?, intent_after = ? WHERE id = ?",
            params![intent.digest.as_str(), intent.after, id.0],
        )?;
        Ok(())
    }

    /// One more, or back to none.
    pub(super) fn count_interruption(&mut self, id: &JobId, another: bool) -> Result<()> {
        self.transaction.execute(
            "UPDATE jobs SET interruptions = CASE WHEN ? THEN interruptions + 1 ELSE 0 END WHERE id = ?",
            params![another, id.0],
        )?;
        Ok(())
    }

    pub(super) fn progress(&mut self, id: &JobId, progress: &Progress) -> Result<()> {
        self.transaction.execute(
            "UPDATE jobs SET step = ?2, steps = ?3, epoch = ?4, progress_at = ?5,
                run_first_step = CASE WHEN run_started_at IS NULL THEN ?2 ELSE run_first_step END,
                run_started_at = coalesce(run_started_at, ?5)
             WHERE id = ?1",
            params![id.0, progress.step as i64, progress.steps as i64, progress.epoch, millis(self.now)],
        )?;
        Ok(())
    }

    /// Figures that are not numbers are left out: JSON has none.
    pub(super) fn merge_metrics(&mut self, id: &JobId, figures: &[(String, f64)]) -> Result<()> {
        let merged: Map<String, Value> = self
            .job(id)?
            .view
            .metrics
            .into_iter()
            .chain(figures.iter().cloned())
            .filter(|(_, figure)| figure.is_finite())
            .map(|(name, figure)| (name, json!(figure)))
            .collect();
        let metrics = Value::Object(merged).to_string();
        self.transaction.execute("UPDATE jobs SET metrics = ? WHERE id = ?", params![metrics, id.0])?;
        Ok(())
    }

    pub(super) fn append(&mut self, id: &JobId, event: NewEvent) -> Result<()> {
        let next = last_event(&self.transaction, id)? + 1;
        self.transaction.execute(
            "INSERT INTO events (job, id, created_at, level, kind, message, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![id.0, next, millis(self.now), event.level, event.kind, event.message, event.data.to_string()],
        )?;
        if next % EVENTS_CUT_AT_ONCE == 0 {
            self.cut_events(id)?;
        }
        self.touched.push(id.clone());
        Ok(())
    }

    fn cut_events(&self, id: &JobId) -> Result<()> {
        let count: i64 =
            self.transaction.query_row("SELECT count(*) FROM events WHERE job = ?", [&id.0], |row| row.get(0))?;
        self.transaction.execute(
            "DELETE FROM events WHERE job = ?1 AND id IN (
                SELECT id FROM events WHERE job = ?1 AND id > ?2 ORDER BY kind = 'metrics' DESC, id LIMIT ?3)",
            params![id.0, EVENTS_KEPT_FIRST, (count - EVENTS_PER_JOB_MAX).max(0)],
        )?;
        Ok(())
    }

    /// The finished jobs past the bound, which are no more.
    pub(super) fn drop_oldest_finished(&self) -> Result<Vec<JobId>> {
        let sql = format!(
            "DELETE FROM jobs WHERE id IN (
                SELECT id FROM jobs WHERE state IN ({}) ORDER BY id DESC LIMIT -1 OFFSET ?) RETURNING id",
            states(JobState::is_final)
        );
        let mut statement = self.transaction.prepare(&sql)?;
        let ids = statement.query_map([FINISHED_JOBS_MAX], |row| row.get(0).map(JobId))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }
}

pub(super) fn find(connection: &rusqlite::Connection, id: &JobId) -> Result<Job> {
    let mut statement = connection.prepare_cached("SELECT * FROM jobs WHERE id = ?")?;
    let found = statement.query_row([&id.0], |row| Ok(rows::job(row))).optional()?;
    found.unwrap_or_else(|| Err(Error::not_found(format!("no job {:?}", id.0))))
}

/// 0 before the first.
pub(super) fn last_event(connection: &rusqlite::Connection, id: &JobId) -> Result<i64> {
    let mut statement = connection.prepare_cached("SELECT coalesce(max(id), 0) FROM events WHERE job = ?")?;
    Ok(statement.query_row([&id.0], |row| row.get(0))?)
}

/// `'queued', 'paused'` of the states that `wanted` picks, for `IN (…)`.
pub(super) fn states(wanted: impl Fn(JobState) -> bool) -> String {
    let picked: Vec<String> =
        JobState::ALL.into_iter().filter(|&state| wanted(state)).map(|state| format!("'{state}'")).collect();
    picked.join(", ")
}

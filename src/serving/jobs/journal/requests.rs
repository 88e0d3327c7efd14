//! What callers ask of a job: done at once where it waits, left as a wish where the runner has it.

use std::time::SystemTime;

use crate::domain::{Error, JobId, JobState, Result};
use crate::serving::jobs::journal::change::Change;
use crate::serving::jobs::journal::{Ending, Job, Journal, NewEvent, Outlives, Wish};

impl Journal {
    /// Cancels a waiting job, or asks the runner to. `conflict` once it is being published or over.
    pub(in crate::serving::jobs) fn cancel(&self, id: &JobId, now: SystemTime) -> Result<Job> {
        self.write(Outlives::PowerCut, now, |change| {
            let job = change.job(id)?;
            match job.view.status {
                _ if job.intent.is_some() => return Err(refused(&job, "cancelled")),
                JobState::Queued | JobState::Paused => change.end(id, &Ending::Cancelled)?,
                JobState::Validating | JobState::Running | JobState::Evaluating => wish(change, &job, Wish::Cancel)?,
                _ => return Err(refused(&job, "cancelled")),
            }
            change.job(id)
        })
    }

    /// Pauses a queued job, or asks the runner to. `conflict` from evaluation on, and for a job that is being cancelled.
    pub(in crate::serving::jobs) fn pause(&self, id: &JobId, now: SystemTime) -> Result<Job> {
        self.write(Outlives::PowerCut, now, |change| {
            let job = change.job(id)?;
            match job.view.status {
                _ if job.intent.is_some() || job.wish == Some(Wish::Cancel) => return Err(refused(&job, "paused")),
                JobState::Queued => change.become_state(id, JobState::Paused, paused())?,
                JobState::Validating | JobState::Running => wish(change, &job, Wish::Pause)?,
                _ => return Err(refused(&job, "paused")),
            }
            change.job(id)
        })
    }

    /// Queues a paused job again, or takes back a pause that the runner has not heeded yet.
    pub(in crate::serving::jobs) fn resume(&self, id: &JobId, now: SystemTime) -> Result<Job> {
        self.write(Outlives::PowerCut, now, |change| {
            let job = change.job(id)?;
            match (job.view.status, job.wish) {
                (JobState::Paused, _) => {
                    change.become_state(id, JobState::Queued, NewEvent::state(JobState::Queued, "resumed"))?;
                }
                (_, Some(Wish::Pause)) => change.set_wish(id, None, "the pause is taken back")?,
                _ => return Err(refused(&job, "resumed")),
            }
            change.job(id)
        })
    }
}

/// Asking twice changes nothing.
fn wish(change: &mut Change<'_>, job: &Job, wish: Wish) -> Result<()> {
    if job.wish == Some(wish) {
        return Ok(());
    }
    let message = match wish {
        Wish::Cancel => "asked to cancel",
        Wish::Pause => "asked to pause",
    };
    change.set_wish(&job.view.id, Some(wish), message)
}

fn paused() -> NewEvent {
    NewEvent::state(JobState::Paused, "paused before it ran")
}

fn refused(job: &Job, action: &str) -> Error {
    let status = match (job.intent.is_some() && !job.view.status.is_final(), job.wish) {
        (true, _) => "being published".to_owned(),
        (_, Some(Wish::Cancel)) => "being cancelled".to_owned(),
        _ => job.view.status.to_string(),
    };
    Error::conflict(format!("job {} is {status}, so it cannot be {action}", job.view.id))
}

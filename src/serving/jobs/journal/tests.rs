//! The journal alone: the table of states, what callers may ask in each, and its bounds.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::*;
use crate::domain::ErrorKind;
use crate::serving::jobs::parse_spec;

struct Fixture {
    _folder: tempfile::TempDir,
    journal: Journal,
    now: SystemTime,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("jobs.sqlite")).unwrap();
    Fixture { _folder: folder, journal, now: UNIX_EPOCH + Duration::from_secs(1_000_000) }
}

impl Fixture {
    fn submit(&self, id: &str) -> JobId {
        let spec = json!({"kind": "fine_tune", "adapter": "a", "family": "ner", "data": {"train": "d:train"}});
        let id = JobId(id.to_owned());
        self.journal.submit(&id, &parse_spec(spec).unwrap(), usize::MAX, self.now).unwrap();
        id
    }

    /// Past all guards.
    fn force(&self, id: &JobId, state: JobState) {
        let sql = "UPDATE jobs SET state = ?, wish = NULL WHERE id = ?";
        self.journal.lock().execute(sql, [state.as_str(), &id.0]).unwrap();
    }
}

#[test]
fn a_state_is_left_only_along_the_table() {
    let fixture = fixture();
    let id = fixture.submit("job_1");
    for from in JobState::ALL {
        for next in JobState::ALL {
            fixture.force(&id, from);
            let events = fixture.journal.last_event(&id).unwrap().0;
            let became = fixture.journal.become_state(&id, next, "on", fixture.now);
            assert_eq!(became.is_ok(), from.may_become(next), "{from} to {next}");
            let (status, event) = if became.is_ok() { (next, events + 1) } else { (from, events) };
            assert_eq!(fixture.journal.job(&id).unwrap().view.status, status);
            assert_eq!(fixture.journal.last_event(&id).unwrap().0, event, "{from} to {next}");
        }
    }
}

#[test]
fn what_callers_ask_is_done_left_as_a_wish_or_refused() {
    use JobState::{
        Cancelled, Evaluating, Failed, Paused, Publishing, Queued, Rejected, Running, Succeeded, Validating,
    };
    type Ask = fn(&Journal, &JobId, SystemTime) -> Result<Job>;
    /// The state and the wish after it; None: refused.
    type After = Option<(JobState, Option<Wish>)>;
    type Row = (Ask, &'static str, [(JobState, After); 10]);
    let (wish_pause, wish_cancel) = (Some(Wish::Pause), Some(Wish::Cancel));
    let table: [Row; 3] = [
        (
            Journal::cancel,
            "cancel",
            [
                (Queued, Some((Cancelled, None))),
                (Validating, Some((Validating, wish_cancel))),
                (Running, Some((Running, wish_cancel))),
                (Paused, Some((Cancelled, None))),
                (Evaluating, Some((Evaluating, wish_cancel))),
                (Publishing, None),
                (Succeeded, None),
                (Rejected, None),
                (Failed, None),
                (Cancelled, None),
            ],
        ),
        (
            Journal::pause,
            "pause",
            [
                (Queued, Some((Paused, None))),
                (Validating, Some((Validating, wish_pause))),
                (Running, Some((Running, wish_pause))),
                (Paused, None),
                (Evaluating, None),
                (Publishing, None),
                (Succeeded, None),
                (Rejected, None),
                (Failed, None),
                (Cancelled, None),
            ],
        ),
        (
            Journal::resume,
            "resume",
            [
                (Queued, None),
                (Validating, None),
                (Running, None),
                (Paused, Some((Queued, None))),
                (Evaluating, None),
                (Publishing, None),
                (Succeeded, None),
                (Rejected, None),
                (Failed, None),
                (Cancelled, None),
            ],
        ),
    ];
    let fixture = fixture();
    let id = fixture.submit("job_1");
    for (ask, name, cases) in table {
        for (from, after) in cases {
            fixture.force(&id, from);
            let answer = ask(&fixture.journal, &id, fixture.now);
            let got = answer.as_ref().ok().map(|job| (job.view.status, job.wish));
            assert_eq!(got, after, "{name} a job that is {from}");
            if let Err(error) = answer {
                assert_eq!(error.kind(), ErrorKind::Conflict);
                assert!(error.message().contains(&format!("is {from}")), "{error}");
            }
        }
    }
}

#[test]
fn asking_twice_is_asking_once_and_a_pause_can_be_taken_back() {
    let fixture = fixture();
    let id = fixture.submit("job_1");
    fixture.force(&id, JobState::Running);
    fixture.journal.pause(&id, fixture.now).unwrap();
    let events = fixture.journal.last_event(&id).unwrap();
    fixture.journal.pause(&id, fixture.now).unwrap();
    assert_eq!(fixture.journal.last_event(&id).unwrap(), events);
    assert_eq!(fixture.journal.resume(&id, fixture.now).unwrap().wish, None);
    assert_eq!(fixture.journal.cancel(&id, fixture.now).unwrap().wish, Some(Wish::Cancel));
}

#[test]
fn a_long_jobs_events_keep_their_beginning_their_end_and_every_state() {
    let fixture = fixture();
    let id = fixture.submit("job_1");
    fixture.journal.become_state(&id, JobState::Validating, "on", fixture.now).unwrap();
    let total = change::EVENTS_PER_JOB_MAX as u64 + 2_000;
    fixture
        .journal
        .write(Outlives::Kill, fixture.now, |change| {
            for number in 3..=total {
                let event = match number {
                    1_000 => NewEvent::message("a rare one"),
                    _ => NewEvent::metrics("step", json!({"step": number})),
                };
                change.append(&id, event)?;
            }
            Ok(())
        })
        .unwrap();
    let events = fixture.journal.events(&id, 0, usize::MAX).unwrap();
    assert_eq!(events.len(), change::EVENTS_PER_JOB_MAX as usize);
    assert!(events.iter().take(100).zip(1..).all(|(event, number)| event.id == number));
    assert_eq!(events.last().unwrap().id, total);
    assert!(events.iter().any(|event| event.message == "a rare one"));
    assert_eq!(fixture.journal.last_event(&id).unwrap().0, total);
}

#[test]
fn finished_jobs_past_their_bound_go_with_their_events() {
    let fixture = fixture();
    let bound = change::FINISHED_JOBS_MAX as usize;
    let ids: Vec<JobId> = (0..bound + 2).map(|number| fixture.submit(&format!("job_{number:05}"))).collect();
    fixture.journal.lock().execute("UPDATE jobs SET state = 'failed' WHERE id > 'job_00000'", []).unwrap();
    let spec = fixture.journal.job(&ids[0]).unwrap().view.spec;
    let removed = fixture.journal.submit(&JobId("job_9".to_owned()), &spec, 9, fixture.now).unwrap();
    assert_eq!(removed, ids[1..2], "the oldest finished one; the unfinished one stays");
    assert_eq!(fixture.journal.job(&ids[1]).unwrap_err().kind(), ErrorKind::NotFound);
    let left: i64 = fixture
        .journal
        .lock()
        .query_row("SELECT count(*) FROM events WHERE job = ?", [&ids[1].0], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}

#[test]
fn the_finish_is_estimated_while_a_job_runs_and_figures_that_are_no_numbers_are_left_out() {
    let fixture = fixture();
    let id = fixture.submit("job_1");
    fixture.force(&id, JobState::Validating);
    fixture.journal.become_state(&id, JobState::Running, "running", fixture.now).unwrap();
    let figures = [("loss".to_owned(), f64::NAN), ("rows_per_second".to_owned(), 3.0)];
    for (seconds, step) in [(0, 10), (30, 40)] {
        let progress = Some(Progress { step, steps: 100, epoch: 1 });
        let event = NewEvent::metrics("step", json!({}));
        let then = fixture.now + Duration::from_secs(seconds);
        fixture.journal.measured(&id, progress, &figures, event, then).unwrap();
    }
    let job = fixture.journal.job(&id).unwrap().view;
    assert_eq!(job.estimated_finish, Some(fixture.now + Duration::from_secs(90)));
    assert_eq!(job.metrics, [("rows_per_second".to_owned(), 3.0)]);
    fixture.force(&id, JobState::Evaluating);
    assert_eq!(fixture.journal.job(&id).unwrap().view.estimated_finish, None);
}

#[test]
fn a_change_that_fails_leaves_nothing_behind() {
    let fixture = fixture();
    let id = fixture.submit("job_1");
    let failed: Result<()> = fixture.journal.write(Outlives::PowerCut, fixture.now, |change| {
        change.append(&id, NewEvent::message("half"))?;
        Err(Error::internal("no"))
    });
    assert!(failed.is_err());
    assert_eq!(fixture.journal.last_event(&id).unwrap(), (1, false));
}

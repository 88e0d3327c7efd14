//! `kill -9` at each point: what a start makes of the journal and folders as they were left.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;

use super::fakes::{Course, FakePublisher, FakeTrainer, adapter, checkpoint, evaluation, parts, spec};
use super::{reaches, states};
use crate::domain::{ErrorKind, JobId, JobState};
use crate::serving::jobs::Jobs;
use crate::serving::jobs::folder::{Figures, JobFolders, Trained};
use crate::serving::jobs::journal::{Intent, Journal};
use crate::serving::jobs::ports::Publisher;

/// How far the job had come.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Point {
    Validating,
    Running,
    Checkpointed,
    Evaluating,
    AdapterSaved,
    Intended,
    Published,
    Activated,
}

const POINTS: [Point; 8] = [
    Point::Validating,
    Point::Running,
    Point::Checkpointed,
    Point::Evaluating,
    Point::AdapterSaved,
    Point::Intended,
    Point::Published,
    Point::Activated,
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Nothing,
    Pause,
    Cancel,
}

/// Leaves journal, folder and store as a process killed at `point` would.
fn die_at(point: Point, asked: Asked, state_dir: &Path, publisher: &FakePublisher) -> JobId {
    let (id, now) = (JobId("job_1".to_owned()), SystemTime::now());
    let journal = Journal::open(&state_dir.join("jobs.sqlite")).unwrap();
    let folder = JobFolders::open(state_dir.join("jobs")).unwrap().of(&id);
    let to = |state| journal.become_state(&id, state, "on", now).unwrap();
    journal.submit(&id, &spec(json!({})), 9, now).unwrap();
    journal.take_next(now).unwrap();
    if point >= Point::Running {
        to(JobState::Running);
    }
    if point >= Point::Checkpointed {
        checkpoint(&folder.checkpoint_folder().unwrap(), 2);
    }
    match asked {
        Asked::Nothing => {}
        Asked::Pause => drop(journal.pause(&id, now).unwrap()),
        Asked::Cancel => drop(journal.cancel(&id, now).unwrap()),
    }
    if point >= Point::Evaluating {
        to(JobState::Evaluating);
    }
    if point >= Point::AdapterSaved {
        let figures = Figures {
            validation: evaluation(0.9),
            test: None,
            calibration: serde_json::Value::Null,
            warnings: Vec::new(),
            rows_per_second: 1.0,
            tokens_per_second: 1.0,
        };
        folder.save_trained(&Trained { files: adapter(0.9), figures }).unwrap();
    }
    if point >= Point::Intended {
        let after = publisher.versions("bank").len() as u32;
        let intent = Intent { digest: adapter(0.9).digest(), after };
        assert_eq!(journal.begin_publishing(&id, &intent, now).unwrap(), asked != Asked::Cancel);
    }
    if point >= Point::Published && asked != Asked::Cancel {
        publisher.publish(&"bank".parse().unwrap(), adapter(0.9), point == Point::Activated).unwrap();
    }
    id
}

#[tokio::test]
async fn wherever_it_is_killed_a_job_ends_as_if_it_had_not_been() {
    for point in POINTS {
        // An equal adapter that was there before is not this job's version.
        for before in 0..=1 {
            let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
            for _ in 0..before {
                publisher.publish(&"bank".parse().unwrap(), adapter(0.9), true).unwrap();
            }
            let id = die_at(point, Asked::Nothing, folder.path(), &publisher);
            let trainer = FakeTrainer::free(Course::Finishes(0.9));
            let jobs = Jobs::open(parts(folder.path(), trainer.clone(), publisher.clone())).await.unwrap();
            let job = reaches(&jobs, &id, JobState::Succeeded).await;
            let result = job.result.unwrap();
            assert_eq!((result.version, result.active), (before + 1, true), "{point:?}");
            let versions = publisher.versions("bank");
            assert_eq!(versions.len() as u32, before + 1, "{point:?}: {versions:?}");
            assert_eq!(versions.last(), Some(&(before + 1, true)), "{point:?}");
            let runs: &[u64] = match point {
                Point::Validating | Point::Running => &[0],
                Point::Checkpointed | Point::Evaluating => &[2],
                _ => &[],
            };
            assert_eq!(*trainer.runs.lock().unwrap(), runs, "{point:?}");
        }
    }
}

#[tokio::test]
async fn what_was_asked_before_the_crash_is_done_after_it() {
    for (point, asked, wanted) in [
        (Point::Validating, Asked::Pause, JobState::Paused),
        (Point::Checkpointed, Asked::Pause, JobState::Paused),
        (Point::Evaluating, Asked::Pause, JobState::Succeeded),
        (Point::Validating, Asked::Cancel, JobState::Cancelled),
        (Point::Checkpointed, Asked::Cancel, JobState::Cancelled),
        (Point::AdapterSaved, Asked::Cancel, JobState::Cancelled),
        (Point::Intended, Asked::Cancel, JobState::Cancelled),
    ] {
        let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
        let id = die_at(point, asked, folder.path(), &publisher);
        let parts = parts(folder.path(), FakeTrainer::free(Course::Finishes(0.9)), publisher.clone());
        let metrics = parts.metrics.clone();
        let jobs = Jobs::open(parts).await.unwrap();
        reaches(&jobs, &id, wanted).await;
        jobs.shut_down().await;
        assert_eq!(publisher.versions("bank").len(), usize::from(wanted == JobState::Succeeded), "{point:?}");
        let ended = format!("trunkline_jobs_finished_total{{status=\"{wanted}\"}} 1");
        assert_eq!(metrics.render().contains(&ended), wanted.is_final(), "{point:?}");
    }
}

#[tokio::test]
async fn a_version_that_somebody_activated_since_stays_active() {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let id = die_at(Point::Published, Asked::Nothing, folder.path(), &publisher);
    publisher.publish(&"bank".parse().unwrap(), adapter(0.5), true).unwrap();
    let trainer = FakeTrainer::free(Course::Finishes(0.9));
    let jobs = Jobs::open(parts(folder.path(), trainer, publisher.clone())).await.unwrap();
    let result = reaches(&jobs, &id, JobState::Succeeded).await.result.unwrap();
    assert_eq!((result.version, result.active), (1, false));
    assert_eq!(publisher.versions("bank"), [(1, false), (2, true)]);
}

#[tokio::test]
async fn a_job_that_is_being_published_cannot_be_stopped_also_after_a_crash() {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let id = die_at(Point::Published, Asked::Nothing, folder.path(), &publisher);
    let journal = Journal::open(&folder.path().join("jobs.sqlite")).unwrap();
    journal.recover("a restart", |_| None, SystemTime::now()).unwrap();
    for refused in [journal.cancel(&id, SystemTime::now()), journal.pause(&id, SystemTime::now())] {
        let message = refused.unwrap_err().message().to_owned();
        assert!(message.contains("being published"), "{message}");
    }
}

#[tokio::test]
async fn a_restart_says_where_the_job_goes_on() {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let id = die_at(Point::Checkpointed, Asked::Nothing, folder.path(), &publisher);
    let trainer = FakeTrainer::free(Course::Finishes(0.9));
    let jobs = Jobs::open(parts(folder.path(), trainer, publisher)).await.unwrap();
    reaches(&jobs, &id, JobState::Succeeded).await;
    let events = super::events(&jobs, &id).await;
    let said = |text: &str| events.iter().any(|event| event.message == text);
    assert!(said("interrupted by a restart, goes on from checkpoint step 2"), "{events:?}");
    let went = "queued validating running queued validating running evaluating publishing succeeded";
    assert_eq!(states(&jobs, &id).await, went);
}

#[tokio::test]
async fn two_processes_never_run_the_jobs_of_one_folder() {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let open = || Jobs::open(parts(folder.path(), FakeTrainer::free(Course::Finishes(0.9)), publisher.clone()));
    let first = open().await.unwrap();
    let refused = open().await.err().expect("the folder is taken");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    first.shut_down().await;
    drop(first);
    open().await.unwrap();
}

#[test]
fn a_job_that_keeps_killing_the_server_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (id, now) = (JobId("job_1".to_owned()), SystemTime::now());
    let journal = Journal::open(&folder.path().join("jobs.sqlite")).unwrap();
    journal.submit(&id, &spec(json!({})), 9, now).unwrap();
    let crash = || {
        let taken = journal.take_next(now).unwrap();
        journal.recover("a restart", |_| None, now).unwrap();
        taken.is_some()
    };
    (0..15).for_each(|_| assert!(crash()));
    journal.checkpointed(&id, 5, now).unwrap();
    (0..21).for_each(|_| assert!(crash()));
    assert!(!crash());
    let job = journal.job(&id).unwrap().view;
    assert_eq!(job.status, JobState::Failed);
    assert_eq!(job.error.unwrap().1, "interrupted 20 times with no checkpoint between");
}

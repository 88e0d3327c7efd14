//! From submission to the end: states, events, gates, and what callers may ask when.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::fakes::{Course, FakePublisher, FakeTrainer, STEPS, parts, spec};
use super::{events, reaches, states};
use crate::domain::{Error, ErrorKind, JobId, JobState};
use crate::serving::jobs::Jobs;

/// Jobs with a trainer that finishes at once.
async fn free(course: Course) -> (tempfile::TempDir, Jobs, Arc<FakePublisher>) {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let jobs = Jobs::open(parts(folder.path(), FakeTrainer::free(course), publisher.clone())).await.unwrap();
    (folder, jobs, publisher)
}

async fn submit(jobs: &Jobs, changes: Value) -> JobId {
    jobs.submit(spec(changes)).await.unwrap().id
}

#[tokio::test]
async fn a_job_goes_through_its_states_and_its_adapter_answers() {
    let (_folder, jobs, publisher) = free(Course::Finishes(0.9)).await;
    let submitted = jobs.submit(spec(json!({}))).await.unwrap();
    assert!(submitted.id.0.starts_with("job_"), "{}", submitted.id);
    let job = reaches(&jobs, &submitted.id, JobState::Succeeded).await;
    assert_eq!(states(&jobs, &job.id).await, "queued validating running evaluating publishing succeeded");
    let result = job.result.unwrap();
    assert_eq!((result.name.as_str(), result.version, result.active), ("bank", 1, true));
    assert_eq!(publisher.versions("bank"), [(1, true)]);
    assert_eq!((job.step, job.steps, job.epoch), (STEPS, STEPS, 1));
    assert!(job.metrics.contains(&("validation_accuracy".to_owned(), 0.9)), "{:?}", job.metrics);
    assert!(job.started_at >= Some(job.created_at) && job.finished_at >= job.started_at);
    assert_eq!(job.error, None);
}

#[tokio::test]
async fn events_are_numbered_in_order_and_end_with_the_job() {
    let (_folder, jobs, _) = free(Course::Finishes(0.9)).await;
    let id = submit(&jobs, json!({})).await;
    let mut seen = Vec::new();
    while jobs.wait_for_events(&id, seen.len() as u64).await.unwrap() {
        seen.extend(jobs.events(&id, seen.len() as u64, 2).await.unwrap());
    }
    assert_eq!(seen, events(&jobs, &id).await);
    assert!(seen.iter().zip(1..).all(|(event, number)| event.id == number), "{seen:?}");
    assert_eq!(seen.last().unwrap().data["status"], "succeeded");
    let of = |kind: &str| seen.iter().filter(|event| event.kind == kind).map(|event| &event.data).collect::<Vec<_>>();
    let metrics = of("metrics");
    assert_eq!(metrics[0]["step"], 1);
    assert_eq!(metrics[0]["loss"], 1.0);
    assert_eq!(metrics[0]["tokens_per_second"], 20.0);
    assert_eq!(metrics.iter().find_map(|data| data["validation"]["accuracy"].as_f64()), Some(0.9));
}

#[tokio::test]
async fn a_gate_decides_what_is_published() {
    let gate = |min: f64, compare: bool| json!({"metric": "accuracy", "min": min, "not_worse_than_active": compare});
    for (changes, state, message, versions) in [
        (json!({"gate": gate(0.8, false)}), JobState::Succeeded, None, vec![(1, false), (2, true)]),
        (json!({"gate": gate(0.95, false)}), JobState::Rejected, Some("below the minimum of 0.95"), vec![(1, true)]),
        (
            json!({"gate": gate(0.1, true)}),
            JobState::Rejected,
            Some("below the active version 1's 0.92"),
            vec![(1, true)],
        ),
        (json!({"publish": "stage"}), JobState::Succeeded, None, vec![(1, true), (2, false)]),
        (json!({"publish": "never"}), JobState::Succeeded, None, vec![(1, true)]),
    ] {
        let (_folder, jobs, publisher) = free(Course::Finishes(0.9)).await;
        let name = "bank".parse().unwrap();
        crate::serving::jobs::ports::Publisher::publish(&*publisher, &name, super::fakes::adapter(0.92), true).unwrap();
        let id = submit(&jobs, changes.clone()).await;
        let job = reaches(&jobs, &id, state).await;
        assert_eq!(publisher.versions("bank"), versions, "{changes}");
        assert_eq!(job.result.is_some(), versions.len() == 2, "{changes}");
        assert_eq!(job.error.is_some(), message.is_some(), "{changes}");
        let (code, got) = job.error.unwrap_or_default();
        assert!(got.contains(message.unwrap_or_default()), "{changes}: {got}");
        assert!(code.is_empty() || code == "gate_not_met", "{code}");
        let report = jobs.report(&id).await.unwrap();
        assert_eq!(report["validation"]["classification"]["accuracy"], 0.9);
        assert_eq!(report["gate"]["met"].as_bool().unwrap_or(true), message.is_none(), "{report}");
    }
}

#[tokio::test]
async fn equal_jobs_publish_a_version_each() {
    let (_folder, jobs, publisher) = free(Course::Finishes(0.9)).await;
    for version in 1..=2 {
        let id = submit(&jobs, json!({})).await;
        assert_eq!(reaches(&jobs, &id, JobState::Succeeded).await.result.unwrap().version, version);
    }
    assert_eq!(publisher.versions("bank"), [(1, false), (2, true)]);
}

#[tokio::test]
async fn a_job_that_fails_or_panics_says_so_and_the_next_one_runs() {
    for (course, code, message) in [
        (Course::Fails, "unprocessable", "the loss is NaN"),
        (Course::Panics, "internal", "the job ran into a bug of the server; its log says more"),
    ] {
        let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
        let trainer = FakeTrainer::free(course);
        let parts = parts(folder.path(), trainer.clone(), publisher.clone());
        let metrics = parts.metrics.clone();
        let jobs = Jobs::open(parts).await.unwrap();
        let id = submit(&jobs, json!({})).await;
        let job = reaches(&jobs, &id, JobState::Failed).await;
        assert_eq!(job.error, Some((code.to_owned(), message.to_owned())));
        assert_eq!(events(&jobs, &id).await.last().unwrap().level, "error");
        assert!(publisher.versions("bank").is_empty());
        trainer.course.clear_poison();
        *trainer.course.lock().unwrap() = Course::Finishes(0.9);
        let next = submit(&jobs, json!({})).await;
        reaches(&jobs, &next, JobState::Succeeded).await;
        assert!(metrics.render().contains("trunkline_jobs_finished_total{status=\"failed\"} 1"), "{code}");
    }
}

#[tokio::test]
async fn a_publication_that_fails_fails_the_job() {
    let (_folder, jobs, publisher) = free(Course::Finishes(0.9)).await;
    *publisher.fails.lock().unwrap() = Some(Error::unavailable("the disk is full"));
    let id = submit(&jobs, json!({})).await;
    let job = reaches(&jobs, &id, JobState::Failed).await;
    assert_eq!(job.error, Some(("unavailable".to_owned(), "the disk is full".to_owned())));
}

#[tokio::test]
async fn a_paused_job_frees_the_runner_and_goes_on_from_its_checkpoint() {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let (trainer, steps) = FakeTrainer::stepping(Course::Finishes(0.9));
    let jobs = Jobs::open(parts(folder.path(), trainer.clone(), publisher)).await.unwrap();
    let first = submit(&jobs, json!({})).await;
    reaches(&jobs, &first, JobState::Running).await;
    steps.send(()).unwrap();
    while jobs.get(&first).await.unwrap().step == 0 {
        let seen = events(&jobs, &first).await.last().unwrap().id;
        if jobs.get(&first).await.unwrap().step == 0 {
            jobs.wait_for_events(&first, seen).await.unwrap();
        }
    }
    assert_eq!(jobs.pause(&first).await.unwrap().status, JobState::Running);
    steps.send(()).unwrap();
    reaches(&jobs, &first, JobState::Paused).await;
    assert_eq!(jobs.checkpoints(&first).await.unwrap()[0].step, 1);
    drop(steps);
    let second = submit(&jobs, json!({"adapter": "other"})).await;
    reaches(&jobs, &second, JobState::Succeeded).await;
    jobs.resume(&first).await.unwrap();
    reaches(&jobs, &first, JobState::Succeeded).await;
    assert_eq!(*trainer.runs.lock().unwrap(), [0, 0, 1]);
    let went = "queued validating running paused queued validating running evaluating publishing succeeded";
    assert_eq!(states(&jobs, &first).await, went);
    assert_eq!(jobs.checkpoints(&first).await.unwrap(), []);
}

#[tokio::test]
async fn a_running_job_is_cancelled_at_its_next_step() {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let (trainer, steps) = FakeTrainer::stepping(Course::Finishes(0.9));
    let jobs = Jobs::open(parts(folder.path(), trainer, publisher.clone())).await.unwrap();
    let id = submit(&jobs, json!({})).await;
    reaches(&jobs, &id, JobState::Running).await;
    jobs.pause(&id).await.unwrap();
    jobs.resume(&id).await.unwrap();
    jobs.cancel(&id).await.unwrap();
    assert_eq!(jobs.pause(&id).await.unwrap_err().kind(), ErrorKind::Conflict);
    steps.send(()).unwrap();
    reaches(&jobs, &id, JobState::Cancelled).await;
    assert!(publisher.versions("bank").is_empty());
    assert_eq!(jobs.cancel(&id).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(jobs.report(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_queue_is_bounded_oldest_first_and_a_refusal_says_when_to_return() {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let (trainer, steps) = FakeTrainer::stepping(Course::Finishes(0.9));
    let jobs = Jobs::open(parts(folder.path(), trainer, publisher.clone())).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(submit(&jobs, json!({})).await);
    }
    let refused = jobs.submit(spec(json!({}))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(refused.retry_after() >= Some(Duration::from_secs(1)), "{refused:?}");
    let (page, more) = jobs.list(None, 2).await.unwrap();
    assert_eq!((page.iter().map(|job| &job.id).collect::<Vec<_>>(), more), (vec![&ids[2], &ids[1]], true));
    let (page, more) = jobs.list(Some(ids[1].clone()), 2).await.unwrap();
    assert_eq!((page.iter().map(|job| &job.id).collect::<Vec<_>>(), more), (vec![&ids[0]], false));
    reaches(&jobs, &ids[0], JobState::Running).await;
    jobs.cancel(&ids[0]).await.unwrap();
    ids.push(submit(&jobs, json!({})).await);
    drop(steps);
    reaches(&jobs, &ids[0], JobState::Cancelled).await;
    for (id, version) in ids[1..].iter().zip(1..) {
        assert_eq!(reaches(&jobs, id, JobState::Succeeded).await.result.unwrap().version, version);
    }
}

#[tokio::test]
async fn shutting_down_checkpoints_the_running_job_and_the_next_start_goes_on() {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let (trainer, steps) = FakeTrainer::stepping(Course::Finishes(0.9));
    let jobs = Jobs::open(parts(folder.path(), trainer, publisher.clone())).await.unwrap();
    let id = submit(&jobs, json!({})).await;
    reaches(&jobs, &id, JobState::Running).await;
    // Looked up before the step: its event may come at once.
    let seen = events(&jobs, &id).await.last().unwrap().id;
    steps.send(()).unwrap();
    jobs.wait_for_events(&id, seen).await.unwrap();
    let stopping = tokio::spawn({
        let jobs = jobs.clone();
        async move { jobs.shut_down().await }
    });
    while !jobs.inner().unwrap().desk.steering.is_stopping() {
        tokio::task::yield_now().await;
    }
    steps.send(()).unwrap();
    stopping.await.unwrap();
    assert_eq!(jobs.get(&id).await.unwrap().status, JobState::Queued);
    drop(jobs);

    let trainer = FakeTrainer::free(Course::Finishes(0.9));
    let jobs = Jobs::open(parts(folder.path(), trainer.clone(), publisher)).await.unwrap();
    reaches(&jobs, &id, JobState::Succeeded).await;
    assert_eq!(*trainer.runs.lock().unwrap(), [1]);
}

#[tokio::test]
async fn jobs_are_counted_by_status_and_a_finished_one_has_no_gauges() {
    let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
    let parts = parts(folder.path(), FakeTrainer::free(Course::Finishes(0.9)), publisher);
    let metrics = parts.metrics.clone();
    let jobs = Jobs::open(parts).await.unwrap();
    for ending in ["succeeded", "rejected", "failed", "cancelled"] {
        let series = format!("trunkline_jobs_finished_total{{status=\"{ending}\"}} 0");
        assert!(metrics.render().contains(&series), "{series} before the first job");
    }
    let id = submit(&jobs, json!({})).await;
    reaches(&jobs, &id, JobState::Succeeded).await;
    jobs.shut_down().await;
    let rendered = metrics.render();
    assert!(rendered.contains("trunkline_jobs_finished_total{status=\"succeeded\"} 1"), "{rendered}");
    assert!(rendered.contains("trunkline_jobs_finished_total{status=\"failed\"} 0"), "{rendered}");
    assert!(rendered.contains("trunkline_jobs{status=\"succeeded\"} 1"), "{rendered}");
    assert!(rendered.contains("trunkline_jobs{status=\"running\"} 0"), "{rendered}");
    assert!(!rendered.contains(&id.0), "{rendered}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (_folder, jobs, _) = free(Course::Finishes(0.9)).await;
    let id = JobId("../../etc".to_owned());
    for error in [
        jobs.get(&id).await.unwrap_err(),
        jobs.cancel(&id).await.unwrap_err(),
        jobs.events(&id, 0, 10).await.unwrap_err(),
        jobs.wait_for_events(&id, 0).await.unwrap_err(),
        jobs.checkpoints(&id).await.unwrap_err(),
        jobs.report(&id).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

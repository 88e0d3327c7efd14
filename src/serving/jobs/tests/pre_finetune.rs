//! Pre-finetuning jobs on a fake trainer: what is checked, what is published in which order, and after which crash.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::fakes::{
    Course, FakeData, FakePublisher, FakeTrainer, STEPS, adapter, checkpoint, parts, pre_finetune, remains,
};
use super::{reaches, states};
use crate::domain::{Cancel, JobId, JobSpec, JobState};
use crate::serving::jobs::Jobs;
use crate::serving::jobs::check::{Rows, check_new, check_pre_finetune};
use crate::serving::jobs::folder::JobFolders;
use crate::serving::jobs::journal::{Intent, Journal};
use crate::serving::jobs::ports::{Limits, Publisher};

fn problems(changes: Value) -> Vec<String> {
    let publisher = FakePublisher::default();
    publisher.publish(&"other".parse().unwrap(), adapter(0.5), true).unwrap();
    let (spec, limits) = (pre_finetune(changes), Limits { layers: 6, max_length: 512 });
    let checked = check_new(&spec, &publisher).and_then(|()| {
        check_pre_finetune(&spec, &FakeData::new(), &publisher, limits, Rows::Drop, &Cancel::default()).map(drop)
    });
    checked.err().map(|error| error.problems().to_vec()).unwrap_or_default()
}

#[test]
fn a_sound_job_passes_with_pairs_among_its_classes() {
    for changes in [
        json!({}),
        json!({"strategy": "ner_only", "classify": {}}),
        json!({"strategy": "classify_only", "ner": {}, "publish": "never"}),
    ] {
        assert_eq!(problems(changes.clone()), [""; 0], "{changes}");
    }
}

#[test]
fn each_problem_names_its_field() {
    let sets = |names: &[&str]| json!({"datasets": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
    let outputs = |backbone: &str, ner: &str, classify: &str| json!({"outputs": {"backbone": backbone, "ner_primary": ner, "classify_primary": classify}});
    for (changes, problem) in [
        (json!({"ner": sets(&[])}), "ner.datasets: 0 datasets"),
        (json!({"ner": sets(&["bank"])}), "ner.datasets: dataset bank is of family classify"),
        (json!({"ner": sets(&["same"])}), "ner.datasets: dataset same is of family pairs"),
        (json!({"classify": sets(&["people"])}), "classify.datasets: dataset people is of family ner"),
        (json!({"classify": sets(&["gone"])}), "classify.datasets: no split gone:train"),
        (json!({"classify": sets(&["bank", "bank"])}), "classify.datasets: bank:train is named twice"),
        (json!({"classify": {"datasets": [{"name": "bank", "weight": 0}]}}), "classify.datasets: weight 0"),
        (json!({"backbone": "elsewhere"}), "backbone: \"elsewhere\" is not the active one"),
        (outputs("taken", "a", "b"), "outputs.backbone: a backbone \"taken\" is there already"),
        (outputs("made", "a", "a"), "outputs: both primaries are called a"),
        (outputs("made", "other", "b"), "outputs.ner_primary: adapter other is of the other family"),
        (json!({"hyperparameters": {"steps": 0}}), "hyperparameters.steps: 0 is not 1 to"),
        (json!({"hyperparameters": {"batch_size": 1}}), "hyperparameters.batch_size: 1 is not 2 to"),
        (json!({"hyperparameters": {"concepts_max": 257}}), "hyperparameters.concepts_max: 257 is not 1 to 256"),
        (json!({"hyperparameters": {"temperature": 0}}), "hyperparameters.temperature: 0 is not above 0"),
        (json!({"hyperparameters": {"layers": "last:7"}}), "hyperparameters.layers: last:7 does not fit"),
    ] {
        let found = problems(changes.clone());
        assert_eq!(found.len(), 1, "{changes}: {found:?}");
        assert!(found[0].starts_with(problem), "{changes}: {found:?}");
    }
}

#[tokio::test]
async fn primaries_are_published_before_the_backbone_is_activated() {
    for (publish, active, backbones, versions) in [
        ("activate", Some(true), vec!["load made", "activate made"], 1),
        ("stage", Some(false), vec!["load made"], 1),
        ("never", None, vec![], 0),
    ] {
        let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
        let trainer = FakeTrainer::free(Course::Finishes(0.9));
        let jobs = Jobs::open(parts(folder.path(), trainer, publisher.clone())).await.unwrap();
        let spec = JobSpec::PreFinetune(pre_finetune(json!({ "publish": publish })));
        let id = jobs.submit(spec).await.unwrap().id;
        let job = reaches(&jobs, &id, JobState::Succeeded).await;
        assert_eq!(
            job.result.map(|result| (result.name.to_string(), result.active)),
            active.map(|a| ("ner-primary".to_owned(), a))
        );
        assert_eq!(*publisher.backbones.lock().unwrap(), backbones, "{publish}");
        for name in ["ner-primary", "classify-primary"] {
            assert_eq!(publisher.versions(name).len(), versions, "{publish} {name}");
        }
        let report = jobs.report(&id).await.unwrap();
        assert_eq!(report["backbone"]["name"], "made");
        assert_eq!(report["pre_finetune"]["steps"], STEPS);
        assert_eq!(report["published"]["classify_primary"]["active"].as_bool(), active);
        let passed = if publish == "never" { "" } else { " publishing" };
        assert_eq!(states(&jobs, &id).await, format!("queued validating running evaluating{passed} succeeded"));
    }
}

/// How far a job had come when its server was killed.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Point {
    Running,
    Checkpointed,
    Kept,
    Intended,
    OnePublished,
    BothPublished,
}

#[tokio::test]
async fn wherever_it_is_killed_a_job_ends_as_if_it_had_not_been() {
    use Point::{BothPublished, Checkpointed, Intended, Kept, OnePublished, Running};
    for point in [Running, Checkpointed, Kept, Intended, OnePublished, BothPublished] {
        let (folder, publisher) = (tempfile::tempdir().unwrap(), Arc::new(FakePublisher::default()));
        let (id, now) = (JobId("job_1".to_owned()), SystemTime::now());
        {
            let journal = Journal::open(&folder.path().join("jobs.sqlite")).unwrap();
            let own = JobFolders::open(folder.path().join("jobs")).unwrap().of(&id);
            let to = |state| journal.become_state(&id, state, "on", now).unwrap();
            let spec = JobSpec::PreFinetune(pre_finetune(json!({"publish": "activate"})));
            journal.submit(&id, &spec, 9, now).unwrap();
            journal.take_next(now).unwrap();
            to(JobState::Running);
            if point >= Checkpointed {
                checkpoint(&own.checkpoint_folder().unwrap(), 2);
            }
            if point >= Kept {
                to(JobState::Evaluating);
                own.save_remains(&remains("made")).unwrap();
                assert_eq!(own.remains().unwrap(), Some(remains("made")));
            }
            if point >= Intended {
                let intent = Intent { digest: remains("made").backbone.fingerprint, after: 0 };
                assert!(journal.begin_publishing(&id, &intent, now).unwrap());
            }
            let names = ["ner-primary", "classify-primary"].map(|name| name.parse().unwrap());
            let done = if point >= BothPublished { 2 } else { usize::from(point >= OnePublished) };
            for (name, (_, files)) in names.iter().zip(remains("made").primaries).take(done) {
                publisher.publish(name, files, false).unwrap();
            }
        }
        let trainer = FakeTrainer::free(Course::Finishes(0.9));
        let jobs = Jobs::open(parts(folder.path(), trainer.clone(), publisher.clone())).await.unwrap();
        let job = reaches(&jobs, &id, JobState::Succeeded).await;
        assert!(job.result.unwrap().active, "{point:?}");
        for name in ["ner-primary", "classify-primary"] {
            assert_eq!(publisher.versions(name), [(1, true)], "{point:?} {name}");
        }
        assert_eq!(publisher.backbones.lock().unwrap().last().unwrap(), "activate made", "{point:?}");
        let runs: &[u64] = match point {
            Running => &[0],
            Checkpointed => &[2],
            _ => &[],
        };
        assert_eq!(*trainer.runs.lock().unwrap(), runs, "{point:?}");
    }
}

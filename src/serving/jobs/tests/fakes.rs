//! A trainer, a store and data that tests hold in their hands: no step is made that a test has not let through.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::adapter::AdapterFiles;
use crate::domain::{
    AdapterName, AdapterRef, BackboneIdentity, Cancel, DataRef, Digest, Error, ErrorKind, Family, FineTuneSpec,
    JobSpec, PreFinetuneSpec, Result,
};
use crate::serving::PublishedVersion;
use crate::serving::jobs::desk::Parts;
use crate::serving::jobs::folder::Remains;
use crate::serving::jobs::ports::{DataSource, Limits, PreFinetuningRun, Publisher, Registered, Trainer, TrainingRun};
use crate::serving::jobs::record::parse_spec;
use crate::telemetry::Metrics;
use crate::training::dataset::{DatasetFamily, Example, Split};
use crate::training::{
    ClassificationReport, Control, Evaluation, Method, Observer, Outcome, TrainedAdapter, TrainingEvent, Validated,
};

/// Of every run.
pub(super) const STEPS: u64 = 3;

/// How a run goes that nobody stops.
#[derive(Clone, Copy)]
pub(super) enum Course {
    /// With this accuracy.
    Finishes(f64),
    Fails,
    Panics,
}

pub(super) struct FakeTrainer {
    pub(super) course: Mutex<Course>,
    /// One message lets one step through; without a sender they are free.
    steps: Mutex<Receiver<()>>,
    /// The step each run began from.
    pub(super) runs: Mutex<Vec<u64>>,
}

impl FakeTrainer {
    pub(super) fn free(course: Course) -> Arc<Self> {
        Self::stepping(course).0
    }

    pub(super) fn stepping(course: Course) -> (Arc<Self>, Sender<()>) {
        let (sender, steps) = channel();
        (Arc::new(Self { course: Mutex::new(course), steps: Mutex::new(steps), runs: Mutex::default() }), sender)
    }

    fn finish(&self, observer: &mut dyn Observer) -> Result<Outcome> {
        let score = match *self.course.lock().unwrap() {
            Course::Finishes(score) => score,
            Course::Fails => return Err(Error::unprocessable("the loss is NaN")),
            Course::Panics => panic!("the text of a user"),
        };
        let validated = Validated {
            metrics: vec![("accuracy", score)],
            rows: 40,
            method: Method::Split,
            interval: Some([score / 2.0, score]),
        };
        observer.event(TrainingEvent::Validation { step: STEPS, epoch: 1, validated, best: true });
        observer.event(TrainingEvent::Evaluating);
        let (files, validation) = (adapter(score), evaluation(score));
        let trained = TrainedAdapter {
            files,
            validation,
            test: None,
            calibration: serde_json::Value::Null,
            warnings: vec!["few rows".to_owned()],
            rows_per_second: 2.0,
            tokens_per_second: 20.0,
        };
        Ok(Outcome::Finished(Box::new(trained)))
    }
}

impl FakeTrainer {
    /// From the checkpoint that is there to the last step, or where the observer ends it.
    fn advance(&self, folder: PathBuf, observer: &mut dyn Observer) -> Result<Control> {
        let mut step = fs::read_dir(&folder)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .max()
            .unwrap_or(0);
        self.runs.lock().unwrap().push(step);
        let steps = self.steps.lock().unwrap();
        while step < STEPS {
            let _free = steps.recv();
            match observer.control() {
                Control::Continue => step += 1,
                Control::Pause => {
                    checkpoint(&folder, step);
                    observer.event(TrainingEvent::Checkpoint { step, path: folder });
                    return Ok(Control::Pause);
                }
                Control::Cancel => return Ok(Control::Cancel),
            }
            observer.event(made(step));
        }
        Ok(Control::Continue)
    }
}

/// What every pre-finetuning run leaves.
pub(super) fn remains(backbone: &str) -> Remains {
    let backbone = BackboneIdentity { name: backbone.to_owned(), fingerprint: Digest::from_sha256(&[9; 32]) };
    let primaries = vec![(Family::Ner, adapter(0.1)), (Family::Classify, adapter(0.2))];
    Remains { backbone, primaries, report: serde_json::json!({"pre_finetune": {"steps": STEPS}}) }
}

impl Trainer for FakeTrainer {
    fn limits(&self) -> Limits {
        Limits { layers: 6, max_length: 512 }
    }

    fn train(&self, run: TrainingRun, observer: &mut dyn Observer) -> Result<Outcome> {
        match self.advance(run.checkpoint_folder, observer)? {
            Control::Continue => self.finish(observer),
            stopped => Ok(Outcome::Stopped(stopped)),
        }
    }

    fn pre_finetune(&self, run: PreFinetuningRun, observer: &mut dyn Observer) -> Result<Option<Remains>> {
        if self.advance(run.checkpoint_folder, observer)? != Control::Continue {
            return Ok(None);
        }
        observer.event(TrainingEvent::Evaluating);
        Ok(Some(remains(run.spec.outputs.backbone.as_str())))
    }

    fn evaluate(&self, adapter: &AdapterFiles, _: &Split, _: &str) -> Result<Evaluation> {
        Ok(evaluation(std::str::from_utf8(&adapter.weights).unwrap().parse().unwrap()))
    }
}

fn made(step: u64) -> TrainingEvent {
    TrainingEvent::Step {
        step,
        steps: STEPS,
        epoch: 1,
        loss: 1.0 / step as f64,
        learning_rate: 0.001,
        tokens_per_second: 20.0,
        rows_per_second: 2.0,
    }
}

pub(super) fn checkpoint(folder: &Path, step: u64) {
    fs::write(folder.join(format!("step-{step}")), b"weights").unwrap();
}

/// An adapter whose weights are its accuracy: equal jobs make equal digests.
pub(super) fn adapter(score: f64) -> AdapterFiles {
    AdapterFiles { config: b"{}".to_vec(), weights: score.to_string().into_bytes(), card: None, concepts: None }
}

pub(super) fn evaluation(accuracy: f64) -> Evaluation {
    let report = ClassificationReport { accuracy, ..ClassificationReport::default() };
    Evaluation { family: "classify".to_owned(), classification: Some(report), ..Evaluation::default() }
}

#[derive(Default)]
pub(super) struct FakePublisher {
    adapters: Mutex<HashMap<AdapterName, (Registered, Vec<AdapterFiles>)>>,
    pub(super) fails: Mutex<Option<Error>>,
    /// What was done with backbones, in order.
    pub(super) backbones: Mutex<Vec<String>>,
}

impl FakePublisher {
    /// Version → is it active.
    pub(super) fn versions(&self, name: &str) -> Vec<(u32, bool)> {
        let adapters = self.adapters.lock().unwrap();
        let Some((registered, _)) = adapters.get(&name.parse::<AdapterName>().unwrap()) else { return Vec::new() };
        registered.versions.iter().map(|(version, _)| (*version, registered.active == Some(*version))).collect()
    }
}

impl Publisher for FakePublisher {
    fn find(&self, reference: &AdapterRef) -> Result<Registered> {
        let adapters = self.adapters.lock().unwrap();
        let found = adapters.get(&reference.name).map(|(registered, _)| registered.clone());
        found.ok_or_else(|| Error::new(ErrorKind::AdapterNotFound, format!("no adapter {reference}")))
    }

    fn files(&self, reference: &AdapterRef) -> Result<AdapterFiles> {
        let version = reference.version.or(self.find(reference)?.active).unwrap();
        Ok(self.adapters.lock().unwrap()[&reference.name].1[version as usize - 1].clone())
    }

    fn publish(&self, name: &AdapterName, files: AdapterFiles, activate: bool) -> Result<PublishedVersion> {
        if let Some(error) = self.fails.lock().unwrap().clone() {
            return Err(error);
        }
        let mut adapters = self.adapters.lock().unwrap();
        let (registered, all) = adapters.entry(name.clone()).or_insert_with(|| {
            let family = (name.as_str() != "ner-primary").then_some(Family::Classify);
            (Registered { name: name.clone(), family, active: None, versions: Vec::new() }, Vec::new())
        });
        let (version, digest) = (registered.versions.len() as u32 + 1, files.digest());
        registered.versions.push((version, digest.clone()));
        registered.active = if activate { Some(version) } else { registered.active };
        all.push(files);
        Ok(PublishedVersion { name: name.clone(), version, digest, active: activate })
    }

    fn activate(&self, name: &AdapterName, version: u32) -> Result<()> {
        self.adapters.lock().unwrap().get_mut(name).unwrap().0.active = Some(version);
        Ok(())
    }

    fn has_backbone(&self, name: &str) -> Result<bool> {
        Ok(name == "taken")
    }

    fn is_active_backbone(&self, name: &str) -> Result<bool> {
        Ok(name == "default")
    }

    fn load_backbone(&self, name: &str) -> Result<()> {
        self.backbones.lock().unwrap().push(format!("load {name}"));
        Ok(())
    }

    fn activate_backbone(&self, name: &str) -> Result<()> {
        self.backbones.lock().unwrap().push(format!("activate {name}"));
        Ok(())
    }
}

/// `bank:train`, `bank:dev`, `people:train`, `same:train` and whatever a test adds.
pub(super) struct FakeData(pub(super) HashMap<String, (DatasetFamily, Split)>);

impl FakeData {
    pub(super) fn new() -> Self {
        let mut data = Self(HashMap::new());
        data.add("bank:train", DatasetFamily::Classify, &["a", "b", "c"], 30);
        data.add("bank:dev", DatasetFamily::Classify, &["a", "b"], 4);
        data.add("people:train", DatasetFamily::Ner, &["B-PER", "O"], 30);
        data.add("same:train", DatasetFamily::Pairs, &["yes"], 30);
        data
    }

    /// `rows` rows, whose labels (or tags) go round.
    pub(super) fn add(&mut self, name: &str, family: DatasetFamily, labels: &[&str], rows: usize) {
        let row = |row: usize| {
            let label = labels[row % labels.len()].to_owned();
            match family {
                DatasetFamily::Ner => Example::Ner { words: vec!["w".to_owned()], tags: vec![label] },
                DatasetFamily::Classify => {
                    Example::Classify { text: "t".to_owned(), text_pair: None, labels: vec![label] }
                }
                DatasetFamily::Pairs => {
                    Example::Pair { a: "a".to_owned(), b: "b".to_owned(), label: Some(label), score: None }
                }
            }
        };
        let split = Split { examples: (0..rows).map(row).collect(), multi_label: false };
        self.0.insert(name.to_owned(), (family, split));
    }
}

impl DataSource for FakeData {
    fn read(&self, reference: &DataRef, _: &Cancel) -> Result<(DatasetFamily, Split)> {
        self.0.get(&reference.to_string()).cloned().ok_or_else(|| Error::not_found(format!("no split {reference}")))
    }
}

pub(super) fn parts(state_dir: &Path, trainer: Arc<FakeTrainer>, publisher: Arc<FakePublisher>) -> Parts {
    let (data, metrics) = (Arc::new(FakeData::new()), Arc::new(Metrics::new(10)));
    Parts { trainer, publisher, data, metrics, state_dir: state_dir.to_owned(), queue_max: 3 }
}

/// A job on `bank`, with `changes` laid over it.
pub(super) fn spec(changes: serde_json::Value) -> JobSpec {
    let mut job = serde_json::json!({
        "kind": "fine_tune", "adapter": "bank", "family": "classify",
        "data": { "train": "bank:train", "validation": "bank:dev" },
    });
    job.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    parse_spec(job).unwrap()
}

pub(super) fn fine_tune(changes: serde_json::Value) -> FineTuneSpec {
    let JobSpec::FineTune(spec) = spec(changes) else { panic!("a fine-tuning job") };
    spec
}

/// A pre-finetuning job on `people` and `bank`, with `changes` laid over it.
pub(super) fn pre_finetune(changes: serde_json::Value) -> PreFinetuneSpec {
    let mut job = serde_json::json!({
        "kind": "pre_finetune",
        "ner": { "datasets": [{ "name": "people" }] },
        "classify": { "datasets": [{ "name": "bank" }, { "name": "same", "weight": 2 }] },
        "outputs": { "backbone": "made", "ner_primary": "ner-primary", "classify_primary": "classify-primary" },
    });
    job.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let JobSpec::PreFinetune(spec) = parse_spec(job).unwrap() else { panic!("a pre-finetuning job") };
    spec
}

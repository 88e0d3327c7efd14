//! Jobs over the real trainer, registry and datasets, on the tiny BERT of the fixtures: upload, train, publish, answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use serde_json::{Value, json};
use tempfile::TempDir;

use trunkline::adapter::AdapterStore;
use trunkline::backbone::{BackboneCache, derive};
use trunkline::domain::{AdapterRef, BackboneIdentity, Digest, ErrorKind, JobId, JobState, Result};
use trunkline::engine::ResidentBackbone;
use trunkline::model::Encoder;
use trunkline::serving::jobs::{JobView, Jobs, JobsConfig, parse_spec};
use trunkline::serving::{
    Backbone, BackboneSource, Backbones, DatasetFamily, DatasetService, FoundBackbone, Registry, RegistryConfig,
    WriteWeights,
};
use trunkline::telemetry::Metrics;
use trunkline::text::Tokenizer;

/// Only a test that would hang waits that long.
const PATIENCE: Duration = Duration::from_secs(300);

/// Backbones that jobs leave in a folder.
struct Kept(PathBuf);

impl BackboneSource for Kept {
    fn find(&self, name: &str) -> Result<FoundBackbone> {
        let folder = self.0.join(name);
        let info = BackboneCache::new(self.0.clone()).verify(&folder.to_string_lossy())?;
        Ok(FoundBackbone {
            identity: BackboneIdentity { name: name.to_owned(), fingerprint: info.fingerprint },
            folder,
        })
    }

    fn load(&self, found: &FoundBackbone) -> Result<Backbone> {
        let encoder = Arc::new(Encoder::load(&found.folder, &Device::Cpu)?);
        let resident = ResidentBackbone::admit(found.identity.clone(), encoder)?;
        let tokenizer = Arc::new(Tokenizer::load(&found.folder)?);
        Ok(Backbone { resident, tokenizer, folder: found.folder.clone(), embedded_tokens_max: None })
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn keep(&self, name: &str, parent: &Path, provenance: &Value, write: WriteWeights<'_>) -> Result<FoundBackbone> {
        let info = derive(parent, &self.0.join(name), provenance, write)?;
        Ok(FoundBackbone {
            identity: BackboneIdentity { name: info.name, fingerprint: info.fingerprint },
            folder: info.folder,
        })
    }
}

/// A server's inside, without its wires.
struct House {
    folder: TempDir,
    registry: Arc<Registry>,
    datasets: Arc<DatasetService>,
    jobs: Jobs,
}

impl House {
    async fn new() -> Self {
        Self::open(TempDir::new().unwrap()).await
    }

    async fn open(folder: TempDir) -> Self {
        let backbone = Path::new("tests/fixtures/architectures/bert");
        let encoder = Arc::new(Encoder::load(backbone, &Device::Cpu).unwrap());
        let tokenizer = Arc::new(Tokenizer::load(backbone).unwrap());
        let metrics = Arc::new(Metrics::new(16));
        let identity = BackboneIdentity { name: "tiny".to_owned(), fingerprint: Digest::from_sha256(&[7; 32]) };
        let resident = ResidentBackbone::admit(identity, encoder).unwrap();
        let backbone = Backbone { resident, tokenizer, folder: backbone.to_owned(), embedded_tokens_max: None };
        let source = Arc::new(Kept(folder.path().join("backbones")));
        let backbones = Backbones::start(backbone, Some(source), None, metrics.clone());
        let store = AdapterStore::open(&folder.path().join("adapters")).unwrap();
        let config = RegistryConfig { adapter_memory: 1 << 30 };
        let registry = Registry::open(store, backbones, metrics.clone(), config).await.unwrap();
        let datasets = Arc::new(DatasetService::open(folder.path().join("datasets")).unwrap());
        let config = JobsConfig { state_dir: folder.path().to_owned(), threads: 2, queue_max: 4 };
        let jobs = Jobs::start(registry.clone(), datasets.clone(), metrics, config).await.unwrap();
        Self { folder, registry, datasets, jobs }
    }

    /// Stops as a server does, and starts again over the same folders.
    async fn restart(self) -> Self {
        let Self { folder, registry, datasets, jobs } = self;
        jobs.shut_down().await;
        drop((registry, datasets, jobs));
        Self::open(folder).await
    }

    /// Sentences that one word decides: `train` has 60, `dev` 20.
    fn upload_moods(&self) {
        let row = |at: usize| {
            let (word, label) = [("good", "glad"), ("cold", "sad"), ("slow", "cross")][at % 3];
            json!({"text": format!("the food number {at} was {word}"), "label": label}).to_string()
        };
        let rows = |range: std::ops::Range<usize>| range.map(row).collect::<Vec<_>>().join("\n");
        for (split, range) in [("train", 0..60), ("dev", 60..80)] {
            self.datasets.put("moods", DatasetFamily::Classify, split, rows(range).as_bytes()).unwrap();
        }
    }

    fn upload_people(&self) {
        let row = |at: usize| {
            let name = ["Anna", "Bob", "Carol"][at % 3];
            json!({"tokens": ["meet", name, "on", "day", at.to_string()], "tags": ["O", "B-PER", "O", "O", "O"]})
                .to_string()
        };
        let rows: Vec<_> = (0..40).map(row).collect();
        self.datasets.put("people", DatasetFamily::Ner, "train", rows.join("\n").as_bytes()).unwrap();
    }

    async fn submit(&self, changes: Value) -> JobId {
        self.jobs.submit(parse_spec(moods(changes)).unwrap()).await.unwrap().id
    }

    async fn reaches(&self, id: &JobId, wanted: JobState) -> JobView {
        let arrival = async {
            let mut seen = 0;
            loop {
                let job = self.jobs.get(id).await.unwrap();
                if job.status == wanted {
                    return job;
                }
                assert!(!job.status.is_final(), "{wanted} was wanted, it is {}: {:?}", job.status, job.error);
                self.jobs.wait_for_events(id, seen).await.unwrap();
                seen = self.jobs.events(id, seen, usize::MAX).await.unwrap().last().map_or(seen, |event| event.id);
            }
        };
        tokio::time::timeout(PATIENCE, arrival).await.expect("the job moves")
    }
}

fn moods(changes: Value) -> Value {
    let mut job = json!({
        "kind": "fine_tune", "adapter": "moods", "family": "classify",
        "data": {"train": "moods:train", "validation": "moods:dev", "test": "moods:dev"},
        "hyperparameters": {"epochs": 3, "batch_size": 8, "layers": "last:1", "rank": 2, "alpha": 4, "max_length": 32},
    });
    job.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uploaded_dataset_becomes_an_adapter_that_answers() {
    let house = House::new().await;
    house.upload_moods();
    let id = house.submit(json!({"gate": {"metric": "accuracy", "min": 0.0, "not_worse_than_active": true}})).await;
    let job = house.reaches(&id, JobState::Succeeded).await;
    let published = job.result.unwrap();
    assert_eq!((published.name.as_str(), published.version, published.active), ("moods", 1, true));
    let lease = house.registry.lease(&"moods".parse::<AdapterRef>().unwrap()).await.unwrap();
    assert_eq!(lease.adapter.identity.digest, published.digest);
    assert_eq!(lease.adapter.card.labels.len(), 3);
    let report = house.jobs.report(&id).await.unwrap();
    for split in ["validation", "test"] {
        assert!(report[split]["classification"]["accuracy"].is_number(), "{report}");
    }
    assert_eq!(report["gate"]["met"], true);
    assert!(report["rows_per_second"].as_f64().unwrap() > 0.0, "{report}");
    assert!(job.metrics.iter().any(|(name, _)| name == "validation_accuracy"), "{:?}", job.metrics);

    let again = house.submit(json!({"init_from": "moods@1", "gate": {"metric": "accuracy", "min": 1.0}})).await;
    let job = loop {
        let last = house.jobs.events(&again, 0, usize::MAX).await.unwrap().last().unwrap().id;
        let job = house.jobs.get(&again).await.unwrap();
        if job.status.is_final() {
            break job;
        }
        house.jobs.wait_for_events(&again, last).await.unwrap();
    };
    let versions = house.registry.get(&"moods".parse().unwrap()).unwrap().versions.len();
    assert_eq!(versions, if job.status == JobState::Succeeded { 2 } else { 1 }, "{:?}", job.error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_staged_ner_adapter_waits_for_its_activation() {
    let house = House::new().await;
    house.upload_people();
    let data = json!({"train": "people:train"});
    let id = house.submit(json!({"adapter": "people", "family": "ner", "data": data, "publish": "stage"})).await;
    let published = house.reaches(&id, JobState::Succeeded).await.result.unwrap();
    assert!(!published.active);
    assert_eq!(house.registry.get(&published.name).unwrap().active_version, None);
    house.registry.activate(&published.name, 1).await.unwrap();
    let report = house.jobs.report(&id).await.unwrap();
    assert!(report["validation"]["ner"]["micro"]["f1"].is_number(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_paused_and_one_cut_by_a_restart_end_in_the_same_adapter() {
    let house = House::new().await;
    house.upload_moods();
    let undisturbed = house.submit(json!({"adapter": "one"})).await;
    let digest = house.reaches(&undisturbed, JobState::Succeeded).await.result.unwrap().digest;

    let id = house.submit(json!({"adapter": "two"})).await;
    house.reaches(&id, JobState::Running).await;
    // It may have come to its end meanwhile: then there is nothing to disturb, and the digest still tells.
    if house.jobs.pause(&id).await.is_ok() {
        let job = loop {
            // before the state: what happens between the two must not be waited for again
            let last = house.jobs.events(&id, 0, usize::MAX).await.unwrap().last().unwrap().id;
            let job = house.jobs.get(&id).await.unwrap();
            if job.status == JobState::Paused || job.status.is_final() {
                break job;
            }
            house.jobs.wait_for_events(&id, last).await.unwrap();
        };
        if job.status == JobState::Paused {
            house.jobs.resume(&id).await.unwrap();
        }
    }
    let house = house.restart().await;
    let result = house.reaches(&id, JobState::Succeeded).await.result.unwrap();
    assert_eq!(result.digest, digest);
    assert_eq!(house.registry.get(&"two".parse().unwrap()).unwrap().versions.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_its_data_is_refused_with_everything_that_is_wrong() {
    let house = House::new().await;
    let changes = json!({"init_from": "nobody", "hyperparameters": {"layers": "last:99"}});
    let error = house.jobs.submit(parse_spec(moods(changes)).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unprocessable);
    let fields: Vec<_> = error.problems().iter().map(|problem| problem.split(':').next().unwrap()).collect();
    let wanted = ["data.train", "data.validation", "data.test", "init_from", "hyperparameters.layers"];
    assert_eq!(fields, wanted, "{error}");
    assert!(house.jobs.list(None, 10).await.unwrap().0.is_empty());
}

fn pre_finetune(changes: Value) -> Value {
    let mut job = json!({
        "kind": "pre_finetune", "publish": "activate",
        "ner": {"datasets": [{"name": "people"}]}, "classify": {"datasets": [{"name": "moods"}]},
        "hyperparameters": {"steps": 12, "batch_size": 8, "layers": "last:1", "rank": 2, "max_length": 24, "measure_every": 4},
        "outputs": {"backbone": "made", "ner_primary": "ner-primary", "classify_primary": "classify-primary"},
    });
    job.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pre_finetuned_backbone_is_activated_with_its_primaries_and_trained_on_from_them() {
    let house = House::new().await;
    house.upload_moods();
    house.upload_people();
    let id = house.jobs.submit(parse_spec(pre_finetune(json!({}))).unwrap()).await.unwrap().id;
    let job = house.reaches(&id, JobState::Succeeded).await;
    assert_eq!(
        job.result.map(|result| (result.name.to_string(), result.active)),
        Some(("ner-primary".to_owned(), true))
    );
    let active = house.registry.backbones().active();
    let report = house.jobs.report(&id).await.unwrap();
    assert_eq!((active.identity().name.as_str(), report["backbone"]["name"].as_str()), ("made", Some("made")));
    assert_eq!(report["backbone"]["fingerprint"], active.fingerprint().as_str());
    let series = report["pre_finetune"]["series"].as_array().unwrap();
    assert!(series.iter().all(|point| point["cosine"].as_array().unwrap().len() == 3), "{series:?}");
    for name in ["ner-primary", "classify-primary"] {
        let lease = house.registry.lease(&name.parse::<AdapterRef>().unwrap()).await.unwrap();
        assert_eq!(lease.adapter.card.backbone_fingerprint, *active.fingerprint(), "{name}");
    }
    let events = house.jobs.events(&id, 0, usize::MAX).await.unwrap();
    let measured = events.iter().filter(|event| event.data.get("cosine").is_some()).count();
    assert_eq!(measured, series.len());

    // the next adapter starts from what the primary learnt
    let downstream = house.submit(json!({"init_from": "classify-primary"})).await;
    house.reaches(&downstream, JobState::Succeeded).await;
    let lease = house.registry.lease(&"moods".parse::<AdapterRef>().unwrap()).await.unwrap();
    assert_eq!(lease.adapter.card.backbone_fingerprint, *active.fingerprint());

    let taken = house.jobs.submit(parse_spec(pre_finetune(json!({}))).unwrap()).await.unwrap_err();
    assert!(taken.problems()[0].starts_with("outputs.backbone: a backbone \"made\" is there already"), "{taken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pre_finetuning_run_cut_by_a_restart_ends_in_the_same_backbone() {
    let spec = |name: &str| {
        let outputs = json!({"backbone": name, "ner_primary": "n", "classify_primary": "c"});
        parse_spec(pre_finetune(json!({"publish": "never", "outputs": outputs}))).unwrap()
    };
    let house = House::new().await;
    house.upload_moods();
    house.upload_people();
    let undisturbed = house.jobs.submit(spec("calm")).await.unwrap().id;
    house.reaches(&undisturbed, JobState::Succeeded).await;
    let cut = house.jobs.submit(spec("storm")).await.unwrap().id;
    house.reaches(&cut, JobState::Running).await;
    let house = house.restart().await;
    house.reaches(&cut, JobState::Succeeded).await;
    let fingerprint = async |id| house.jobs.report(id).await.unwrap()["backbone"]["fingerprint"].clone();
    assert_eq!(fingerprint(&undisturbed).await, fingerprint(&cut).await);
}

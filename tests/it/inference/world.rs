//! What these tests stand on: one tiny encoder, adapters of every kind, and a running service.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use trunkline::adapter::{AdapterBundle, AdapterCard, AdapterFiles, AdapterStore, LoraConfig, TargetModules};
use trunkline::domain::{
    AdapterIdentity, BackboneIdentity, Digest, Family, HeadForm, LabelSet, ProblemType, TextInput,
};
use trunkline::engine::{Engine, EngineConfig, ResidentAdapter, ResidentBackbone, Through};
use trunkline::model::Encoder;
use trunkline::serving::{
    Answer, BackboneJournal, Backbones, Caller, Inference, InferenceConfig, InferenceRequest, Predictions, Registry,
    RegistryConfig, Task,
};
use trunkline::telemetry::Metrics;
use trunkline::text::Tokenizer;

use super::shelf::{self, Shelf};

pub(crate) const TEXTS: [&str; 6] = [
    "Meet Anna in Krakow",
    "the service was slow and the food was cold",
    "Transfer 50 dollars to Bob on Friday",
    "ok",
    "",
    "Alice, Bob and Carol went from Paris to London by train last week",
];

pub(crate) fn folder() -> &'static Path {
    Path::new("tests/fixtures/architectures/bert")
}

pub(crate) fn encoder() -> Arc<Encoder> {
    static ENCODER: OnceLock<Arc<Encoder>> = OnceLock::new();
    ENCODER.get_or_init(|| Arc::new(Encoder::load(folder(), &Device::Cpu).unwrap())).clone()
}

pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER.get_or_init(|| Arc::new(Tokenizer::load(folder()).unwrap())).clone()
}

pub(crate) fn fingerprint() -> Digest {
    Digest::from_sha256(&[7; 32])
}

/// The tiny encoder as what adapters are made resident on.
pub(crate) fn base() -> Arc<ResidentBackbone> {
    static BASE: OnceLock<Arc<ResidentBackbone>> = OnceLock::new();
    BASE.get_or_init(|| base_of(encoder())).clone()
}

pub(crate) fn base_of(encoder: Arc<Encoder>) -> Arc<ResidentBackbone> {
    let identity = BackboneIdentity { name: "tiny".to_owned(), fingerprint: fingerprint() };
    ResidentBackbone::admit(identity, encoder).unwrap()
}

/// None: through no adapter.
pub(crate) fn through(adapter: Option<Arc<ResidentAdapter>>) -> Through {
    adapter.map_or_else(|| Through::Base(base()), Through::Adapter)
}

/// An adapter to make: every weight drawn from `seed`, nothing zero.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) family: Family,
    pub(crate) rank: usize,
    /// None: all layers.
    pub(crate) layer: Option<usize>,
    pub(crate) labels: usize,
    pub(crate) problem: ProblemType,
    pub(crate) seed: u64,
}

impl Kind {
    pub(crate) fn ner(seed: u64) -> Self {
        let problem = ProblemType::SingleLabel;
        Self { family: Family::Ner, rank: 4, layer: Some(2), labels: 5, problem, seed }
    }

    pub(crate) fn classify(seed: u64) -> Self {
        Self { family: Family::Classify, labels: 3, layer: Some(1), ..Self::ner(seed) }
    }

    pub(crate) fn bundle(self) -> AdapterBundle {
        self.bundle_with(|rng| rng.random_range(-0.4..0.4))
    }

    pub(crate) fn bundle_with(self, weight: impl FnMut(&mut ChaCha8Rng) -> f32) -> AdapterBundle {
        self.bundle_for(&encoder(), weight)
    }

    pub(crate) fn bundle_for(self, encoder: &Encoder, mut weight: impl FnMut(&mut ChaCha8Rng) -> f32) -> AdapterBundle {
        let config = LoraConfig {
            rank: self.rank,
            alpha: 8.0,
            target_modules: TargetModules::Suffixes(["query", "value", "dense"].map(str::to_owned).to_vec()),
            layers_to_transform: self.layer.map(|layer| vec![layer]),
            ..LoraConfig::default()
        };
        let card = AdapterCard {
            family: self.family,
            head: HeadForm::Labels,
            labels: self.label_names(),
            problem_type: self.problem,
            backbone_fingerprint: fingerprint(),
            max_length: 32,
            pooling: "cls".to_owned(),
            thresholds: BTreeMap::new(),
            training: None,
        };
        let fresh = AdapterBundle::fresh(config, card, encoder, self.seed).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut draw = |tensor: &Tensor| {
            let values: Vec<f32> = (0..tensor.elem_count()).map(|_| weight(&mut rng)).collect();
            Tensor::from_vec(values, tensor.dims(), tensor.device()).unwrap()
        };
        let tensors: HashMap<String, Tensor> =
            fresh.trainable().into_iter().map(|(name, tensor)| (name, draw(&tensor))).collect();
        fresh.with_tensors(encoder, &tensors).unwrap()
    }

    fn label_names(self) -> Vec<String> {
        let tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"];
        match self.family {
            Family::Ner => tags.into_iter().cycle().take(self.labels).enumerate().map(numbered).collect(),
            Family::Classify => (0..self.labels).map(|at| format!("class-{at}")).collect(),
        }
    }

    pub(crate) fn files(self) -> AdapterFiles {
        self.bundle().to_files(&encoder()).unwrap()
    }

    /// Made for a backbone of the shelf.
    pub(crate) fn files_for(self, backbone: &str) -> AdapterFiles {
        let backbone = shelf::open(backbone);
        let encoder = backbone.resident.encoder();
        let mut bundle = self.bundle_for(encoder, |rng| rng.random_range(-0.4..0.4));
        bundle.card.backbone_fingerprint = backbone.fingerprint().clone();
        bundle.to_files(encoder).unwrap()
    }

    pub(crate) fn resident(self, name: &str) -> Arc<ResidentAdapter> {
        resident(name, self.bundle())
    }
}

/// An adapter whose head compares with names.
pub(crate) fn primary(head: HeadForm) -> AdapterBundle {
    let of_labels = Kind::ner(3).bundle();
    let card = AdapterCard {
        family: head.family().unwrap(),
        head,
        labels: Vec::new(),
        pooling: "mean".to_owned(),
        ..of_labels.card
    };
    AdapterBundle::fresh(of_labels.config, card, &encoder(), 3).unwrap()
}

/// The same, with every weight of LoRA and head drawn from `seed`.
pub(crate) fn drawn_primary(head: HeadForm, seed: u64) -> AdapterBundle {
    let fresh = primary(head);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |(name, tensor): (String, Tensor)| {
        let values: Vec<f32> = (0..tensor.elem_count()).map(|_| rng.random_range(-0.4..0.4)).collect();
        (name, Tensor::from_vec(values, tensor.dims(), tensor.device()).unwrap())
    };
    let tensors = fresh.trainable().into_iter().map(&mut draw).collect();
    fresh.with_tensors(&encoder(), &tensors).unwrap()
}

/// Tags beyond the first five get types of their own.
fn numbered((at, tag): (usize, &str)) -> String {
    if at < 5 { tag.to_owned() } else { format!("B-T{at}") }
}

pub(crate) fn resident(name: &str, bundle: AdapterBundle) -> Arc<ResidentAdapter> {
    assert_eq!(LabelSet::new(bundle.card.labels.clone()).unwrap(), bundle.labels);
    let identity =
        AdapterIdentity { name: name.parse().unwrap(), version: 1, digest: fingerprint(), family: bundle.family() };
    Arc::new(ResidentAdapter::new(identity, bundle, &base()).unwrap())
}

/// What differs between the tests' services.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) threads: usize,
    pub(crate) batch_tokens_max: usize,
    pub(crate) queue_tokens_max: usize,
    pub(crate) adapter_memory: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threads: 2, batch_tokens_max: 256, queue_tokens_max: 4096, adapter_memory: 1 << 30 }
    }
}

/// A running service over a store of its own.
pub(crate) struct World {
    folder: TempDir,
    pub(crate) engine: Engine,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) inference: Inference,
}

impl World {
    /// With these adapters published, in order; two of a name are two versions.
    pub(crate) async fn new(settings: Settings, adapters: &[(&str, Kind)]) -> Self {
        let folder = TempDir::new().unwrap();
        let world = Self::open(folder, settings).await;
        for &(name, kind) in adapters {
            world.registry().publish(&name.parse().unwrap(), kind.files(), true).await.unwrap();
        }
        world
    }

    /// A new service over the same store.
    pub(crate) async fn reopen(self, settings: Settings) -> Self {
        let Self { folder, .. } = self;
        Self::open(folder, settings).await
    }

    async fn open(folder: TempDir, settings: Settings) -> Self {
        let engine = Engine::start(&EngineConfig { threads: settings.threads, prefix_cache_bytes: 0 }).unwrap();
        let metrics = Arc::new(Metrics::new(16));
        let store = AdapterStore::open(folder.path()).unwrap();
        let journal = BackboneJournal::open(folder.path().join("state/backbones.json"));
        let active = shelf::open(journal.active().unwrap_or("tiny"));
        let backbones = Backbones::start(active, Some(Arc::new(Shelf)), Some(journal), metrics.clone());
        let config = RegistryConfig { adapter_memory: settings.adapter_memory };
        let registry = Registry::open(store, backbones, metrics.clone(), config).await.unwrap();
        let config = InferenceConfig {
            batch_tokens_max: settings.batch_tokens_max,
            queue_tokens_max: settings.queue_tokens_max,
            request_timeout: Duration::from_secs(30),
            tokenizer_threads: 2,
        };
        let inference = Inference::start(registry, engine.clone(), metrics.clone(), config);
        Self { folder, engine, metrics, inference }
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        self.inference.registry()
    }

    /// Lets everything else run until `condition` holds.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Metrics) -> bool) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !condition(&self.metrics) {
            assert!(Instant::now() < patience, "{what} never came");
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) fn request(adapter: &str, task: Task, texts: &[&str]) -> InferenceRequest {
    InferenceRequest {
        task,
        adapter: Some(adapter.parse().unwrap()),
        inputs: texts.iter().map(|&text| TextInput::Text(text.to_owned())).collect(),
        deadline: None,
        caller: Caller::single(),
    }
}

pub(crate) fn ner(adapter: &str, texts: &[&str]) -> InferenceRequest {
    request(adapter, Task::Ner(Default::default()), texts)
}

pub(crate) fn classify(adapter: &str, texts: &[&str]) -> InferenceRequest {
    request(adapter, Task::Classify(Default::default()), texts)
}

/// Labels and places equal, scores within `tolerance`.
#[track_caller]
pub(crate) fn assert_same(a: &Answer, b: &Answer, tolerance: f32) {
    assert_eq!(a.adapter, b.adapter);
    let close = |x: f32, y: f32| assert!((x - y).abs() <= tolerance, "{x} is not {y}");
    match (&a.predictions, &b.predictions) {
        (Predictions::Ner(a), Predictions::Ner(b)) => {
            assert_eq!(a.len(), b.len());
            for (a, b) in a.iter().zip(b).flat_map(|(a, b)| {
                assert_eq!(a.entities.len(), b.entities.len());
                a.entities.iter().zip(&b.entities)
            }) {
                assert_eq!((&a.label, &a.range), (&b.label, &b.range));
                close(a.score, b.score);
            }
        }
        (Predictions::Classify(a), Predictions::Classify(b)) => {
            assert_eq!(a.len(), b.len());
            for (a, b) in a.iter().zip(b).flat_map(|(a, b)| a.labels.iter().zip(&b.labels)) {
                assert_eq!(a.label, b.label);
                close(a.score, b.score);
            }
        }
        _ => panic!("answers of different families"),
    }
}

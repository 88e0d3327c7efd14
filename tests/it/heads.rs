//! Updates of linears outside the layers (PEFT's `all-linear`, a bare `dense`) answer as the whole weights that they stand for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tempfile::TempDir;
use trunkline::adapter::{AdapterBundle, AdapterFiles};
use trunkline::domain::{AdapterIdentity, BackboneIdentity, Digest, Error, Family};
use trunkline::engine::{Batch, BatchSequence, Engine, EngineConfig, Output, ResidentBackbone, Work};
use trunkline::model::Encoder;

const HIDDEN: usize = 32;
const RANK: usize = 2;
const ALPHA: usize = 4;
const LABELS: [&str; 2] = ["no", "yes"];

fn fingerprint() -> Digest {
    Digest::from_sha256(&[7; 32])
}

/// Tensors by name, drawn from a seed of their own so that two adapters can share them.
#[derive(Clone, Default)]
struct Tensors(BTreeMap<String, Tensor>);

impl Tensors {
    fn draw(mut self, name: &str, shape: &[usize]) -> Self {
        let seed = name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-0.5..0.5)).collect();
        self.0.insert(name.to_owned(), Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap());
        self
    }

    /// Both halves of an update of `module`, (out, in).
    fn update(self, module: &str, (outputs, inputs): (usize, usize)) -> Self {
        let a = format!("{module}.lora_A.weight");
        self.draw(&a, &[RANK, inputs]).draw(&format!("{module}.lora_B.weight"), &[outputs, RANK])
    }

    /// `whole` with the update of `module` added, in place of both.
    fn merged(mut self, module: &str, whole: &Tensor) -> Self {
        let mut half = |which: &str| self.0.remove(&format!("{module}.lora_{which}.weight")).unwrap();
        let (a, b) = (half("A"), half("B"));
        let sum = (whole + (b.matmul(&a).unwrap() * (ALPHA as f64 / RANK as f64)).unwrap()).unwrap();
        self.0.insert(format!("{module}.weight"), sum);
        self
    }

    fn file(&self, prefix: &str) -> Vec<u8> {
        let named = self.0.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        candle_core::safetensors::save(&named.collect(), &path).unwrap();
        fs::read(path).unwrap()
    }

    fn adapter(&self, targets: &serde_json::Value, saved: &[&str], family: Family) -> AdapterFiles {
        let task_type = if family == Family::Ner { "TOKEN_CLS" } else { "SEQ_CLS" };
        let config = json!({
            "peft_type": "LORA", "task_type": task_type, "r": RANK, "lora_alpha": ALPHA, "target_modules": targets,
            "modules_to_save": saved,
        });
        let (config, weights) = (config.to_string().into_bytes(), self.file("base_model.model."));
        let files = AdapterFiles { config, weights, card: None, concepts: None };
        files.with_card(Some(LABELS.map(str::to_owned).to_vec()), None, &fingerprint(), 64).unwrap()
    }
}

/// One of the tiny encoders with `more` in its file, in a folder of its own.
fn backbone(architecture: &str, more: &Tensors) -> (TempDir, Arc<Encoder>) {
    let from = Path::new("tests/fixtures/architectures").join(architecture);
    let folder = tempfile::tempdir().unwrap();
    fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let mut tensors = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    tensors.extend(more.0.clone());
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    let encoder = Arc::new(Encoder::load(folder.path(), &Device::Cpu).unwrap());
    (folder, encoder)
}

/// Logits of one text.
async fn logits(encoder: &Arc<Encoder>, files: &AdapterFiles) -> Vec<f32> {
    let identity = BackboneIdentity { name: "tiny".to_owned(), fingerprint: fingerprint() };
    let base = ResidentBackbone::admit(identity, encoder.clone()).unwrap();
    let bundle = AdapterBundle::read(files, encoder, &fingerprint()).unwrap_or_else(|e| panic!("{e}"));
    let family = bundle.family();
    let identity = AdapterIdentity { name: "a".parse().unwrap(), version: 1, digest: fingerprint(), family };
    let work = Work::Head(base.admit_adapter(identity, bundle).unwrap());
    let engine = Engine::start(&EngineConfig { threads: 1, prefix_cache_bytes: 0 }).unwrap();
    let ids: Arc<[u32]> = [5, 17, 200, 33, 4].into();
    let sequence = BatchSequence { type_ids: vec![0; ids.len()].into(), ids, work };
    match engine.run(Batch { sequences: vec![sequence] }).await.unwrap().outputs.remove(0).unwrap() {
        Output::Logits(matrix) => matrix.data().to_vec(),
        Output::Embedding(_) => panic!("an embedding"),
    }
}

fn assert_close(got: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let apart = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-5, "{what}: {apart} apart");
}

/// Names of a query and of the head's linears, the last of them the classifier, with what PEFT saves by default.
const ARCHITECTURES: [(&str, Family, &str, &[&str]); 7] = [
    ("bert", Family::Classify, "bert.encoder.layer.0.attention.self.query", &["bert.pooler.dense", "classifier"]),
    (
        "roberta",
        Family::Classify,
        "roberta.encoder.layer.0.attention.self.query",
        &["classifier.dense", "classifier.out_proj"],
    ),
    (
        "electra",
        Family::Classify,
        "electra.encoder.layer.0.attention.self.query",
        &["classifier.dense", "classifier.out_proj"],
    ),
    (
        "distilbert",
        Family::Classify,
        "distilbert.transformer.layer.0.attention.q_lin",
        &["pre_classifier", "classifier"],
    ),
    ("modernbert", Family::Classify, "model.layers.0.attn.Wqkv", &["head.dense", "classifier"]),
    ("modernbert", Family::Ner, "model.layers.0.attn.Wqkv", &["head.dense", "classifier"]),
    ("roberta", Family::Ner, "roberta.encoder.layer.0.attention.self.query", &["classifier"]),
];

fn outputs(module: &str) -> usize {
    if module == "classifier" || module.ends_with("out_proj") { LABELS.len() } else { HIDDEN }
}

/// The file's part for one linear; ModernBERT's have no bias, and a norm instead.
fn whole(tensors: Tensors, architecture: &str, module: &str) -> Tensors {
    let outputs = outputs(module);
    let tensors = tensors.draw(&format!("{module}.weight"), &[outputs, HIDDEN]);
    match (architecture, module) {
        ("modernbert", "head.dense") => tensors.draw("head.norm.weight", &[HIDDEN]),
        _ => tensors.draw(&format!("{module}.bias"), &[outputs]),
    }
}

#[tokio::test]
async fn an_update_of_any_linear_of_a_head_answers_as_the_whole_weight() {
    for (architecture, family, query, linears) in ARCHITECTURES {
        // BERT's file has its own pooler.
        let in_file = linears.iter().filter(|linear| !linear.starts_with("bert."));
        let more = in_file.fold(Tensors::default(), |tensors, linear| whole(tensors, architecture, linear));
        let (_folder, encoder) = backbone(architecture, &more);
        let query_shape = (if architecture == "modernbert" { 3 * HIDDEN } else { HIDDEN }, HIDDEN);
        for updated in linears {
            let what = format!("{architecture} {family} {updated}");
            let others = linears.iter().filter(|linear| *linear != updated && !linear.starts_with("bert."));
            let rest = others.fold(Tensors::default().update(query, query_shape), |tensors, linear| {
                whole(tensors, architecture, linear)
            });
            let update = rest.clone().update(updated, (outputs(updated), HIDDEN));
            let own = encoder.head_tensor(&format!("{updated}.weight")).unwrap();
            let mut merged = update.clone().merged(updated, &own);
            for part in ["bias", "norm"] {
                let name = if part == "norm" { "head.norm.weight".to_owned() } else { format!("{updated}.{part}") };
                merged.0.extend(encoder.head_tensor(&name).map(|tensor| (name, tensor)));
            }
            let short = updated.trim_start_matches("bert.");
            let saved = ["classifier", short.split('.').next().unwrap()];
            let merged = merged.adapter(&json!([query]), &saved, family);
            let wanted = logits(&encoder, &merged).await;
            let files = update.adapter(&json!([query, short]), &[], family);
            assert_close(&logits(&encoder, &files).await, &wanted, &what);
            // What we write of it reads the same.
            let bundle = AdapterBundle::read(&files, &encoder, &fingerprint()).unwrap();
            let written = bundle.to_files(&encoder).unwrap();
            assert_close(&logits(&encoder, &written).await, &wanted, &format!("{what}, written"));
        }
    }
}

#[tokio::test]
async fn an_update_inside_a_saved_head_adds_to_the_saved_weight() {
    let (_folder, encoder) = backbone("roberta", &Tensors::default());
    let query = "roberta.encoder.layer.0.attention.self.query";
    let rest = Tensors::default().update(query, (HIDDEN, HIDDEN));
    let rest = whole(whole(rest, "roberta", "classifier.out_proj"), "roberta", "classifier.dense");
    let dense = rest.0["classifier.dense.weight"].clone();
    let merged = rest.clone().update("classifier.dense", (HIDDEN, HIDDEN)).merged("classifier.dense", &dense);
    let wanted = logits(&encoder, &merged.adapter(&json!([query]), &["classifier"], Family::Classify)).await;
    // As PEFT names it: the copy is wrapped, and what was there before it is kept beside it.
    let mut wrapped = rest.update("classifier.dense", (HIDDEN, HIDDEN));
    let base = wrapped.0.remove("classifier.dense.weight").unwrap();
    wrapped.0.insert("classifier.dense.base_layer.weight".to_owned(), base);
    let wrapped = wrapped.draw("classifier.original_module.dense.base_layer.weight", &[HIDDEN, HIDDEN]);
    let files = wrapped.adapter(&json!([query, "classifier.dense"]), &["classifier"], Family::Classify);
    assert_close(&logits(&encoder, &files).await, &wanted, "classifier.dense");
}

#[tokio::test]
async fn what_a_backbones_file_has_before_the_classifier_an_adapter_may_leave_out() {
    let query = "distilbert.transformer.layer.0.attention.q_lin";
    let kept = Tensors::default().update(query, (HIDDEN, HIDDEN));
    let kept = whole(kept, "distilbert", "classifier");
    let pre = whole(Tensors::default(), "distilbert", "pre_classifier");
    let (_folder, encoder) = backbone("distilbert", &pre);
    let without = kept.adapter(&json!([query]), &["classifier", "score"], Family::Classify);
    let both = whole(kept, "distilbert", "pre_classifier");
    let both = both.adapter(&json!([query]), &["classifier", "pre_classifier"], Family::Classify);
    assert_close(&logits(&encoder, &without).await, &logits(&encoder, &both).await, "pre_classifier");
    // Of a file that has none it is missing, by name.
    let (_folder, bare) = backbone("distilbert", &Tensors::default());
    let error = AdapterBundle::read(&without, &bare, &fingerprint()).unwrap_err();
    assert!(problems(&error).contains("pre_classifier.weight"), "{error}");
}

#[tokio::test]
async fn an_update_of_electras_projection_answers_as_the_whole_weight() {
    let projection = "electra.embeddings_project";
    let (_folder, encoder) = backbone("electra", &Tensors::default());
    let (outputs, inputs) = encoder.projection_shape().unwrap();
    let head = whole(whole(Tensors::default(), "electra", "classifier.dense"), "electra", "classifier.out_proj");
    let query = "electra.encoder.layer.1.attention.self.query";
    let rest = head.update(query, (HIDDEN, HIDDEN));
    let update = rest.clone().update(projection, (outputs, inputs));
    let files = update.adapter(&json!([query, "embeddings_project"]), &["classifier"], Family::Classify);
    let from = Path::new("tests/fixtures/architectures/electra/model.safetensors");
    let own = candle_core::safetensors::load(from, &Device::Cpu).unwrap()["embeddings_project.weight"].clone();
    let merged = update.merged(projection, &own).0.remove(&format!("{projection}.weight")).unwrap();
    let changed = Tensors([("embeddings_project.weight".to_owned(), merged)].into());
    let (_folder, changed) = backbone("electra", &changed);
    let plain = rest.adapter(&json!([query]), &["classifier"], Family::Classify);
    let wanted = logits(&changed, &plain).await;
    assert_close(&logits(&encoder, &files).await, &wanted, "embeddings_project");
    let other = logits(&encoder, &plain).await;
    assert!(other.iter().zip(&wanted).any(|(a, b)| (a - b).abs() > 1e-3), "the update changes something");
    let written = AdapterBundle::read(&files, &encoder, &fingerprint()).unwrap().to_files(&encoder).unwrap();
    assert_close(&logits(&encoder, &written).await, &wanted, "embeddings_project, written");
}

#[test]
fn an_update_of_what_nobody_has_is_refused_by_name() {
    let (_folder, encoder) = backbone("roberta", &Tensors::default());
    let query = "roberta.encoder.layer.0.attention.self.query";
    let tensors = Tensors::default().update(query, (HIDDEN, HIDDEN));
    let tensors = whole(tensors, "roberta", "classifier.out_proj").update("classifier.dense", (HIDDEN, HIDDEN));
    let files = tensors.adapter(&json!([query, "classifier.dense"]), &[], Family::Classify);
    let error = AdapterBundle::read(&files, &encoder, &fingerprint()).unwrap_err();
    assert!(problems(&error).contains("neither the adapter nor the backbone's file has"), "{error}");
}

fn problems(error: &Error) -> String {
    error.problems().join("\n")
}

//! Adapters written by PEFT give PEFT's logits, and ours read back.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use trunkline::adapter::{AdapterBundle, AdapterFiles, read_archive, write_tar};
use trunkline::domain::{Digest, Family};
use trunkline::model::{Encoder, Head, HeadKind, Mode, Packed, SegmentAdapters};

use crate::support::plain_backbone;

const TOLERANCE: f32 = 1e-4;
const ADAPTERS: [&str; 4] = ["ner-r8-qv", "ner-r16-all-last2", "cls-r8-qv", "cls-r4-rslora"];

static ENCODER: LazyLock<Encoder> =
    LazyLock::new(|| Encoder::load(plain_backbone(), &Device::Cpu).expect("the default backbone loads"));

#[derive(Deserialize)]
struct Golden {
    labels: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    input_ids: Vec<u32>,
    /// One row a token, or one in all.
    logits: Vec<Vec<f32>>,
}

fn fingerprint() -> Digest {
    Digest::from_sha256(&[7; 32])
}

fn read(name: &str) -> (AdapterFiles, Golden) {
    let folder = Path::new("tests/fixtures/peft").join(name);
    let file = |file: &str| fs::read(folder.join(file)).expect("a golden file");
    let golden: Golden = serde_json::from_slice(&file("expected.json")).expect("the golden file's shape");
    let files = AdapterFiles {
        config: file("adapter_config.json"),
        weights: file("adapter_model.safetensors"),
        card: None,
        concepts: None,
    };
    let max_length = ENCODER.config().max_length;
    let files = files.with_card(Some(golden.labels.clone()), None, &fingerprint(), max_length).expect("a card");
    (files, golden)
}

fn load(files: &AdapterFiles) -> AdapterBundle {
    AdapterBundle::read(files, &ENCODER, &fingerprint()).unwrap_or_else(|e| panic!("{e}"))
}

/// One text for one adapter; None runs the base model.
struct Item<'a> {
    adapter: Option<&'a AdapterBundle>,
    row: &'a Row,
}

/// Runs all items as one packed batch, and each one's head on its own tokens.
fn run(items: &[Item<'_>]) -> Vec<Option<Vec<Vec<f32>>>> {
    let type_ids: Vec<Vec<u32>> = items.iter().map(|item| vec![0; item.row.input_ids.len()]).collect();
    let packed = Packed::new(items.iter().zip(&type_ids).map(|(item, types)| (&item.row.input_ids[..], &types[..])));
    let tokens = |i: usize| packed.bounds[i]..packed.bounds[i + 1];
    let adapters = items.iter().enumerate().filter_map(|(i, item)| Some((i, item.adapter?)));
    let segments = SegmentAdapters(adapters.map(|(i, adapter)| (tokens(i), &adapter.lora)).collect());
    let hidden = ENCODER.embed(&packed).expect("embeddings");
    let layers = 0..ENCODER.config().layers;
    let hidden = ENCODER.forward(&hidden, &packed.bounds, &segments, layers, Mode::Eval).expect("a forward pass");
    let logits = |(i, item): (usize, &Item<'_>)| item.adapter.map(|adapter| head(adapter, &hidden, tokens(i)));
    items.iter().enumerate().map(logits).collect()
}

fn head(adapter: &AdapterBundle, hidden: &Tensor, tokens: std::ops::Range<usize>) -> Vec<Vec<f32>> {
    let own = hidden.narrow(0, tokens.start, tokens.len()).expect("the segment");
    let logits = adapter.head.forward(&own, &[0, tokens.len()], Mode::Eval).expect("logits");
    logits.to_vec2().expect("a matrix of f32")
}

fn assert_logits(got: &[Vec<f32>], row: &Row, what: &str) {
    assert_eq!(got.len(), row.logits.len(), "{what}: rows");
    for (got, wanted) in got.iter().flatten().zip(row.logits.iter().flatten()) {
        assert!((got - wanted).abs() <= TOLERANCE, "{what}: {:?}: got {got}, wanted {wanted}", row.text);
    }
}

#[test]
fn each_adapter_alone_gives_pefts_logits() {
    for name in ADAPTERS {
        let (files, golden) = read(name);
        let adapter = load(&files);
        assert_eq!(adapter.head.labels(), golden.labels.len());
        for row in &golden.rows {
            let got = run(&[Item { adapter: Some(&adapter), row }]);
            assert_logits(got[0].as_ref().expect("logits"), row, name);
        }
    }
}

#[test]
fn adapters_of_both_families_share_one_batch_with_the_base_model() {
    let read: Vec<(&str, AdapterBundle, Golden)> = ADAPTERS
        .map(|name| {
            let (files, golden) = read(name);
            (name, load(&files), golden)
        })
        .into();
    // text after text, each through every adapter and then through none
    let mut items = Vec::new();
    let mut names = Vec::new();
    for i in 0..read[0].2.rows.len() {
        for (name, adapter, golden) in &read {
            items.push(Item { adapter: Some(adapter), row: &golden.rows[i] });
            names.push(*name);
        }
        items.push(Item { adapter: None, row: &read[0].2.rows[i] });
        names.push("base");
    }
    for ((item, name), got) in items.iter().zip(&names).zip(run(&items)) {
        if let Some(got) = got {
            assert_logits(&got, item.row, &format!("{name}, in a mixed batch"));
        }
    }
}

#[test]
fn what_we_write_reads_back_the_same() {
    for name in ADAPTERS {
        let (files, golden) = read(name);
        let written = load(&files).to_files(&ENCODER).expect("files");
        let again = load(&written);
        assert_eq!(again.to_files(&ENCODER).expect("files"), written, "{name}: same weights, same bytes");
        let got = run(&[Item { adapter: Some(&again), row: &golden.rows[0] }]);
        assert_logits(got[0].as_ref().expect("logits"), &golden.rows[0], name);
    }
}

#[test]
fn a_head_without_its_tensors_is_refused_with_all_of_them_named() {
    for (kind, pooling, named) in [
        (HeadKind::Token, "cls", &["classifier.weight", "classifier.bias"][..]),
        (HeadKind::Sequence, "cls", &["classifier.weight", "classifier.bias"]), // the pooler is the backbone's
        (HeadKind::Sequence, "mean", &["classifier.weight", "classifier.bias"]),
    ] {
        let required = Head::required(kind, &ENCODER, pooling, 3);
        assert_eq!(required.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), named);
        let error = Head::from_tensors(kind, &ENCODER, pooling, 3, &Default::default()).unwrap_err();
        for name in named {
            assert!(error.problems().iter().any(|problem| problem.contains(name)), "{error}");
        }
    }
}

#[test]
fn what_peft_wrote_is_written_again_to_the_byte_also_through_an_archive() {
    for name in ADAPTERS {
        let (files, _) = read(name);
        let written = load(&files).to_files(&ENCODER).expect("files");
        assert!(written.weights == files.weights, "{name}: other bytes than PEFT's");
        let uploaded = read_archive(&write_tar(&written).expect("an archive")).expect("files").files;
        assert_eq!((uploaded.digest(), &uploaded), (written.digest(), &written), "{name}");
    }
}

#[test]
fn folders_written_by_peft_are_read_whole() {
    for (name, family, layers, updates, rank) in [
        ("ner-r8-qv", Family::Ner, &[0, 1, 2, 3, 4, 5][..], 12, 8),
        ("ner-r16-all-last2", Family::Ner, &[4, 5], 12, 16),
        ("cls-r8-qv", Family::Classify, &[0, 1, 2, 3, 4, 5], 12, 8),
        ("cls-r4-rslora", Family::Classify, &[0, 1, 2, 3, 4, 5], 24, 4),
    ] {
        let (files, golden) = read(name);
        let adapter = load(&files);
        let mut found: Vec<usize> = adapter.lora.deltas().keys().map(|site| site.layer).collect();
        assert_eq!(found.len(), updates, "{name}");
        found.dedup();
        assert_eq!((adapter.family(), &*found), (family, layers), "{name}");
        assert!(adapter.lora.deltas().values().all(|delta| delta.a.dims()[0] == rank), "{name}");
        assert_eq!(adapter.labels.as_slice(), golden.labels, "{name}");
    }
}

#[test]
fn an_adapter_of_another_encoder_is_refused_with_every_tensor_that_does_not_fit() {
    let tiny = Encoder::load(Path::new("tests/fixtures/architectures/bert"), &Device::Cpu).expect("the tiny encoder");
    let (files, _) = read("cls-r8-qv");
    let problems = AdapterBundle::read(&files, &tiny, &fingerprint()).unwrap_err().problems().join("\n");
    for expected in [
        "layer.0.attention.self.query.lora_A.weight has shape [8, 384]; [8, 32] is wanted",
        "layer.5.attention.self.value.lora_B.weight is nothing",
        "classifier.weight has shape [4, 384]; [4, 32] is wanted",
        "max_length 512 is over the backbone's",
    ] {
        assert!(problems.contains(expected), "{expected}: {problems}");
    }
}

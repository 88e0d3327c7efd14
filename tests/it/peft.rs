//! Adapters written by PEFT give PEFT's logits, and ours read back.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use trunkline::adapter::{AdapterBundle, AdapterFiles};
use trunkline::domain::Digest;
use trunkline::model::{Encoder, Head, HeadKind, Mode, Packed, SegmentAdapters};

use crate::support::default_backbone;

const TOLERANCE: f32 = 1e-4;
const ADAPTERS: [&str; 4] = ["ner-r8-qv", "ner-r16-all-last2", "cls-r8-qv", "cls-r4-rslora"];

static ENCODER: LazyLock<Encoder> =
    LazyLock::new(|| Encoder::load(default_backbone(), &Device::Cpu).expect("the default backbone loads"));

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
    let files =
        AdapterFiles { config: file("adapter_config.json"), weights: file("adapter_model.safetensors"), card: None };
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
    let logits = adapter.head.forward(&ENCODER, &own, &[0, tokens.len()], Mode::Eval).expect("logits");
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

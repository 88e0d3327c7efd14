//! Encoders equal the reference library on every architecture.

use std::fs;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use trunkline::model::kernels::packed::Kernel;
use trunkline::model::{Encoder, Mode, Packed, SegmentAdapters};

const TOLERANCE: f32 = 1e-4;
/// Of hidden states of size about 1, through products whose sides have 8 bits.
const TOLERANCE_BF16: f32 = 0.05;

#[derive(Deserialize)]
struct Expected {
    texts: Vec<String>,
    input_ids: Vec<Vec<u32>>,
    attention_mask: Vec<Vec<u32>>,
    last_hidden_state_at_unmasked: Vec<Vec<Vec<f32>>>,
}

impl Expected {
    /// The ids the model saw, without padding.
    fn ids(&self) -> Vec<Vec<u32>> {
        let kept = |(ids, mask): (&Vec<u32>, &Vec<u32>)| {
            ids.iter().zip(mask).filter(|(_, m)| **m == 1).map(|(i, _)| *i).collect()
        };
        self.input_ids.iter().zip(&self.attention_mask).map(kept).collect()
    }
}

fn check(architecture: &str) {
    let folder = PathBuf::from("tests/fixtures/architectures").join(architecture);
    let expected = fs::read(folder.join("expected.json")).expect("the golden file");
    let expected: Expected = serde_json::from_slice(&expected).expect("the golden file's shape");
    assert_eq!(expected.texts.len(), 8);
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        let encoder = Encoder::load_for(&folder, &Device::Cpu, kernel).expect("a loadable encoder");
        check_kernel(&format!("{architecture}, {}", kernel.name()), &encoder, &expected);
    }
}

fn check_kernel(what: &str, encoder: &Encoder, expected: &Expected) {
    let ids = expected.ids();
    let tolerance = if encoder.precision() == "bf16" { TOLERANCE_BF16 } else { TOLERANCE };
    let all = hidden(encoder, &ids);
    let mut start = 0;
    for (i, wanted) in expected.last_hidden_state_at_unmasked.iter().enumerate() {
        let text = &expected.texts[i];
        assert_rows(&all[start..start + wanted.len()], wanted, tolerance, &format!("{what}, packed, {text:?}"));
        assert_rows(&hidden(encoder, &ids[i..=i]), wanted, tolerance, &format!("{what}, alone, {text:?}"));
        start += wanted.len();
    }
}

/// Last hidden states of sequences packed into one batch, the layers run in two halves.
fn hidden(encoder: &Encoder, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let type_ids: Vec<Vec<u32>> = sequences.iter().map(|ids| vec![0; ids.len()]).collect();
    let packed = Packed::new(sequences.iter().zip(&type_ids).map(|(ids, types)| (&ids[..], &types[..])));
    let layers = encoder.config().layers;
    let run = |hidden: &Tensor, layers| {
        encoder
            .forward(hidden, &packed.bounds, &SegmentAdapters::default(), layers, Mode::Eval)
            .expect("a forward pass")
    };
    let lower = run(&encoder.embed(&packed).expect("embeddings"), 0..1);
    run(&lower, 1..layers).to_vec2().expect("a matrix of f32")
}

fn assert_rows(got: &[Vec<f32>], wanted: &[Vec<f32>], tolerance: f32, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (token, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((got - wanted).abs() <= tolerance, "{what}: token {token}: got {got}, wanted {wanted}");
        }
    }
}

#[test]
fn bert_equals_the_reference() {
    check("bert");
}

#[test]
fn roberta_equals_the_reference() {
    check("roberta");
}

#[test]
fn distilbert_equals_the_reference() {
    check("distilbert");
}

#[test]
fn electra_equals_the_reference() {
    check("electra");
}

#[test]
fn modernbert_equals_the_reference() {
    check("modernbert");
}

#[test]
fn an_empty_batch_has_no_hidden_states() {
    let encoder = Encoder::load(&PathBuf::from("tests/fixtures/architectures/bert"), &Device::Cpu).expect("an encoder");
    assert!(hidden(&encoder, &[]).is_empty());
}

#[test]
fn a_bad_batch_is_an_error_and_no_panic() {
    let encoder = Encoder::load(&PathBuf::from("tests/fixtures/architectures/bert"), &Device::Cpu).expect("an encoder");
    let batch = |ids: Vec<u32>, types: Vec<u32>, bounds: Vec<usize>| Packed { ids, type_ids: types, bounds };
    for (packed, named) in [
        (batch(vec![600], vec![0], vec![0, 1]), "token id 600"),
        (batch(vec![1], vec![2], vec![0, 1]), "segment id 2"),
        (batch(vec![1, 2], vec![0, 0], vec![0, 1]), "do not cut 2 tokens"),
        (batch(vec![1, 2], vec![0, 0], vec![0, 1, 1, 2]), "do not cut 2 tokens"),
        (batch(vec![1; 131], vec![0; 131], vec![0, 131]), "131 tokens is longer than the backbone's 130"),
    ] {
        let error = encoder.embed(&packed).expect_err(named);
        assert!(error.message().contains(named), "{error}");
    }
}

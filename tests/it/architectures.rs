//! Encoders equal the reference library on every architecture.

use std::fs;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use trunkline::model::kernels::packed::Kernel;
use trunkline::model::{Encoder, Mode, Packed, SegmentAdapters};
use trunkline::text::Tokenizer;

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

/// A copy of the BERT fixture with its `config.json` changed.
fn changed(change: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir("tests/fixtures/architectures/bert").unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    copy
}

#[test]
fn a_configuration_that_the_weights_do_not_bear_out_is_refused_before_they_are_read() {
    for (key, value, named) in [
        ("num_hidden_layers", 1_000_000_000_u64, "num_hidden_layers is 1000000000; at most 256"),
        ("num_hidden_layers", 200, "has no tensor"),
        ("hidden_size", 1 << 40, "hidden_size"),
        ("hidden_size", 32_768, "wanted ["),
        ("intermediate_size", 65_536, "wanted [65536"),
        ("vocab_size", 4_000_000, "wanted [4000000"),
        ("vocab_size", u64::MAX, "vocab_size"),
        ("max_position_embeddings", 131_072, "wanted [131072"),
        ("type_vocab_size", 1000, "wanted [1000"),
        ("num_attention_heads", u64::MAX, "num_attention_heads"),
    ] {
        let folder = changed(|config| config[key] = value.into());
        let error = Encoder::load(folder.path(), &Device::Cpu).err().unwrap_or_else(|| panic!("{key} = {value}"));
        assert!(error.message().contains(named), "{key} = {value}: {error}");
    }
}

#[test]
fn files_of_a_backbone_are_regular_and_bounded() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let folder = changed(|_same| ());
        let path = folder.path().join(name);
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let loaded = Encoder::load(folder.path(), &Device::Cpu).and_then(|_| Tokenizer::load(folder.path()));
        let error = loaded.expect_err(name);
        assert!(error.message().contains(name) && error.message().contains("no regular file"), "{error}");
    }
    let folder = changed(|_same| ());
    fs::File::create(folder.path().join("tokenizer.json")).unwrap().set_len(65 << 20).unwrap();
    let error = Tokenizer::load(folder.path()).unwrap_err();
    assert!(error.message().contains("68157440 bytes; at most 67108864"), "{error}");
}

#[test]
fn a_tokenizer_that_makes_what_the_network_cannot_read_is_refused() {
    for architecture in ["bert", "roberta", "distilbert", "electra", "modernbert"] {
        let folder = PathBuf::from("tests/fixtures/architectures").join(architecture);
        let encoder = Encoder::load(&folder, &Device::Cpu).expect("a loadable encoder");
        let config = encoder.config();
        let tokenizer = Tokenizer::load(&folder).expect("a loadable tokenizer");
        let fits = |vocabulary, segments, max_length| tokenizer.check_fits(vocabulary, segments, max_length);
        let (segments, max_length) = (config.type_vocab_size, config.max_length);
        fits(config.vocab_size, segments, max_length).unwrap_or_else(|error| panic!("{architecture}: {error}"));
        let error = fits(100, segments, max_length).unwrap_err();
        assert!(error.message().contains("have 100 rows"), "{architecture}: {error}");
        let wanted = tokenizer.special_tokens(true) + 2;
        assert!(fits(config.vocab_size, segments, wanted).is_ok(), "{architecture}");
        let error = fits(config.vocab_size, segments, wanted - 1).unwrap_err();
        assert!(error.message().contains("special tokens"), "{architecture}: {error}");
        if segments == 2 {
            let error = fits(config.vocab_size, 1, max_length).unwrap_err();
            assert!(error.message().contains("has 1 segments"), "{architecture}: {error}");
        }
    }
}

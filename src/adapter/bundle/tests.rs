//! On a tiny BERT of three layers: what a file may lack, hold or say wrongly, and that everything else comes back as it was written.

use std::path::Path;

use candle_core::{DType, Device, Var};

use super::*;
use crate::adapter::TargetModules;
use crate::domain::{ErrorKind, HeadForm, ProblemType};

const QUERY: &str = "bert.encoder.layer.1.attention.self.query";

fn encoder() -> Encoder {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures/bert");
    Encoder::load(&folder, &Device::Cpu).unwrap()
}

fn fingerprint() -> Digest {
    Digest::from_sha256(&[7; 32])
}

fn card(family: Family) -> AdapterCard {
    AdapterCard {
        family,
        head: HeadForm::Labels,
        labels: ["a", "b", "c"].map(str::to_owned).to_vec(),
        problem_type: ProblemType::SingleLabel,
        backbone_fingerprint: fingerprint(),
        max_length: 64,
        pooling: "cls".to_owned(),
        thresholds: BTreeMap::new(),
        training: None,
    }
}

fn config(fields: &str) -> LoraConfig {
    let json = format!(r#"{{"peft_type": "LORA", "target_modules": ["query", "output.dense"], "r": 4{fields}}}"#);
    LoraConfig::from_json(json.as_bytes()).unwrap()
}

fn fresh(fields: &str, family: Family, encoder: &Encoder) -> AdapterBundle {
    AdapterBundle::fresh(config(fields), card(family), encoder, 42).unwrap()
}

fn tensors(files: &AdapterFiles) -> NamedTensors {
    let mut problems = Problems::new();
    let tensors = weights::parse(&files.weights, &Device::Cpu, &mut problems).unwrap();
    assert_eq!(problems, Problems::new());
    tensors
}

fn edited(files: &AdapterFiles, edit: impl FnOnce(&mut NamedTensors)) -> AdapterFiles {
    let mut tensors = tensors(files);
    edit(&mut tensors);
    AdapterFiles { weights: weights::write(&tensors).unwrap(), ..files.clone() }
}

fn filled(shape: &[usize], value: f32) -> Tensor {
    Tensor::full(value, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn an_adapter_is_read_as_it_was_written() {
    let encoder = encoder();
    for (family, fields) in [
        (Family::Ner, ""),
        (Family::Classify, r#", "modules_to_save": ["pooler"]"#),
        (Family::Classify, r#", "layers_to_transform": [1, 2], "use_rslora": true"#),
        (Family::Ner, r#", "rank_pattern": {"layer.1.attention.self.query": 2}, "lora_bias": true"#),
        (Family::Ner, r#", "bias": "lora_only""#),
    ] {
        let bundle = fresh(fields, family, &encoder);
        let files = bundle.to_files(&encoder).unwrap();
        let read = AdapterBundle::read(&files, &encoder, &fingerprint()).unwrap();
        assert_eq!(read.to_files(&encoder).unwrap(), files, "{fields}");
        assert_eq!((read.family(), read.parameters), (family, bundle.parameters));
        for ((name, ours), (_, theirs)) in bundle.trainable().iter().zip(read.trainable()) {
            assert_eq!(values(ours), values(&theirs), "{name}");
        }
    }
}

fn primary(head: HeadForm, encoder: &Encoder) -> AdapterBundle {
    let family = head.family().unwrap();
    let card = AdapterCard { head, labels: Vec::new(), pooling: "mean".to_owned(), ..card(family) };
    AdapterBundle::fresh(config(""), card, encoder, 42).unwrap()
}

#[test]
fn an_adapter_that_compares_with_names_keeps_its_head_in_a_file_of_its_own() {
    let encoder = encoder();
    for (head, own) in [
        (HeadForm::Concepts, "concept.bias concept.weight log_scale offset token.bias token.weight"),
        (HeadForm::Similarity, "log_scale"),
    ] {
        let bundle = primary(head, &encoder);
        let files = bundle.to_files(&encoder).unwrap();
        // the encoder itself, as the reference library wraps it for this task
        assert_eq!(LoraConfig::from_json(&files.config).unwrap().task_type.as_deref(), Some("FEATURE_EXTRACTION"));
        assert!(tensors(&files).keys().all(|name| name.starts_with("encoder.layer.") && name.contains("lora_")));
        let concepts =
            weights::parse_concepts(files.concepts.as_ref().unwrap(), &Device::Cpu, &mut Problems::new()).unwrap();
        assert_eq!(concepts.keys().map(String::as_str).collect::<Vec<_>>().join(" "), own);
        let read = AdapterBundle::read(&files, &encoder, &fingerprint()).unwrap();
        assert_eq!(read.to_files(&encoder).unwrap(), files);
        assert_eq!((read.head.form(), read.labels.len(), read.parameters), (head, 0, bundle.parameters));
        let without = AdapterFiles { concepts: None, ..files };
        let problems = AdapterBundle::read(&without, &encoder, &fingerprint()).unwrap_err().problems().join("\n");
        assert!(problems.contains("log_scale of shape [] is missing"), "{problems}");
    }
}

#[test]
fn a_concept_head_and_a_card_with_labels_do_not_fit() {
    let encoder = encoder();
    let labelled = fresh("", Family::Ner, &encoder).to_files(&encoder).unwrap();
    let named = primary(HeadForm::Concepts, &encoder).to_files(&encoder).unwrap();
    let mixed = AdapterFiles { concepts: named.concepts.clone(), ..labelled.clone() };
    let refused = |files: &AdapterFiles| AdapterBundle::read(files, &encoder, &fingerprint()).unwrap_err();
    assert!(refused(&mixed).problems().join("\n").contains("token.weight is nothing that the card's head has"));
    let contradicting = AdapterFiles { config: labelled.config, ..named };
    assert!(refused(&contradicting).problems().join("\n").contains("contradicts task_type"));
}

#[test]
fn a_seed_gives_the_same_adapter_and_another_seed_another() {
    let encoder = encoder();
    let bytes = |seed| {
        let bundle = AdapterBundle::fresh(config(""), card(Family::Ner), &encoder, seed).unwrap();
        bundle.to_files(&encoder).unwrap().weights
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

#[test]
fn fresh_weights_are_drawn_as_the_reference_library_draws_them() {
    let encoder = encoder();
    for (name, tensor) in fresh("", Family::Classify, &encoder).trainable() {
        let values = values(&tensor);
        let largest = values.iter().fold(0f32, |max, value| max.max(value.abs()));
        if name.ends_with("lora_A.weight") {
            let bound = 1.0 / (tensor.dims()[1] as f32).sqrt();
            assert!((0.8 * bound..=bound).contains(&largest), "{name}: {largest} of {bound}");
        } else if name.ends_with("lora_B.weight") || name.ends_with("bias") {
            assert_eq!(largest, 0.0, "{name}");
        } else {
            let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
            assert!((0.015..0.025).contains(&deviation), "{name}: {deviation}");
        }
    }
}

#[test]
fn a_trained_pooler_begins_as_the_backbones_under_its_name_in_peft() {
    let encoder = encoder();
    let bundle = fresh(r#", "modules_to_save": ["pooler"]"#, Family::Classify, &encoder);
    let files = bundle.to_files(&encoder).unwrap();
    let name = "bert.pooler.dense.weight";
    assert_eq!(values(&tensors(&files)[name]), values(&encoder.backbone_tensor(name).unwrap()));
    assert!(bundle.trainable().iter().any(|(trained, _)| trained == name));
    let saved = LoraConfig::from_json(&files.config).unwrap().modules_to_save;
    assert_eq!(saved, ["classifier", "pooler", "score"]);
}

#[test]
fn an_update_of_the_pooler_is_merged_into_a_copy_of_it() {
    let encoder = encoder();
    let reaching = r#", "lora_alpha": 8, "exclude_modules": ["output.dense"]"#;
    let config = LoraConfig { target_modules: TargetModules::AllLinear, ..config(reaching) };
    let bundle = AdapterBundle::fresh(config.clone(), card(Family::Classify), &encoder, 42).unwrap();
    let name = "bert.pooler.dense";
    let mut tensors = tensors(&bundle.to_files(&encoder).unwrap());
    let base = tensors.remove(&format!("{name}.weight")).unwrap();
    tensors.remove(&format!("{name}.bias"));
    tensors.insert(lora_a(name), filled(&[4, 32], 0.5));
    tensors.insert(lora_b(name), filled(&[32, 4], 0.25));
    let files = AdapterFiles {
        config: config.to_json(),
        weights: weights::write(&tensors).unwrap(),
        card: Some(card(Family::Classify).to_json()),
        concepts: None,
    };
    let read = AdapterBundle::read(&files, &encoder, &fingerprint()).unwrap();
    let (_, merged) = read.trainable().into_iter().find(|(own, _)| *own == format!("{name}.weight")).unwrap();
    let change = values(&(merged - base).unwrap());
    assert!(change.iter().all(|value| (value - 1.0).abs() < 1e-6), "2 · 4 · 0.25 · 0.5, got {change:?}");
    let again = read.to_files(&encoder).unwrap();
    assert_eq!(AdapterBundle::read(&again, &encoder, &fingerprint()).unwrap().to_files(&encoder).unwrap(), again);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    type Edit = fn(&mut NamedTensors);
    let cases: [(&str, Edit); 11] = [
        ("base_model.model.classifier.weight is missing", |t| drop(t.remove("classifier.weight"))),
        ("base_model.model.classifier.bias is missing", |t| drop(t.remove("classifier.bias"))),
        ("self.query.lora_A.weight is missing", |t| drop(t.remove(&lora_a(QUERY)))),
        ("self.query.lora_B.weight is missing", |t| drop(t.remove(&lora_b(QUERY)))),
        ("lora_A.weight has shape [4, 31]; [4, 32] is wanted", |t| drop(t.insert(lora_a(QUERY), filled(&[4, 31], 0.)))),
        ("lora_A.weight has shape [8, 32]; [4, 32] is wanted", |t| drop(t.insert(lora_a(QUERY), filled(&[8, 32], 0.)))),
        ("classifier.weight has shape [4, 32]; [3, 32] is wanted", |t| {
            drop(t.insert("classifier.weight".to_owned(), filled(&[4, 32], 0.)));
        }),
        ("self.query.lora_B.weight: holds 128 values that are not finite", |t| {
            drop(t.insert(lora_b(QUERY), filled(&[32, 4], f32::NAN)));
        }),
        ("classifier.bias: holds 3 values that are not finite", |t| {
            drop(t.insert("classifier.bias".to_owned(), filled(&[3], f32::NEG_INFINITY)));
        }),
        ("layer.9.attention.self.query.lora_A.weight is nothing", |t| {
            drop(t.insert("bert.encoder.layer.9.attention.self.query.lora_A.weight".to_owned(), filled(&[4, 32], 0.)));
        }),
        ("bert.pooler.dense.weight is nothing", |t| {
            drop(t.insert("bert.pooler.dense.weight".to_owned(), filled(&[32, 32], 0.)));
        }),
    ];
    let encoder = encoder();
    let files = fresh("", Family::Ner, &encoder).to_files(&encoder).unwrap();
    for (expected, edit) in cases {
        let error = AdapterBundle::read(&edited(&files, edit), &encoder, &fingerprint()).expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::Unprocessable, "{error}");
        assert!(error.problems().iter().any(|problem| problem.contains(expected)), "wanted {expected:?}, got {error}");
    }
}

#[test]
fn all_that_does_not_fit_is_told_at_once() {
    let encoder = encoder();
    let files = fresh("", Family::Ner, &encoder).to_files(&encoder).unwrap();
    let broken = edited(&files, |tensors| {
        tensors.remove("classifier.weight");
        tensors.insert(lora_b(QUERY), filled(&[32, 4], f32::INFINITY));
        tensors.insert("lm_head.weight".to_owned(), filled(&[2, 2], 0.));
    });
    let long = AdapterCard { max_length: 5000, ..card(Family::Ner) };
    let error = AdapterBundle::read(&AdapterFiles { card: Some(long.to_json()), ..broken }, &encoder, &fingerprint());
    let problems = error.unwrap_err().problems().join("\n");
    for expected in ["classifier.weight", "lora_B.weight", "lm_head.weight", "max_length 5000"] {
        assert!(problems.contains(expected), "{expected}: {problems}");
    }
}

#[test]
fn an_adapter_of_another_backbone_task_or_label_set_is_refused() {
    let encoder = encoder();
    let files = fresh("", Family::Ner, &encoder).to_files(&encoder).unwrap();
    let with_card = |card: AdapterCard| AdapterFiles { card: Some(card.to_json()), ..files.clone() };
    let other = Digest::from_sha256(&[8; 32]);
    for (files, fingerprint, kind, expected) in [
        (files.clone(), other, ErrorKind::Conflict, "made for backbone sha256:0707"),
        (
            with_card(card(Family::Classify)),
            fingerprint(),
            ErrorKind::Unprocessable,
            "contradicts task_type \"TOKEN_CLS\"",
        ),
        (
            with_card(AdapterCard { labels: vec!["a".to_owned()], ..card(Family::Ner) }),
            fingerprint(),
            ErrorKind::Unprocessable,
            "[3, 32]; [1, 32] is wanted",
        ),
        (
            AdapterFiles { card: None, ..files.clone() },
            fingerprint(),
            ErrorKind::Unprocessable,
            "trunkline.json is missing",
        ),
    ] {
        let error = AdapterBundle::read(&files, &encoder, &fingerprint).expect_err(expected);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "wanted {expected:?}, got {error}");
    }
    let nowhere = LoraConfig { target_modules: TargetModules::Suffixes(vec!["q_proj".to_owned()]), ..config("") };
    let error = AdapterBundle::fresh(nowhere, card(Family::Ner), &encoder, 0).unwrap_err();
    assert!(error.to_string().contains("matches no module"), "{error}");
}

#[test]
fn biases_add_what_the_adapter_learned() {
    let encoder = encoder();
    let site = encoder.sites().into_iter().find(|&site| module_name(Architecture::Bert, site) == QUERY).unwrap();
    let bias = format!("{QUERY}.bias");
    let base = encoder.backbone_tensor(&bias).unwrap();

    let scaled = fresh(r#", "lora_bias": true, "lora_alpha": 8"#, Family::Ner, &encoder).to_files(&encoder).unwrap();
    let scaled = edited(&scaled, |tensors| drop(tensors.insert(lora_b_bias(QUERY), filled(&[32], 0.25))));
    let read = AdapterBundle::read(&scaled, &encoder, &fingerprint()).unwrap();
    assert_eq!(values(&read.lora.bias_deltas()[&site]), [0.5; 32], "alpha / rank is 2");
    assert_eq!(read.to_files(&encoder).unwrap(), scaled);

    for mode in ["lora_only", "all"] {
        let files = fresh(&format!(r#", "bias": "{mode}""#), Family::Ner, &encoder).to_files(&encoder).unwrap();
        let trained = (&base + 1.0).unwrap();
        let files = edited(&files, |tensors| drop(tensors.insert(bias.clone(), trained)));
        let read = AdapterBundle::read(&files, &encoder, &fingerprint()).unwrap();
        assert!(values(&read.lora.bias_deltas()[&site]).iter().all(|delta| (delta - 1.0).abs() < 1e-6), "{mode}");
        let again = read.to_files(&encoder).unwrap();
        let again = AdapterBundle::read(&again, &encoder, &fingerprint()).unwrap();
        assert_eq!(values(&again.lora.bias_deltas()[&site]), values(&read.lora.bias_deltas()[&site]), "{mode}");
    }
}

#[test]
fn a_norms_bias_may_be_there_but_not_changed() {
    let encoder = encoder();
    let norm = "bert.encoder.layer.0.output.LayerNorm.bias";
    let base = encoder.backbone_tensor(norm).unwrap();
    let files = fresh(r#", "bias": "all""#, Family::Ner, &encoder).to_files(&encoder).unwrap();
    let with = |tensor| edited(&files, |tensors| drop(tensors.insert(norm.to_owned(), tensor)));
    assert!(AdapterBundle::read(&with(base.clone()), &encoder, &fingerprint()).is_ok());
    let error = AdapterBundle::read(&with((base + 1.0).unwrap()), &encoder, &fingerprint()).unwrap_err();
    assert!(error.to_string().contains(norm), "{error}");
}

#[test]
fn tensors_are_replaced_by_name_and_stay_the_trainers_own() {
    let encoder = encoder();
    let bundle = fresh("", Family::Ner, &encoder);
    let variable = Var::zeros((4, 32), DType::F32, &Device::Cpu).unwrap();
    let replaced = HashMap::from([(lora_a(QUERY), variable.as_tensor().clone())]);
    let trained = bundle.with_tensors(&encoder, &replaced).unwrap();
    let names = |bundle: &AdapterBundle| bundle.trainable().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&trained), names(&bundle));
    let (_, tensor) = trained.trainable().into_iter().find(|(name, _)| *name == lora_a(QUERY)).unwrap();
    assert_eq!(tensor.id(), variable.as_tensor().id(), "gradients flow to the variable itself");
    for (name, shape) in [(lora_a(QUERY), vec![4, 31]), ("nobody.weight".to_owned(), vec![1])] {
        let error = bundle.with_tensors(&encoder, &HashMap::from([(name.clone(), filled(&shape, 0.))])).unwrap_err();
        assert!(error.message().contains(&name), "{error}");
    }
}

#[test]
fn a_folder_without_a_card_gets_one() {
    let encoder = encoder();
    let files = fresh("", Family::Ner, &encoder).to_files(&encoder).unwrap();
    let bare = AdapterFiles { card: None, ..files.clone() };
    let card =
        |labels, family| bare.clone().with_card(labels, family, &fingerprint(), 64).and_then(|files| files.read_card());
    let labels = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
    assert_eq!(card(None, None).unwrap().labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert_eq!(card(None, None).unwrap().family, Family::Ner);
    assert_eq!(card(Some(labels(&["x", "y", "z"])), Some(Family::Ner)).unwrap().labels, ["x", "y", "z"]);
    assert!(card(None, Some(Family::Classify)).unwrap_err().message().contains("task_type"));
    assert_eq!(files.clone().with_card(None, None, &fingerprint(), 8).unwrap(), files);
    let contradicted = files.clone().with_card(Some(labels(&["x"])), None, &fingerprint(), 8);
    assert!(contradicted.unwrap_err().message().contains("trunkline.json says"));
    assert!(files.with_card(None, Some(Family::Classify), &fingerprint(), 8).is_err());
}

#[test]
fn the_digest_covers_names_lengths_and_contents() {
    let files = |config: &str, weights: &str, card: Option<&str>| {
        let card = card.map(|card| card.as_bytes().to_vec());
        AdapterFiles { config: config.into(), weights: weights.into(), card, concepts: None }.digest()
    };
    // sha256sum of the file's definition, computed by another implementation
    let known = "sha256:db25d2d9376b228a79fa4140f1742427422f6768918507f12a75b29a6d32d910";
    assert_eq!(files("{}", "w", Some("c")).as_str(), known);
    let all = [
        files("{}", "w", Some("c")),
        files("{}", "w", None),
        files("{}", "w", Some("")),
        files("{}w", "", Some("c")),
        files("", "{}w", Some("c")),
        files("{}", "wc", Some("")),
    ];
    for (i, a) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|b| a != b), "{i}");
    }
}

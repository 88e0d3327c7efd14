//! What a job's spec is refused for, each problem with its field.

use serde_json::{Value, json};

use super::fakes::{FakeData, FakePublisher, adapter, fine_tune};
use crate::domain::{Cancel, ErrorKind, Result};
use crate::serving::jobs::check::{JobData, check};
use crate::serving::jobs::ports::{Limits, Publisher};
use crate::training::dataset::DatasetFamily::{Classify, Ner, Pairs};

fn checked(changes: Value) -> Result<JobData> {
    let mut data = FakeData::new();
    data.add("bank:one", Classify, &["a"], 30);
    data.add("bank:more", Classify, &["a", "z"], 30);
    data.add("bank:few", Classify, &["a", "b"], 3);
    data.add("bank:eight", Classify, &["a", "b"], 8);
    data.add("bank:none", Classify, &["a"], 0);
    data.add("people:train", Ner, &["B-PER", "I-PER", "O"], 30);
    data.add("people:dev", Ner, &["B-LOC"], 5);
    data.add("people:outside", Ner, &["O"], 30);
    data.add("same:train", Pairs, &["a", "b"], 30);
    let publisher = FakePublisher::default();
    publisher.publish(&"seed".parse().unwrap(), adapter(0.5), true).unwrap();
    publisher.publish(&"staged".parse().unwrap(), adapter(0.5), false).unwrap();
    check(&fine_tune(changes), &data, &publisher, Limits { layers: 6, max_length: 512 }, &Cancel::default())
}

fn problems(changes: Value) -> Vec<String> {
    let Err(error) = checked(changes) else { return Vec::new() };
    assert_eq!(error.kind(), ErrorKind::Unprocessable, "{error}");
    error.problems().to_vec()
}

#[test]
fn a_sound_job_passes() {
    for changes in [
        json!({}),
        json!({"init_from": "seed"}),
        json!({"init_from": "seed@1", "adapter": "seed"}),
        json!({"data": {"train": "bank:train"}}),
        json!({"family": "ner", "data": {"train": "people:train"}, "gate": {"metric": "f1", "min": 0.5}}),
        json!({"hyperparameters": {"layers": [0, 5], "rank": 256, "max_length": 512, "dropout": 0, "early_stopping_patience": 0}}),
        json!({"gate": {"metric": "f1", "min": 1, "not_worse_than_active": true}}),
        json!({"gate": {"metric": "f1", "min": 0.5, "confidence": 0.9, "on": "validation"}}),
    ] {
        assert_eq!(problems(changes.clone()), [""; 0], "{changes}");
    }
}

#[test]
fn each_problem_names_its_field() {
    let data = |train: &str, validation: &str| json!({"data": {"train": train, "validation": validation}});
    let numbers = |name: &str, value: Value| json!({"hyperparameters": {name: value}});
    for (changes, problem) in [
        (data("gone:train", "bank:dev"), "data.train: no split gone:train"),
        (data("bank:train", "bank:gone"), "data.validation: no split bank:gone"),
        (data("people:train", "bank:dev"), "data.train: dataset people is of family ner; classify is wanted"),
        (data("same:train", "bank:dev"), "data.train: dataset same is of family pairs; classify is wanted"),
        (data("bank:one", "bank:one"), "data.train: 1 label; at least two are wanted"),
        (data("bank:few", "bank:dev"), "data.train: 3 rows; at least 4 are wanted"),
        (json!({"data": {"train": "bank:eight"}}), "data.train: 8 rows; at least 10 are wanted"),
        (data("bank:train", "bank:more"), "data.validation: 1 labels that data.train has not: z"),
        (data("bank:train", "bank:none"), "data.validation: no rows"),
        (json!({"init_from": "gone"}), "init_from: no adapter gone"),
        (json!({"init_from": "seed@7"}), "init_from: seed has no version 7"),
        (json!({"init_from": "staged"}), "init_from: staged has no active version"),
        (numbers("epochs", json!(0)), "hyperparameters.epochs: 0 is not 1 to 1000"),
        (numbers("batch_size", json!(2000)), "hyperparameters.batch_size: 2000 is not 1 to 1024"),
        (numbers("learning_rate", json!(0)), "hyperparameters.learning_rate: 0 is not above 0 and at most 1"),
        (numbers("rank", json!(257)), "hyperparameters.rank: 257 is not 1 to 256"),
        (numbers("alpha", json!(-1)), "hyperparameters.alpha: -1 is not above 0"),
        (numbers("dropout", json!(1)), "hyperparameters.dropout: 1 is not from 0 to below 1"),
        (numbers("max_length", json!(513)), "hyperparameters.max_length: 513 is not 8 to 512"),
        (numbers("warmup_ratio", json!(1.5)), "hyperparameters.warmup_ratio: 1.5 is not 0 to 1"),
        (numbers("target_modules", json!([])), "hyperparameters.target_modules: an empty list"),
        (numbers("layers", json!("last:7")), "hyperparameters.layers: last:7 does not fit"),
        (numbers("layers", json!([6])), "hyperparameters.layers: [6] does not fit"),
        (numbers("layers", json!([1, 1])), "hyperparameters.layers: [1,1] does not fit"),
        (json!({"gate": {"metric": "precision"}}), "gate.metric: precision is no metric of classify"),
        (json!({"gate": {"metric": "f1", "min": 80}}), "gate.min: 80 is not 0 to 1"),
        (json!({"gate": {"metric": "f1", "confidence": 90}}), "gate.confidence: 90 is not 0.5 to 0.999"),
        (
            json!({"data": {"train": "bank:train", "test": null}, "gate": {"metric": "f1", "on": "test"}}),
            "gate.on: \"test\" is asked for, and data.test is missing",
        ),
        (
            json!({"data": {"train": "bank:train"}, "gate": {"metric": "f1", "not_worse_than_active": true}}),
            "gate.not_worse_than_active: both versions are measured on data.test or data.validation",
        ),
    ] {
        let found = problems(changes.clone());
        assert_eq!(found.len(), 1, "{changes}: {found:?}");
        assert!(found[0].starts_with(problem), "{changes}: {found:?}");
    }
}

#[test]
fn entity_types_are_compared_not_tags() {
    let ner = |train: &str, validation: &str| {
        problems(json!({"family": "ner", "data": {"train": train, "validation": validation}}))
    };
    assert_eq!(ner("people:train", "people:train"), [""; 0]);
    assert_eq!(ner("people:train", "people:dev"), ["data.validation: 1 labels that data.train has not: LOC"]);
    let found = ner("people:outside", "people:train");
    assert_eq!(found[0], "data.train: no row has an entity");
}

#[test]
fn all_problems_come_at_once() {
    let found = problems(json!({
        "adapter": "seed", "family": "ner", "init_from": "gone", "data": {"train": "gone:train", "test": "bank:dev"},
        "hyperparameters": {"rank": 0, "epochs": 0}, "gate": {"metric": "accuracy", "min": -1},
    }));
    assert_eq!(found.len(), 8, "{found:#?}");
}

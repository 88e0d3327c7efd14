//! Inputs of public reports that went wrong elsewhere, each with what is wanted of it: `tests/fixtures/cases`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Classify, Ner, examine};

/// Whether `wanted` is a part of `got`: every named key of an object, a list part by part. `$nonempty` and `$contains` are rules.
fn is_part(wanted: &Value, got: &Value) -> bool {
    match wanted {
        Value::Object(fields) if fields.contains_key("$nonempty") => {
            got.as_array().is_some_and(|list| !list.is_empty()) || got.as_object().is_some_and(|map| !map.is_empty())
        }
        Value::Object(fields) if fields.contains_key("$contains") => {
            let text = fields["$contains"].as_str().expect("a text");
            got.as_str().is_some_and(|got| got.contains(text))
        }
        Value::Object(fields) => fields.iter().all(|(key, value)| got.get(key).is_some_and(|got| is_part(value, got))),
        Value::Array(list) => got.as_array().is_some_and(|got| {
            got.len() == list.len() && list.iter().zip(got).all(|(wanted, got)| is_part(wanted, got))
        }),
        wanted => wanted == got,
    }
}

#[test]
fn reported_inputs_are_read_as_they_were_meant() {
    let root = Path::new("tests/fixtures/cases");
    for (case, file, family) in [
        ("D03", "train.tsv", Ner),
        ("D04", "export.json", Ner),
        ("D06", "export.json", Ner),
        ("D08", "export.json", Ner),
        ("D09", "export_min.json", Ner),
        ("D16", "prodigy.jsonl", Classify),
        ("D23", "train.csv", Classify),
        ("D39", "mixed.json", Ner),
        ("D41", "train.tsv", Classify),
        ("D48", "export.json", Ner),
    ] {
        let (report, _) = examine(family, &fs::read(root.join(case).join(file)).expect("the input"));
        let got = serde_json::to_value(&report).expect("a report");
        let wanted = fs::read(root.join(case).join("expected.json")).expect("what is wanted");
        let wanted: Value = serde_json::from_slice(&wanted).expect("JSON");
        let any_of = wanted["any_of"].as_array().expect("alternatives");
        assert!(any_of.iter().any(|wanted| is_part(wanted, &got)), "{case} ({}): {got:#}", wanted["why"]);
    }
}

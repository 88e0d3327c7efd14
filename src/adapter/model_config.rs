//! What a model's `config.json` says of its head. It lies beside an adapter by custom, not by PEFT's rules: what it does not say, or says
//! in another way than the reference library does, is a warning and no failure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::adapter::files::MODEL_CONFIG_NAME;
use crate::disk::without_mark;
use crate::domain::{Family, LabelSet, ProblemType};

/// `config.json` in bytes: one of a few thousand labels has some hundred kilobytes.
const MODEL_CONFIG_BYTES_MAX: usize = 4 << 20;

/// What nobody said is None.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ModelConfig {
    /// In the order of the head's rows; None for the reference library's own `LABEL_0…`.
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) problem_type: Option<ProblemType>,
    pub(crate) family: Option<Family>,
}

impl ModelConfig {
    pub(crate) fn read(json: &[u8], warnings: &mut Vec<String>) -> Self {
        let mut warn = |what: String| warnings.push(format!("{MODEL_CONFIG_NAME} {what}"));
        if json.len() > MODEL_CONFIG_BYTES_MAX {
            warn(format!("has {} bytes, and is not read: at most {MODEL_CONFIG_BYTES_MAX} are", json.len()));
            return Self::default();
        }
        let value: Value = match serde_json::from_slice(without_mark(json)) {
            Ok(value) => value,
            Err(error) => {
                warn(format!("cannot be read: {error}"));
                return Self::default();
            }
        };
        let labels = labels(&value["id2label"]).unwrap_or_else(|why| {
            warn(format!("has an id2label that is not used: {why}"));
            None
        });
        let problem_type = problem_type(&value["problem_type"]).unwrap_or_else(|what| {
            warn(format!("says problem_type {what}: scores are given as of one label among several; function_to_apply \"none\" gives the numbers themselves"));
            None
        });
        Self { labels, problem_type, family: family(&value["architectures"]) }
    }
}

/// `{"0": "neg", "1": "pos"}`, in order. None where there is none, or none but the reference library's numbers.
fn labels(value: &Value) -> Result<Option<Vec<String>>, String> {
    let Some(map) = value.as_object() else {
        return if value.is_null() { Ok(None) } else { Err("it is no object".to_owned()) };
    };
    let mut rows = BTreeMap::new();
    for (row, label) in map {
        let row: usize = row.parse().map_err(|_| format!("{row:?} is no row's number"))?;
        let label = label.as_str().map_or_else(|| label.to_string(), str::to_owned);
        rows.insert(row, label);
    }
    if rows.keys().enumerate().any(|(at, &row)| at != row) {
        return Err("its numbers do not count up from 0".to_owned());
    }
    if rows.iter().all(|(row, label)| *label == format!("LABEL_{row}")) {
        return Ok(None);
    }
    let labels: Vec<String> = rows.into_values().collect();
    LabelSet::new(labels.clone()).map_err(|error| error.message().to_owned())?;
    Ok(Some(labels))
}

fn problem_type(value: &Value) -> Result<Option<ProblemType>, String> {
    match value.as_str() {
        None => Ok(None),
        Some("single_label_classification") => Ok(Some(ProblemType::SingleLabel)),
        Some("multi_label_classification") => Ok(Some(ProblemType::MultiLabel)),
        Some(other) => Err(format!("{other:?}")),
    }
}

/// By the reference library's class: `BertForTokenClassification`.
fn family(architectures: &Value) -> Option<Family> {
    let class = architectures.get(0)?.as_str()?;
    if class.ends_with("ForTokenClassification") {
        Some(Family::Ner)
    } else if class.ends_with("ForSequenceClassification") {
        Some(Family::Classify)
    } else {
        None
    }
}

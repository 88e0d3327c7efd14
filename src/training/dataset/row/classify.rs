//! Texts with a label or a list of labels.

use std::collections::HashSet;

use serde_json::Value;

use super::Rows;
use super::fields::{Fault, Fields, find, label, missing, optional_text, text, wrong};
use crate::training::dataset::Example;
use crate::training::dataset::limits::LABELS_MAX;

pub(in crate::training::dataset) const TEXT: &[&str] = &["text", "sentence", "content", "utterance", "sentence1"];
pub(super) const TEXT_PAIR: &[&str] = &["text_pair", "sentence2"];
/// `accept`: Prodigy's choices.
const LABELS: &[&str] = &["labels", "accept"];
const LABEL: &[&str] = &["label", "intent", "category", "class"];
/// Either of the two, for whoever looks at a header.
pub(in crate::training::dataset) const ANY_LABEL: &[&str] =
    &["label", "labels", "intent", "category", "class", "accept"];

pub(super) fn read(fields: &Fields, rows: &mut Rows) -> Result<Example, Fault> {
    let labels = match find(fields, LABELS) {
        Some((name, Value::Array(labels))) => {
            rows.multi_label = true;
            label_set(name, labels)?
        }
        Some((name, value)) => vec![label(name, value)?],
        None => vec![one_label(fields)?],
    };
    // Tables have a blank cell where there is no second text.
    let text_pair = optional_text(fields, TEXT_PAIR)?.filter(|text| !text.trim().is_empty()).map(str::to_owned);
    Ok(Example::Classify { text: text(fields, TEXT)?.to_owned(), text_pair, labels })
}

fn one_label(fields: &Fields) -> Result<String, Fault> {
    match find(fields, LABEL) {
        Some((name, Value::Array(list))) => {
            Err(wrong(name, &Value::Array(list.clone()), "one label (or \"labels\" for a list of them)"))
        }
        Some((name, value)) => label(name, value),
        None => Err(missing(ANY_LABEL)),
    }
}

/// Each once, in the row's order.
pub(super) fn label_set(name: &str, values: &[Value]) -> Result<Vec<String>, Fault> {
    if values.len() > LABELS_MAX {
        let message = format!("field {name:?} has {} labels; at most {LABELS_MAX} are allowed", values.len());
        return Err(Fault::too_large(message));
    }
    let mut labels: Vec<String> = values.iter().map(|value| label(name, value)).collect::<Result<_, _>>()?;
    let mut seen = HashSet::new();
    labels.retain(|label| seen.insert(label.clone()));
    Ok(labels)
}

//! Texts with a label or a list of labels.

use std::collections::HashSet;

use serde_json::Value;

use super::fields::{Fault, Fields, find, missing_from, optional_text, text, wrong};
use super::label_kind::Given;
use super::{Named, Rows};
use crate::training::dataset::Example;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::LABELS_MAX;
use crate::training::dataset::place::Place;

pub(in crate::training::dataset) const TEXT: &[&str] = &["text", "sentence", "content", "utterance", "sentence1"];
pub(in crate::training::dataset) const TEXT_PAIR: &[&str] = &["text_pair", "sentence2"];
/// `accept`: Prodigy's choices; `cats`: spaCy's scores.
const LABELS: &[&str] = &["labels", "accept", "cats"];
const LABEL: &[&str] = &["label", "intent", "category", "class"];
/// Either of the two, for whoever looks at a header.
pub(in crate::training::dataset) const ANY_LABEL: &[&str] =
    &["label", "labels", "intent", "category", "class", "accept"];

/// spaCy's score from which a class is meant.
const CAT_SCORE_MIN: f64 = 0.5;

/// None: the row has no label, and `rows` knows it.
pub(super) fn read(fields: &Fields, place: &Place, rows: &mut Rows) -> Result<Option<Example>, Fault> {
    warn_of_choice(fields, place, rows);
    let text = text(fields, &rows.options.text_names(TEXT))?.to_owned();
    // Tables have a blank cell where there is no second text.
    let text_pair = optional_text(fields, TEXT_PAIR)?.filter(|text| !text.trim().is_empty()).map(str::to_owned);
    let (name, value, given) = label_field(fields, rows)?;
    let values = match &value {
        Value::Array(values) => values.clone(),
        Value::Object(fields) => chosen(&name, fields)?,
        Value::String(text) if rows.options.multi_label == Some(true) => parted(text),
        value => vec![value.clone()],
    };
    let labels = label_set(&name, &values, given, place, rows)?;
    Ok(labels.map(|labels| Example::Classify { text, text_pair, labels }))
}

/// Says so where a row has more than one field that could be its text or its label.
fn warn_of_choice(fields: &Fields, place: &Place, rows: &mut Rows) {
    let there = |names: &[&'static str]| -> Vec<&'static str> {
        names.iter().copied().filter(|name| fields.get(*name).is_some_and(|value| !value.is_null())).collect()
    };
    let texts = if rows.options.text_column.is_some() { Vec::new() } else { there(&TEXT[..TEXT.len() - 1]) };
    let labels = if rows.options.label_column.is_some() { Vec::new() } else { there(&[LABELS, LABEL].concat()) };
    for (names, option) in [(texts, "text_column"), (labels, "label_column")] {
        if let [read, others @ ..] = names.as_slice()
            && !others.is_empty()
        {
            let message = format!("{read:?} was read, not {}; {option} names another", others.join(", "));
            rows.findings.warn(Code::ColumnChoice, place, message);
        }
    }
}

/// The field with the row's labels, and how it gives them.
fn label_field(fields: &Fields, rows: &Rows) -> Result<(String, Value, Given), Fault> {
    let is_list = |value: &Value| value.is_array() || value.is_object();
    if let Some(asked) = rows.options.label_column.as_deref() {
        let (name, value) = find(fields, &[asked]).ok_or_else(|| missing_from(fields, &[asked]))?;
        let given = if is_list(value) { Given::List } else { Given::One };
        return Ok((name.to_owned(), value.clone(), given));
    }
    if let Some((name, value)) = find(fields, LABELS) {
        let given = if is_list(value) { list_kind(fields) } else { Given::One };
        return Ok((name.to_owned(), value.clone(), given));
    }
    match find(fields, LABEL) {
        Some((name, value @ Value::Array(_))) if rows.options.multi_label.is_none() => Err(wrong(
            name,
            value,
            "one label (or \"labels\" for a list of them, or multi_label=true|false for this one)",
        )),
        Some((name, value)) if is_list(value) => Ok((name.to_owned(), value.clone(), Given::List)),
        Some((name, value)) => Ok((name.to_owned(), value.clone(), Given::One)),
        None => Err(missing_from(fields, ANY_LABEL)),
    }
}

/// Prodigy says in each row whether one choice was allowed or several.
fn list_kind(fields: &Fields) -> Given {
    let config = fields.get("config").and_then(Value::as_object);
    match config.and_then(|config| config.get("choice_style")).and_then(Value::as_str) {
        Some("single") => Given::Exclusive,
        Some("multiple") => Given::Several,
        _ => Given::List,
    }
}

/// Label Studio's `{"choices": […]}`, or spaCy's `{"A": 1.0, "B": 0.0}`.
fn chosen(name: &str, fields: &Fields) -> Result<Vec<Value>, Fault> {
    if let Some(Value::Array(choices)) = fields.get("choices") {
        return Ok(choices.clone());
    }
    let score = |value: &Value| value.as_f64().or_else(|| value.as_bool().map(f64::from));
    let mut labels = Vec::new();
    for (label, value) in fields {
        match score(value) {
            Some(score) if score >= CAT_SCORE_MIN => labels.push(Value::String(label.clone())),
            Some(_) => {}
            None => {
                let value = Value::Object(fields.clone());
                return Err(wrong(name, &value, "a label, a list of labels or an object of scores"));
            }
        }
    }
    Ok(labels)
}

/// Labels in one cell, which the caller says are several.
fn parted(text: &str) -> Vec<Value> {
    let separator = ['|', ';', ','].into_iter().find(|sign| text.contains(*sign));
    let parts = |sign: char| text.split(sign).map(str::trim).filter(|part| !part.is_empty()).map(Value::from).collect();
    separator.map_or_else(|| if text.trim().is_empty() { Vec::new() } else { vec![Value::from(text)] }, parts)
}

/// Each once, in the row's order. None: the row is unlabelled, and is left out.
pub(super) fn label_set(
    name: &str,
    values: &[Value],
    given: Given,
    place: &Place,
    rows: &mut Rows,
) -> Result<Option<Vec<String>>, Fault> {
    if values.len() > LABELS_MAX {
        let message = format!("field {name:?} has {} labels; at most {LABELS_MAX} are allowed", values.len());
        return Err(Fault::too_large(message));
    }
    let ids = one_hot(name, values, rows)?;
    let mut labels = Vec::with_capacity(values.len());
    for value in ids.as_deref().unwrap_or(values) {
        match rows.name_label(name, value, place)? {
            Named::Label(label) => labels.push(label),
            Named::Unlabelled => {
                rows.findings.warn(Code::UnlabelledRow, place, "the label is -1");
                return Ok(None);
            }
        }
    }
    let mut seen = HashSet::new();
    labels.retain(|label| seen.insert(label.clone()));
    check_number(labels.len(), given, rows)?;
    rows.label_kind.add(given, labels.len(), place);
    Ok(Some(labels))
}

/// One label, where the caller or the file says that classes exclude each other.
fn check_number(labels: usize, given: Given, rows: &Rows) -> Result<(), Fault> {
    let says = match (rows.options.multi_label, given) {
        (Some(false), _) => "multi_label=false",
        (None, Given::Exclusive) => "the row's choice_style \"single\"",
        _ => return Ok(()),
    };
    match labels {
        1 => Ok(()),
        labels => Err(Fault::unreadable(format!("{labels} labels; {says} wants one"))),
    }
}

/// The ids of a list of zeros and ones with a place for each name; a list of ids has none twice.
fn one_hot(name: &str, values: &[Value], rows: &Rows) -> Result<Option<Vec<Value>>, Fault> {
    let bits = || values.iter().map(Value::as_u64).map(|bit| bit.filter(|bit| *bit < 2));
    if values.len() < 3 || bits().any(|bit| bit.is_none()) {
        return Ok(None);
    }
    let names = rows.options.labels.len();
    if names != values.len() {
        return Err(Fault::unreadable(format!(
            "field {name:?} is a list of {} zeros and ones; labels=… with as many names says which is which",
            values.len()
        )));
    }
    Ok(Some(bits().enumerate().filter(|(_, bit)| *bit == Some(1)).map(|(at, _)| Value::from(at)).collect()))
}

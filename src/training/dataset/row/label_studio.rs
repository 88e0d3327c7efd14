//! Tasks of a Label Studio export: a text under `data`, labelled regions or choices under `annotations`.

use serde_json::Value;

use super::Rows;
use super::classify::label_set;
use super::fields::{Fault, Fields, find, missing, object};
use super::ner::{check_spans, object_span, spanned};
use crate::training::dataset::findings::Code;
use crate::training::dataset::words::word_ranges;
use crate::training::dataset::{DatasetFamily, Example};

const ANNOTATIONS: &[&str] = &["annotations", "completions"];

pub(super) fn is_task(fields: &Fields) -> bool {
    fields.get("data").is_some_and(Value::is_object) && find(fields, ANNOTATIONS).is_some()
}

/// None: skipped or refused, and `rows` knows why. Of several annotations the first that was not cancelled counts.
pub(super) fn read(fields: &Fields, line: usize, rows: &mut Rows) -> Result<Option<Example>, Fault> {
    let text = task_text(object("data", &fields["data"])?)?;
    let Some(results) = annotation(fields)? else {
        rows.findings.warn(Code::SkippedRow, line, "no annotation");
        return Ok(None);
    };
    match rows.family {
        DatasetFamily::Ner => regions(text, results, line, rows),
        DatasetFamily::Classify => choices(text, results, rows).map(Some),
        DatasetFamily::Pairs => Err(Fault::unreadable("a Label Studio task holds no pair of texts")),
    }
}

/// `text`, or whatever the task's only string is called.
fn task_text(data: &Fields) -> Result<&str, Fault> {
    if let Some(text) = data.get("text").and_then(Value::as_str) {
        return Ok(text);
    }
    let mut strings = data.values().filter_map(Value::as_str);
    match (strings.next(), strings.next()) {
        (Some(text), None) => Ok(text),
        _ => Err(missing(&["data.text"])),
    }
}

fn annotation(fields: &Fields) -> Result<Option<&[Value]>, Fault> {
    let (name, value) = find(fields, ANNOTATIONS).ok_or_else(|| missing(ANNOTATIONS))?;
    let list = value.as_array().ok_or_else(|| Fault::unreadable(format!("field {name:?} is no list")))?;
    for annotation in list {
        let annotation = object(name, annotation)?;
        if annotation.get("was_cancelled") != Some(&Value::Bool(true)) {
            let results = annotation.get("result").and_then(Value::as_array);
            return results.map(|results| Some(results.as_slice())).ok_or_else(|| missing(&["annotations[].result"]));
        }
    }
    Ok(None)
}

fn regions(text: &str, results: &[Value], line: usize, rows: &mut Rows) -> Result<Option<Example>, Fault> {
    check_spans(values(results, "labels").count())?;
    let spans: Vec<_> = values(results, "labels").map(object_span).collect::<Result<_, _>>()?;
    Ok(spanned(text, &word_ranges(text), &spans, line, rows))
}

fn choices(text: &str, results: &[Value], rows: &mut Rows) -> Result<Example, Fault> {
    let chosen: Vec<Value> =
        values(results, "choices").filter_map(|value| value["choices"].as_array()).flatten().cloned().collect();
    if chosen.is_empty() {
        return Err(Fault::unreadable("no choice was made"));
    }
    let labels = label_set("choices", &chosen)?;
    rows.multi_label |= labels.len() > 1;
    Ok(Example::Classify { text: text.to_owned(), text_pair: None, labels })
}

/// The values of results that have `key`; relations and free text are left.
fn values<'a>(results: &'a [Value], key: &'static str) -> impl Iterator<Item = &'a Fields> {
    let value = |result: &'a Value| result.get("value").and_then(Value::as_object);
    results.iter().filter_map(value).filter(move |value| value.contains_key(key))
}

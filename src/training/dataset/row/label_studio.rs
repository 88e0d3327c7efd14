//! Tasks of a Label Studio export: a text under `data`, labelled regions or choices under `annotations`. Its offsets are the truth;
//! the text that a region repeats may be stale. What is not read is counted, never lost in silence.

use serde_json::Value;

use super::Rows;
use super::classify::label_set;
use super::fields::{Fault, Fields, find, has, missing, object};
use super::label_kind::Given;
use super::ner::{check_spans, no_text, object_span, spanned};
use crate::domain::Excerpt;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::NAMES_SHOWN_MAX;
use crate::training::dataset::place::Place;
use crate::training::dataset::words::{LabelledSpan, Truth, word_ranges};
use crate::training::dataset::{DatasetFamily, Example};

const ANNOTATIONS: &[&str] = &["annotations", "completions"];

/// Kinds of regions whose offsets do not count the characters of the text.
const OTHER_REGIONS: &[&str] =
    &["hypertextlabels", "paragraphlabels", "timeserieslabels", "rectanglelabels", "polygonlabels", "brushlabels"];

pub(super) fn is_task(fields: &Fields) -> bool {
    let is_known = || find(fields, ANNOTATIONS).is_some() || has(fields, "predictions") || has(fields, "inner_id");
    fields.get("data").is_some_and(Value::is_object) && is_known()
}

/// None: left out or refused, and `rows` knows why.
pub(super) fn read(fields: &Fields, place: &Place, rows: &mut Rows) -> Result<Option<Example>, Fault> {
    let text = task_text(object("data", &fields["data"])?, rows)?;
    let Some(results) = annotation(fields, place, rows)? else { return Ok(None) };
    match rows.family {
        DatasetFamily::Ner => regions(text, results, place, rows),
        DatasetFamily::Classify => choices(text, results, place, rows),
        DatasetFamily::Pairs => Err(Fault::unreadable("a Label Studio task holds no pair of texts")),
    }
}

/// `text`, or what the caller says, or whatever the task's only string is called.
fn task_text<'a>(data: &'a Fields, rows: &Rows) -> Result<&'a str, Fault> {
    if let Some((_, Value::String(text))) = find(data, &rows.options.text_names(&["text"])) {
        return Ok(text);
    }
    let strings: Vec<&String> = data.iter().filter(|(_, value)| value.is_string()).map(|(name, _)| name).collect();
    match strings.as_slice() {
        [name] if rows.options.text_column.is_none() => data[*name].as_str().ok_or_else(no_text),
        _ => {
            let names: Vec<_> = strings.iter().take(NAMES_SHOWN_MAX).map(|n| format!("{:?}", Excerpt(n))).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(Fault::unreadable(format!("{}; its texts are {there}: text_column names one", no_text().message)))
        }
    }
}

/// The results of the annotation that counts: of those that were not cancelled the ground truth, else the one updated last.
fn annotation<'a>(fields: &'a Fields, place: &Place, rows: &mut Rows) -> Result<Option<&'a [Value]>, Fault> {
    let Some((name, value)) = find(fields, ANNOTATIONS) else {
        unlabelled(fields, "no annotation", place, rows);
        return Ok(None);
    };
    let list = value.as_array().ok_or_else(|| Fault::unreadable(format!("field {name:?} is no list")))?;
    let all: Vec<&Fields> = list.iter().map(|annotation| object(name, annotation)).collect::<Result<_, _>>()?;
    let is_cancelled = |annotation: &&&Fields| annotation.get("was_cancelled") != Some(&Value::Bool(true));
    let valid: Vec<&Fields> = all.iter().filter(is_cancelled).copied().collect();
    let Some((chosen, why)) = choose(&valid) else {
        unlabelled(fields, if all.is_empty() { "no annotation" } else { "skipped by its annotators" }, place, rows);
        return Ok(None);
    };
    if valid.len() > 1 {
        let id = chosen.get("id").map_or_else(String::new, |id| format!(" {id}"));
        let message = format!("{} annotations; annotation{id} was read, {why}", valid.len());
        rows.findings.warn(Code::FurtherAnnotations, place, message);
    }
    let results = chosen.get("result").and_then(Value::as_array);
    results.map(|results| Some(results.as_slice())).ok_or_else(|| missing(&["annotations[].result"]))
}

/// A task that nobody answered is no negative example.
fn unlabelled(fields: &Fields, why: &str, place: &Place, rows: &mut Rows) {
    let has_some = |name: &str| fields.get(name).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let more = match (has_some("predictions"), has_some("drafts")) {
        (true, _) => "; predictions are not read",
        (false, true) => "; drafts are not read",
        _ => "",
    };
    rows.findings.warn(Code::SkippedRow, place, format!("{why}{more}"));
}

fn choose<'a>(valid: &[&'a Fields]) -> Option<(&'a Fields, &'static str)> {
    if let Some(truth) =
        valid.iter().rev().find(|annotation| annotation.get("ground_truth") == Some(&Value::Bool(true)))
    {
        return Some((truth, "the ground truth"));
    }
    let time = |annotation: &Fields| {
        let time = ["updated_at", "created_at"].iter().find_map(|name| annotation.get(*name)?.as_str());
        (time.map(str::to_owned), annotation.get("id").and_then(Value::as_u64))
    };
    let last = valid.iter().enumerate().max_by_key(|(at, annotation)| (time(annotation), *at));
    last.map(|(_, annotation)| (*annotation, "the one updated last"))
}

fn regions(text: &str, results: &[Value], place: &Place, rows: &mut Rows) -> Result<Option<Example>, Fault> {
    check_spans(results.len())?;
    let is_markup = text.contains('<');
    let mut spans = Vec::new();
    for value in results.iter().filter_map(value) {
        match region(is_markup, value, place, rows)? {
            Region::Span(span) => spans.push(span),
            Region::Other => {}
            Region::Unread(kind) => {
                rows.findings.warn(Code::UnreadRegion, place, format!("{kind}: its offsets are not those of the text"));
                return Ok(None);
            }
        }
    }
    warn_of_others(results, &["labels", "hypertextlabels"], place, rows);
    Ok(spanned(text, word_ranges(text), &spans, Truth::Offsets, place, rows))
}

enum Region<'a> {
    Span(LabelledSpan<'a>),
    /// No region at all.
    Other,
    /// A region of this kind, which cannot be placed in the text.
    Unread(&'static str),
}

fn region<'a>(is_markup: bool, value: &'a Fields, place: &Place, rows: &mut Rows) -> Result<Region<'a>, Fault> {
    if let Some(kind) = OTHER_REGIONS.iter().find(|kind| value.contains_key(**kind)) {
        let span = if is_markup { None } else { global_span(kind, value, place, rows)? };
        return Ok(span.map_or(Region::Unread(kind), Region::Span));
    }
    match value.get("labels").and_then(Value::as_array) {
        None => Ok(Region::Other),
        Some(labels) if labels.is_empty() => {
            rows.findings.warn(Code::UnreadResult, place, "a region without a label");
            Ok(Region::Other)
        }
        Some(_) if value.get("start").is_some_and(Value::is_string) => Ok(Region::Unread("labels with a path")),
        Some(_) => object_span(value, place, rows).map(Region::Span),
    }
}

/// A region of a HTML text that has no markup: its offsets over the whole text are those of the text.
fn global_span<'a>(
    kind: &str,
    value: &'a Fields,
    place: &Place,
    rows: &mut Rows,
) -> Result<Option<LabelledSpan<'a>>, Fault> {
    let Some(offsets) = value.get("globalOffsets").and_then(Value::as_object) else { return Ok(None) };
    let mut plain = offsets.clone();
    plain.insert("labels".to_owned(), value[kind].clone());
    let LabelledSpan { start, end, label, .. } = object_span(&plain, place, rows)?;
    Ok(Some(LabelledSpan { start, end, label, text: value.get("text").and_then(Value::as_str) }))
}

fn choices(text: &str, results: &[Value], place: &Place, rows: &mut Rows) -> Result<Option<Example>, Fault> {
    let lists = results.iter().filter_map(value).filter_map(|value| value.get("choices")?.as_array());
    let chosen: Vec<Value> = lists.flatten().cloned().collect();
    if chosen.is_empty() {
        return Err(Fault::unreadable("no choice was made"));
    }
    warn_of_others(results, &["choices"], place, rows);
    let given = if chosen.len() > 1 { Given::Several } else { Given::One };
    let labels = label_set("choices", &chosen, given, place, rows)?;
    Ok(labels.map(|labels| Example::Classify { text: text.to_owned(), text_pair: None, labels }))
}

/// Counts the results that have none of `keys`: relations, free text, choices beside regions.
fn warn_of_others(results: &[Value], keys: &[&str], place: &Place, rows: &mut Rows) {
    let is_read = |result: &&Value| value(result).is_some_and(|value| keys.iter().any(|key| value.contains_key(*key)));
    let mut kinds: Vec<&str> =
        results.iter().filter(|r| !is_read(r)).map(|r| r["type"].as_str().unwrap_or("unknown")).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.truncate(NAMES_SHOWN_MAX);
    if !kinds.is_empty() {
        rows.findings.warn(Code::UnreadResult, place, kinds.join(", "));
    }
}

fn value(result: &Value) -> Option<&Fields> {
    result.get("value").and_then(Value::as_object)
}

//! Tagged words, and texts with labelled spans (spaCy's, Prodigy's, doccano's shapes).

use std::ops::Range;

use serde_json::Value;

use super::Rows;
use super::fields::{
    Fault, Fields, as_position, check_label_length, find, label, missing, object, optional_text, position, strings,
    text,
};
use crate::domain::Tag;
use crate::training::dataset::Example;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::WORDS_MAX;
use crate::training::dataset::words::{LabelledSpan, tag_words, word_ranges};

pub(super) const WORDS: &[&str] = &["tokens", "words"];
pub(super) const TAGS: &[&str] = &["tags", "ner_tags"];
pub(super) const TEXT: &[&str] = &["text", "sentence", "content"];
pub(super) const SPANS: &[&str] = &["spans", "entities", "label", "labels"];

/// None: refused, and `rows` knows why.
pub(super) fn read(fields: &Fields, line: usize, rows: &mut Rows) -> Result<Option<Example>, Fault> {
    if find(fields, TAGS).is_some() || find(fields, TEXT).is_none() {
        return tagged(strings(fields, WORDS)?, strings(fields, TAGS)?, line, rows).map(Some);
    }
    let text = text(fields, TEXT)?;
    let spans = match find(fields, SPANS) {
        Some((name, value)) => read_spans(name, value)?,
        // Prodigy leaves the field out where nothing was marked.
        None if fields.contains_key("answer") => Vec::new(),
        None => return Err(missing(SPANS)),
    };
    let words = match fields.get("tokens") {
        Some(tokens) => token_ranges(text, tokens)?,
        None => word_ranges(text),
    };
    Ok(spanned(text, &words, &spans, line, rows))
}

/// Words with tags of any scheme.
pub(in crate::training::dataset) fn tagged(
    words: Vec<String>,
    tags: Vec<String>,
    line: usize,
    rows: &mut Rows,
) -> Result<Example, Fault> {
    let broken = |message| Fault { code: Code::TagScheme, message };
    if words.len() != tags.len() {
        return Err(broken(format!("{} tags for {} words", tags.len(), words.len())));
    }
    if words.len() > WORDS_MAX {
        return Err(Fault::too_large(format!("{} words; at most {WORDS_MAX} are allowed", words.len())));
    }
    tags.iter().filter_map(|tag| Tag::parse(tag).label()).try_for_each(check_label_length)?;
    let iob2 = rows.schemes.convert(&tags, line);
    let tags = iob2.map_err(|(at, reason)| broken(format!("word {}: {reason}", at + 1)))?;
    Ok(Example::Ner { words, tags })
}

pub(super) fn spanned(
    text: &str,
    words: &[Range<usize>],
    spans: &[LabelledSpan<'_>],
    line: usize,
    rows: &mut Rows,
) -> Option<Example> {
    let tags = tag_words(text, words, spans, line, &mut rows.findings)?;
    let words = words.iter().map(|word| text[word.clone()].to_owned()).collect();
    Some(Example::Ner { words, tags })
}

fn read_spans<'a>(name: &str, value: &'a Value) -> Result<Vec<LabelledSpan<'a>>, Fault> {
    let wanted = || {
        Fault::unreadable(format!(
            "field {name:?} is no list of spans ({{\"start\",\"end\",\"label\"}} or [start, end, label])"
        ))
    };
    let spans = value.as_array().ok_or_else(wanted)?;
    check_spans(spans.len())?;
    spans.iter().map(|span| read_span(span).ok_or_else(wanted)?).collect()
}

/// Each has a word of its own, so there are no more of them than words.
pub(super) fn check_spans(spans: usize) -> Result<(), Fault> {
    match spans > WORDS_MAX {
        true => Err(Fault::too_large(format!("{spans} spans; at most {WORDS_MAX} are allowed"))),
        false => Ok(()),
    }
}

/// None: neither of the two shapes.
fn read_span(span: &Value) -> Option<Result<LabelledSpan<'_>, Fault>> {
    match span {
        Value::Object(fields) => Some(object_span(fields)),
        Value::Array(parts) => match parts.as_slice() {
            [start, end, label] => Some(array_span(start, end, label)),
            _ => None,
        },
        _ => None,
    }
}

fn array_span<'a>(start: &Value, end: &Value, name: &'a Value) -> Result<LabelledSpan<'a>, Fault> {
    let (start, end) = (as_position("start", start)?, as_position("end", end)?);
    Ok(LabelledSpan { start, end, label: span_label(name)?, text: None })
}

/// `{"start","end"}` with `label` or a `labels` list of one; `text` says what is there.
pub(super) fn object_span(fields: &Fields) -> Result<LabelledSpan<'_>, Fault> {
    let (start, end) = (position(fields, "start")?, position(fields, "end")?);
    let name = match find(fields, &["label", "labels"]) {
        Some((_, Value::Array(labels))) => match labels.as_slice() {
            [label] => label,
            labels => {
                return Err(Fault::unreadable(format!(
                    "span {start}..{end} has {} labels; one is wanted",
                    labels.len()
                )));
            }
        },
        Some((_, label)) => label,
        None => return Err(Fault::unreadable(format!("span {start}..{end} has no label"))),
    };
    Ok(LabelledSpan { start, end, label: span_label(name)?, text: optional_text(fields, &["text"])? })
}

fn span_label(value: &Value) -> Result<&str, Fault> {
    label("label", value)?;
    value.as_str().ok_or_else(|| Fault::unreadable("a span's label is a number; its name is wanted"))
}

/// Prodigy's own tokens, which its spans fit.
fn token_ranges(text: &str, tokens: &Value) -> Result<Vec<Range<usize>>, Fault> {
    let bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let list = tokens.as_array().ok_or_else(|| Fault::unreadable("field \"tokens\" is no list"))?;
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(list.len());
    for token in list {
        let token = object("tokens", token)?;
        let (start, end) = (position(token, "start")?, position(token, "end")?);
        let (Some(&from), Some(&to)) = (bytes.get(start), bytes.get(end)) else {
            return Err(Fault::unreadable(format!("token {start}..{end} is not within the text")));
        };
        if to <= from || ranges.last().is_some_and(|last| from < last.end) {
            return Err(Fault::unreadable(format!("token {start}..{end} is empty or overlaps the one before it")));
        }
        ranges.push(from..to);
    }
    ranges.retain(|range| !text[range.clone()].trim().is_empty());
    Ok(ranges)
}

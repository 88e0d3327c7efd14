//! Tagged words, and texts with labelled spans (spaCy's, Prodigy's, doccano's shapes).

use std::ops::Range;

use serde_json::Value;

use super::fields::{
    Fault, Fields, as_position, check_label_length, find, has, label, missing, missing_from, object, optional_text,
    position, strings, text, wrong,
};
use super::{Named, Rows};
use crate::domain::Tag;
use crate::training::dataset::Example;
use crate::training::dataset::findings::Code;
use crate::training::dataset::limits::WORDS_MAX;
use crate::training::dataset::place::Place;
use crate::training::dataset::words::{LabelledSpan, Truth, tag_words, word_ranges};

pub(in crate::training::dataset) const LIST_WORDS: &[&str] = &["tokens", "words"];
pub(in crate::training::dataset) const LIST_TAGS: &[&str] = &["tags", "ner_tags"];
pub(in crate::training::dataset) const TEXT: &[&str] = &["text", "sentence", "content"];
pub(in crate::training::dataset) const SPANS: &[&str] = &["spans", "entities", "ents", "label", "labels"];
/// Where a list of words may have its tags, if nothing is called tags.
const OTHER_TAGS: &[&str] = &["labels", "label"];

/// A span's beginning, end and label as tools call them: spaCy and Prodigy, doccano, Label Studio, Hugging Face.
const START: &[&str] = &["start", "start_offset", "startOffset"];
const END: &[&str] = &["end", "end_offset", "endOffset"];
const SPAN_LABEL: &[&str] = &["label", "labels", "type", "entity", "entity_group", "tag"];

/// None: refused, and `rows` knows why.
pub(super) fn read(fields: &Fields, place: &Place, rows: &mut Rows) -> Result<Option<Example>, Fault> {
    if let Some((words, (name, tags))) = word_list(fields, rows)? {
        let tags = tags.as_array().ok_or_else(|| wrong(name, tags, "a list of strings"))?;
        let tags = tags.iter().enumerate().map(|(at, tag)| rows.name_tag(at, tag, place)).collect::<Result<_, _>>()?;
        return tagged(words, tags, place, rows).map(Some);
    }
    let text = text(fields, &rows.options.text_names(TEXT))?;
    let options = rows.options.clone();
    let wanted = options.label_names(SPANS);
    let spans = match find(fields, &wanted) {
        Some((_, Value::String(blank))) if blank.trim().is_empty() && is_looked_at(fields) => Vec::new(),
        Some((name, value)) => read_spans(name, value, place, rows)?,
        // Prodigy and Label Studio leave the field out where nothing was marked.
        None if is_looked_at(fields) => Vec::new(),
        None => return Err(missing_from(fields, &wanted)),
    };
    if fields.get("relations").and_then(Value::as_array).is_some_and(|relations| !relations.is_empty()) {
        rows.findings.warn(Code::UnreadResult, place, "relations");
    }
    let words = match fields.get("tokens").and_then(Value::as_array) {
        Some(tokens) if tokens.iter().all(Value::is_object) => token_ranges(text, tokens)?,
        _ => word_ranges(text),
    };
    let truth = if has(fields, "annotation_id") { Truth::Offsets } else { Truth::Both };
    Ok(spanned(text, words, &spans, truth, place, rows))
}

/// Whether the row says that a person saw it, so that no spans are an answer: Prodigy's, Label Studio's.
fn is_looked_at(fields: &Fields) -> bool {
    has(fields, "answer") || has(fields, "annotation_id")
}

/// The row's words, with the field of their tags. None: it is a text with spans.
#[allow(clippy::type_complexity)]
fn word_list<'a>(fields: &'a Fields, rows: &Rows) -> Result<Option<(Vec<String>, (&'static str, &'a Value))>, Fault> {
    let is_strings =
        |value: &Value| value.as_array().is_some_and(|list| list.iter().all(|v| v.is_string() || v.is_number()));
    let words_names = rows.options.text_names(LIST_WORDS);
    let words = find(fields, &words_names);
    let tags = match rows.options.label_column.as_deref() {
        Some(asked) => {
            find(fields, &[asked]).filter(|(_, value)| is_strings(value) && words.is_some_and(|w| w.1.is_array()))
        }
        None => find(fields, LIST_TAGS).or_else(|| {
            let other = find(fields, OTHER_TAGS).filter(|(_, value)| is_strings(value));
            other.filter(|_| words.is_some_and(|(_, words)| is_strings(words)))
        }),
    };
    let has_text = find(fields, &rows.options.text_names(TEXT)).is_some_and(|(_, text)| text.is_string());
    match (words, tags) {
        (Some((name, words)), Some((_, tags))) => Ok(Some((strings(name, words)?, ("tags", tags)))),
        (None, Some(_)) => Err(missing_from(fields, &words_names)),
        (Some((name, words)), None) if !has_text => {
            strings(name, words)?;
            Err(missing_from(fields, &rows.options.label_names(LIST_TAGS)))
        }
        (None, None) if !has_text && find(fields, &rows.options.text_names(TEXT)).is_none() => {
            Err(missing_from(fields, &words_names))
        }
        _ => Ok(None),
    }
}

/// Words with tags of any scheme.
pub(in crate::training::dataset) fn tagged(
    words: Vec<String>,
    tags: Vec<String>,
    place: &Place,
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
    let iob2 = rows.schemes.convert(&tags, place);
    let tags = iob2.map_err(|(at, reason)| broken(format!("word {}: {reason}", at + 1)))?;
    Ok(Example::Ner { words, tags })
}

pub(super) fn spanned(
    text: &str,
    words: Vec<Range<usize>>,
    spans: &[LabelledSpan<'_>],
    truth: Truth,
    place: &Place,
    rows: &mut Rows,
) -> Option<Example> {
    let (words, tags) = tag_words(text, words, spans, truth, place, &mut rows.findings)?;
    let words = words.iter().map(|word| text[word.clone()].to_owned()).collect();
    Some(Example::Ner { words, tags })
}

fn read_spans<'a>(
    name: &str,
    value: &'a Value,
    place: &Place,
    rows: &mut Rows,
) -> Result<Vec<LabelledSpan<'a>>, Fault> {
    let wanted = || {
        Fault::unreadable(format!(
            "field {name:?} is no list of spans ({{\"start\",\"end\",\"label\"}} or [start, end, label])"
        ))
    };
    let spans = value.as_array().ok_or_else(wanted)?;
    check_spans(spans.len())?;
    spans.iter().map(|span| read_span(span, place, rows).ok_or_else(wanted)?).collect()
}

/// Each has a word of its own, so there are no more of them than words.
pub(super) fn check_spans(spans: usize) -> Result<(), Fault> {
    match spans > WORDS_MAX {
        true => Err(Fault::too_large(format!("{spans} spans; at most {WORDS_MAX} are allowed"))),
        false => Ok(()),
    }
}

/// None: neither of the two shapes.
fn read_span<'a>(span: &'a Value, place: &Place, rows: &mut Rows) -> Option<Result<LabelledSpan<'a>, Fault>> {
    match span {
        Value::Object(fields) => Some(object_span(fields, place, rows)),
        Value::Array(parts) => match parts.as_slice() {
            [start, end, label] => Some(array_span(start, end, label, place, rows)),
            _ => None,
        },
        _ => None,
    }
}

fn array_span<'a>(
    start: &Value,
    end: &Value,
    name: &Value,
    place: &Place,
    rows: &mut Rows,
) -> Result<LabelledSpan<'a>, Fault> {
    let (start, end) = (as_position("start", start)?, as_position("end", end)?);
    Ok(LabelledSpan { start, end, label: span_label(name, place, rows)?, text: None })
}

/// `{"start","end"}` with `label` or a `labels` list of one; `text` says what is there.
pub(super) fn object_span<'a>(fields: &'a Fields, place: &Place, rows: &mut Rows) -> Result<LabelledSpan<'a>, Fault> {
    let (start, end) = (position(fields, START)?, position(fields, END)?);
    let name = match find(fields, SPAN_LABEL) {
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
    Ok(LabelledSpan { start, end, label: span_label(name, place, rows)?, text: optional_text(fields, &["text"])? })
}

/// A number is no entity type, unless the caller has names for numbers.
fn span_label(value: &Value, place: &Place, rows: &mut Rows) -> Result<String, Fault> {
    if value.is_number() && rows.options.labels.is_empty() {
        label("label", value)?;
        return Err(Fault::unreadable("a span's label is a number; its name is wanted (labels=… names numbers)"));
    }
    match rows.name_label("label", value, place)? {
        Named::Label(label) => Ok(label),
        Named::Unlabelled => Err(Fault::unreadable("a span's label is -1; its name is wanted")),
    }
}

/// Prodigy's own tokens, which its spans fit.
fn token_ranges(text: &str, tokens: &[Value]) -> Result<Vec<Range<usize>>, Fault> {
    let bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let token = object("tokens", token)?;
        let (start, end) = (position(token, START)?, position(token, END)?);
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

/// Why a task has no text.
pub(super) fn no_text() -> Fault {
    missing(&["data.text"])
}

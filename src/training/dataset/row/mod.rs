//! Rows by field name to examples of a family, counted as they come. Which bytes hold the rows is `format`'s matter.

mod classify;
mod fields;
mod label_kind;
mod label_studio;
mod naming;
mod ner;
mod pairs;

pub(super) use classify::{ANY_LABEL, TEXT, TEXT_PAIR};
pub(super) use fields::{Fault, Fields, check_label_length, kind};
pub(super) use ner::{LIST_TAGS, LIST_WORDS, SPANS, TEXT as NER_TEXT, tagged};
pub(super) use pairs::{A, B};

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Cancel, Error, Result};

use super::findings::{Code, Findings, Lines};
use super::limits::{
    BYTES_A_LOOK, EXAMPLES_BYTES_MAX, LABELS_MAX, ROW_BYTES_MAX, ROWS_A_LOOK, ROWS_MAX, UNPACKED_BYTES_MAX, WORDS_MAX,
    string_bytes,
};
use super::options::ReadOptions;
use super::place::Place;
use super::split::stored_bytes;
use super::tags::Schemes;
use super::words::count_words;
use super::{DatasetFamily, Example};

use label_kind::LabelKind;
use naming::{Named, Naming};

/// Stands for bytes that are no text, in a file that is UTF-8 otherwise: a code point that no text has.
pub(super) const BROKEN: char = '\u{fffe}';

/// Names of a row's own id.
const TASK_ID: &[&str] = &["id", "task_id", "guid", "uid", "_task_hash"];

/// The rows of a file, and what was wrong with those it lacks.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) family: DatasetFamily,
    pub(super) options: Arc<ReadOptions>,
    pub(super) kept: Vec<Row>,
    /// At most [`LABELS_MAX`] labels, and where they are.
    pub(super) labels: HashMap<String, Lines>,
    label_kind: LabelKind,
    naming: Naming,
    /// The file has bytes that are no text; rows with [`BROKEN`] are refused.
    pub(super) is_damaged: bool,
    /// Rows that were numbered.
    seen: usize,
    seen_max: usize,
    /// Some row was a Label Studio task.
    pub(super) from_label_studio: bool,
    pub(super) findings: Findings,
    pub(super) schemes: Schemes,
    /// What `kept` takes in memory, about.
    bytes: usize,
    /// What `kept` takes as the lines that are stored, which are read again with the bounds of an upload.
    stored_bytes: usize,
    cancel: Cancel,
    /// Bytes read since we last looked whether they are wanted.
    unlooked: usize,
    end: Option<End>,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) place: Place,
    pub(super) words: usize,
    pub(super) example: Example,
}

/// Why no more rows are read.
#[derive(Debug)]
enum End {
    /// A bound of the whole file; the findings say which.
    Bound,
    Cancelled(Error),
}

impl Rows {
    pub(super) fn new(family: DatasetFamily, options: &ReadOptions, cancel: &Cancel) -> Self {
        Self::tried(family, options, usize::MAX, cancel)
    }

    /// For a look at the first `seen_max` rows.
    pub(super) fn tried(family: DatasetFamily, options: &ReadOptions, seen_max: usize, cancel: &Cancel) -> Self {
        Self {
            family,
            options: Arc::new(options.clone()),
            kept: Vec::new(),
            labels: HashMap::new(),
            label_kind: LabelKind::default(),
            naming: Naming::default(),
            is_damaged: false,
            seen: 0,
            seen_max,
            from_label_studio: false,
            findings: Findings::default(),
            schemes: Schemes::default(),
            bytes: 0,
            stored_bytes: 0,
            cancel: cancel.clone(),
            unlooked: 0,
            end: None,
        }
    }

    /// The place of the next row, which begins at `line`.
    pub(super) fn place(&mut self, line: usize) -> Place {
        self.seen += 1;
        Place { line, row: self.seen, task_id: None }
    }

    /// How many rows the file has, as far as it was read.
    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    /// The file names the classes that it gives as numbers.
    pub(super) fn declare_names(&mut self) {
        self.naming.declares_names = true;
    }

    /// Whether a row may have any number of labels: as the caller says, else as the rows do.
    pub(super) fn multi_label(&self) -> bool {
        self.family == DatasetFamily::Classify
            && self.options.multi_label.unwrap_or_else(|| self.label_kind.is_multi_label())
    }

    /// Whether nothing of the file can be used, though it was read to its end.
    pub(super) fn came_to_nothing(&self) -> bool {
        let is_labelled = self.family == DatasetFamily::Pairs || !self.labels.is_empty();
        self.end.is_none() && self.seen > 0 && (self.kept.is_empty() || !is_labelled)
            || (self.seen == 0 && self.findings.has_errors() && self.end.is_none())
    }

    /// What was decided for all rows together.
    pub(super) fn report_readings(&self, findings: &mut Findings) {
        self.naming.report(&self.options, findings);
        if self.options.multi_label.is_none() && self.family == DatasetFamily::Classify {
            self.label_kind.report(findings);
        }
    }

    /// Whether the reader may stop: a bound of the whole file is passed, or nobody waits any more. Asked for each row, `bytes` long.
    pub(super) fn is_over(&mut self, bytes: usize) -> bool {
        if self.seen >= self.seen_max {
            self.end = Some(End::Bound);
        }
        self.unlooked += bytes + BYTES_A_LOOK / ROWS_A_LOOK;
        if self.unlooked > BYTES_A_LOOK {
            self.unlooked = 0;
            if let Err(error) = self.cancel.check() {
                self.end = Some(End::Cancelled(error));
            }
        }
        self.end.is_some()
    }

    /// Fails if reading was given up.
    pub(super) fn check_wanted(&mut self) -> Result<()> {
        match self.end.take_if(|end| matches!(end, End::Cancelled(_))) {
            Some(End::Cancelled(error)) => Err(error),
            _ => self.cancel.check(),
        }
    }

    /// Whether a bound ended the reading: there may be more than `kept`.
    pub(super) fn is_cut(&self) -> bool {
        self.end.is_some()
    }

    /// Refuses the file at `place`, and reads no further.
    pub(super) fn end_at(&mut self, place: &Place, message: String) {
        self.fail(place, Fault::too_large(message));
        self.end = Some(End::Bound);
    }

    /// Reads one row of named fields.
    pub(super) fn read(&mut self, place: Place, fields: &Fields) {
        let place = place.called(task_id(fields));
        if let Some(answer @ ("reject" | "ignore")) = fields.get("answer").and_then(|answer| answer.as_str()) {
            self.findings.warn(Code::SkippedRow, &place, format!("answer {answer:?}"));
            return;
        }
        let example = if label_studio::is_task(fields) {
            self.from_label_studio = true;
            label_studio::read(fields, &place, self)
        } else {
            match self.family {
                DatasetFamily::Ner => ner::read(fields, &place, self),
                DatasetFamily::Classify => classify::read(fields, &place, self),
                DatasetFamily::Pairs => pairs::read(fields, &place, self),
            }
        };
        match example {
            Ok(Some(example)) => self.keep(place, example),
            Ok(None) => {}
            Err(fault) => self.refuse(&place, fault),
        }
    }

    /// Refuses one row.
    pub(super) fn refuse(&mut self, place: &Place, fault: Fault) {
        self.findings.refuse(fault.code, place, fault.message);
    }

    /// Refuses the whole file.
    pub(super) fn fail(&mut self, place: &Place, fault: Fault) {
        self.findings.error(fault.code, place, fault.message);
    }

    /// The label that `value` stands for.
    fn name_label(&mut self, field: &str, value: &serde_json::Value, place: &Place) -> Result<Named, Fault> {
        self.naming.name(field, value, &self.options, place, &mut self.findings)
    }

    /// A tag of a row, which is a string or a number with a name.
    fn name_tag(&mut self, at: usize, value: &serde_json::Value, place: &Place) -> Result<String, Fault> {
        self.naming.tag(at, value, &self.options, place, &mut self.findings)
    }

    /// A tag of a column file, with its entity type named as the caller wants.
    pub(super) fn clean_tag(&mut self, tag: String, place: &Place) -> String {
        self.naming.clean_tag(tag, &self.options, place, &mut self.findings)
    }

    /// Keeps a row that is within the limits and has a word.
    pub(super) fn keep(&mut self, place: Place, example: Example) {
        if example.is_blank() {
            return self.findings.warn(Code::EmptyRow, &place, "");
        }
        if self.is_damaged && example.texts().any(|text| text.contains(BROKEN)) {
            return self.findings.refuse(Code::InvalidUtf8, &place, "");
        }
        let words = example.words();
        match check_row(&example, words) {
            Ok(stored) => {
                self.stored_bytes += stored;
                self.count(Row { place, words, example });
            }
            Err(fault) => self.refuse(&place, fault),
        }
    }

    /// Keeps a row that is right in itself, if the file may have it beside the others.
    fn count(&mut self, row: Row) {
        self.bytes += row.bytes();
        for label in row.example.labels() {
            match self.labels.get_mut(label) {
                Some(lines) => lines.add(&row.place),
                None => self.labels.entry(label.to_owned()).or_default().add(&row.place),
            }
        }
        let over = |what, got, max| (got > max).then(|| format!("{got} {what} up to here; at most {max} are allowed"));
        let passed = over("rows", self.kept.len() + 1, ROWS_MAX)
            .or_else(|| over("labels", self.labels.len(), LABELS_MAX))
            .or_else(|| over("bytes as they are stored", self.stored_bytes, UNPACKED_BYTES_MAX))
            .or_else(|| over("bytes in memory", self.bytes, EXAMPLES_BYTES_MAX));
        match passed {
            Some(message) => self.end_at(&row.place, message),
            None => self.kept.push(row),
        }
    }
}

/// The id that tools give a row, whatever they call it.
fn task_id(fields: &Fields) -> Option<&serde_json::Value> {
    TASK_ID.iter().find_map(|name| fields.get(*name).filter(|id| id.is_string() || id.is_number()))
}

/// What is bounded in each row: its bytes as a stored line, words, and its labels' length.
fn check_row(example: &Example, words: usize) -> Result<usize, Fault> {
    if words > WORDS_MAX {
        return Err(Fault::too_large(format!("{words} words; at most {WORDS_MAX} are allowed")));
    }
    example.labels().try_for_each(check_label_length)?;
    let stored = stored_bytes(example);
    if stored > ROW_BYTES_MAX {
        return Err(Fault::too_large(format!(
            "{stored} bytes as a line of JSON, in which rows are stored; at most {ROW_BYTES_MAX} are allowed"
        )));
    }
    Ok(stored)
}

impl Row {
    /// What it takes in memory, about.
    fn bytes(&self) -> usize {
        let list = |texts: &[String]| texts.iter().map(|text| string_bytes(text.len())).sum::<usize>();
        let some = |text: &Option<String>| text.as_ref().map_or(0, |text| string_bytes(text.len()));
        size_of::<Self>()
            + self.place.task_id.as_ref().map_or(0, |id| string_bytes(id.len()))
            + match &self.example {
                Example::Ner { words, tags } => list(words) + list(tags),
                Example::Classify { text, text_pair, labels } => {
                    string_bytes(text.len()) + some(text_pair) + list(labels)
                }
                Example::Pair { a, b, label, .. } => string_bytes(a.len()) + string_bytes(b.len()) + some(label),
            }
    }
}

/// Whether some family reads a field of this name, or the caller does, so that tables need not carry the others.
pub(super) fn is_read(name: &str, options: &ReadOptions) -> bool {
    let known = [TEXT, classify::TEXT_PAIR, ANY_LABEL, A, B, LIST_WORDS, LIST_TAGS, NER_TEXT, SPANS, TASK_ID];
    let asked = [&options.text_column, &options.label_column];
    known.iter().any(|names| names.contains(&name))
        || asked.into_iter().flatten().any(|asked| asked.eq_ignore_ascii_case(name))
        || ["score", "answer", "data", "annotations", "completions", "annotation_id"].contains(&name)
}

impl Example {
    /// How many words it has; texts are parted at spaces and punctuation.
    pub fn words(&self) -> usize {
        match self {
            Self::Ner { words, .. } => words.len(),
            Self::Classify { text, text_pair, .. } => count_words(text) + text_pair.as_deref().map_or(0, count_words),
            Self::Pair { a, b, .. } => count_words(a) + count_words(b),
        }
    }

    /// Entity types (one for each entity) or labels.
    pub fn labels(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Ner { tags, .. } => Box::new(tags.iter().filter_map(|tag| tag.strip_prefix("B-"))),
            Self::Classify { labels, .. } => Box::new(labels.iter().map(String::as_str)),
            Self::Pair { label, .. } => Box::new(label.iter().map(String::as_str)),
        }
    }

    /// Its words or texts, and its labels.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let (list, some): (&[String], [Option<&String>; 2]) = match self {
            Self::Ner { words, .. } => (words, [None, None]),
            Self::Classify { text, text_pair, .. } => (&[], [Some(text), text_pair.as_ref()]),
            Self::Pair { a, b, .. } => (&[], [Some(a), Some(b)]),
        };
        list.iter().chain(some.into_iter().flatten()).map(String::as_str).chain(self.labels())
    }

    fn is_blank(&self) -> bool {
        let blank = |text: &String| text.trim().is_empty();
        match self {
            Self::Ner { words, .. } => words.iter().all(blank),
            Self::Classify { text, text_pair, .. } => blank(text) && text_pair.as_ref().is_none_or(blank),
            Self::Pair { a, b, .. } => blank(a) || blank(b),
        }
    }
}

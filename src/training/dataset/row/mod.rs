//! Rows by field name to examples of a family, counted as they come. Which bytes hold the rows is `format`'s matter.

mod classify;
mod fields;
mod label_studio;
mod ner;
mod pairs;

pub(super) use classify::{ANY_LABEL, TEXT};
pub(super) use fields::{Fault, Fields, check_label_length, kind};
pub(super) use ner::tagged;
pub(super) use pairs::{A, B};

use std::collections::HashMap;

use crate::domain::{Cancel, Error, Result};

use super::findings::{Code, Findings, Lines};
use super::limits::{
    BYTES_A_LOOK, EXAMPLES_BYTES_MAX, LABELS_MAX, ROW_BYTES_MAX, ROWS_A_LOOK, ROWS_MAX, UNPACKED_BYTES_MAX, WORDS_MAX,
    string_bytes,
};
use super::split::stored_bytes;
use super::tags::Schemes;
use super::words::count_words;
use super::{DatasetFamily, Example};

/// The rows of a file, and what was wrong with those it lacks.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) family: DatasetFamily,
    pub(super) kept: Vec<Row>,
    /// At most [`LABELS_MAX`] labels, and where they are.
    pub(super) labels: HashMap<String, Lines>,
    pub(super) multi_label: bool,
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
    pub(super) line: usize,
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
    pub(super) fn new(family: DatasetFamily, cancel: &Cancel) -> Self {
        Self {
            family,
            kept: Vec::new(),
            labels: HashMap::new(),
            multi_label: false,
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

    /// Whether the reader may stop: a bound of the whole file is passed, or nobody waits any more. Asked for each row, `bytes` long.
    pub(super) fn is_over(&mut self, bytes: usize) -> bool {
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

    /// Refuses the file at `line`, and reads no further.
    pub(super) fn end_at(&mut self, line: usize, message: String) {
        self.refuse(line, Fault::too_large(message));
        self.end = Some(End::Bound);
    }

    /// Reads one row of named fields.
    pub(super) fn read(&mut self, line: usize, fields: &Fields) {
        if let Some(answer @ ("reject" | "ignore")) = fields.get("answer").and_then(|answer| answer.as_str()) {
            self.findings.warn(Code::SkippedRow, line, format!("answer {answer:?}"));
            return;
        }
        let example = if label_studio::is_task(fields) {
            self.from_label_studio = true;
            label_studio::read(fields, line, self)
        } else {
            match self.family {
                DatasetFamily::Ner => ner::read(fields, line, self),
                DatasetFamily::Classify => classify::read(fields, self).map(Some),
                DatasetFamily::Pairs => pairs::read(fields).map(Some),
            }
        };
        match example {
            Ok(Some(example)) => self.keep(line, example),
            Ok(None) => {}
            Err(fault) => self.refuse(line, fault),
        }
    }

    pub(super) fn refuse(&mut self, line: usize, fault: Fault) {
        self.findings.error(fault.code, line, fault.message);
    }

    /// Keeps a row that is within the limits and has a word.
    pub(super) fn keep(&mut self, line: usize, example: Example) {
        if example.is_blank() {
            return self.findings.warn(Code::EmptyRow, line, "");
        }
        let words = example.words();
        match check_row(&example, words) {
            Ok(stored) => {
                self.stored_bytes += stored;
                self.count(line, Row { line, words, example });
            }
            Err(fault) => self.refuse(line, fault),
        }
    }

    /// Keeps a row that is right in itself, if the file may have it beside the others.
    fn count(&mut self, line: usize, row: Row) {
        self.bytes += row.bytes();
        for label in row.example.labels() {
            match self.labels.get_mut(label) {
                Some(lines) => lines.add(line),
                None => self.labels.entry(label.to_owned()).or_default().add(line),
            }
        }
        let over = |what, got, max| (got > max).then(|| format!("{got} {what} up to here; at most {max} are allowed"));
        let passed = over("rows", self.kept.len() + 1, ROWS_MAX)
            .or_else(|| over("labels", self.labels.len(), LABELS_MAX))
            .or_else(|| over("bytes as they are stored", self.stored_bytes, UNPACKED_BYTES_MAX))
            .or_else(|| over("bytes in memory", self.bytes, EXAMPLES_BYTES_MAX));
        match passed {
            Some(message) => self.end_at(line, message),
            None => self.kept.push(row),
        }
    }
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
            + match &self.example {
                Example::Ner { words, tags } => list(words) + list(tags),
                Example::Classify { text, text_pair, labels } => {
                    string_bytes(text.len()) + some(text_pair) + list(labels)
                }
                Example::Pair { a, b, label, .. } => string_bytes(a.len()) + string_bytes(b.len()) + some(label),
            }
    }
}

/// Whether some family reads a field of this name, so that tables need not carry the others.
pub(super) fn is_read(name: &str) -> bool {
    let known = [TEXT, classify::TEXT_PAIR, ANY_LABEL, A, B, ner::WORDS, ner::TAGS, ner::TEXT, ner::SPANS];
    known.iter().any(|names| names.contains(&name))
        || ["score", "answer", "data", "annotations", "completions"].contains(&name)
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

    fn is_blank(&self) -> bool {
        let blank = |text: &String| text.trim().is_empty();
        match self {
            Self::Ner { words, .. } => words.iter().all(blank),
            Self::Classify { text, text_pair, .. } => blank(text) && text_pair.as_ref().is_none_or(blank),
            Self::Pair { a, b, .. } => blank(a) || blank(b),
        }
    }
}

//! Rows by field name to examples of a family. Which bytes hold the rows is `format`'s matter.

mod classify;
mod fields;
mod label_studio;
mod ner;
mod pairs;

pub(super) use classify::{ANY_LABEL, TEXT};
pub(super) use fields::{Fault, Fields, kind};
pub(super) use ner::tagged;
pub(super) use pairs::{A, B};

use super::findings::{Code, Findings};
use super::limits::{LABEL_BYTES_MAX, ROWS_MAX, WORDS_MAX};
use super::tags::Schemes;
use super::words::count_words;
use super::{DatasetFamily, Example};

/// The rows of a file, and what was wrong with those it lacks.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) family: DatasetFamily,
    pub(super) kept: Vec<Row>,
    pub(super) multi_label: bool,
    /// Some row was a Label Studio task.
    pub(super) from_label_studio: bool,
    pub(super) findings: Findings,
    pub(super) schemes: Schemes,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) line: usize,
    pub(super) words: usize,
    pub(super) example: Example,
}

impl Rows {
    pub(super) fn new(family: DatasetFamily) -> Self {
        Self {
            family,
            kept: Vec::new(),
            multi_label: false,
            from_label_studio: false,
            findings: Findings::default(),
            schemes: Schemes::default(),
        }
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
        let words = example.words();
        if example.is_blank() {
            self.findings.warn(Code::EmptyRow, line, "");
        } else if words > WORDS_MAX {
            self.findings.error(Code::TooLarge, line, format!("{words} words; at most {WORDS_MAX} are allowed"));
        } else if let Some(label) = example.labels().find(|label| label.len() > LABEL_BYTES_MAX) {
            let start: String = label.chars().take(40).collect();
            let bytes = label.len();
            self.findings.error(
                Code::TooLarge,
                line,
                format!("label \"{start}…\" has {bytes} bytes; at most {LABEL_BYTES_MAX} are allowed"),
            );
        } else if self.kept.len() == ROWS_MAX {
            self.findings.error(Code::TooLarge, line, format!("more than {ROWS_MAX} rows"));
        } else {
            self.kept.push(Row { line, words, example });
        }
    }
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

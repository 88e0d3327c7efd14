//! What is wrong with the rows: collected by kind, with a count and the first lines of each. Who finds it is left to the readers and the doctor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits::{DETAIL_CHARS_MAX, DETAILS_SHOWN_MAX, LINES_SHOWN_MAX};

/// One kind of problem. The codes are part of the upload's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `misaligned_span`, `tag_scheme`, `duplicate_rows`, `leakage`, `label_typo`, `past_max_length`, `empty_row`, …
    pub code: String,
    pub message: String,
    pub count: usize,
    /// The first of them, from 1 (of a Parquet file: rows).
    pub lines: Vec<usize>,
}

/// Every kind of problem, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Code {
    InvalidUtf8,
    UnreadableRow,
    TagScheme,
    MisalignedSpan,
    OverlappingSpans,
    TooLarge,
    EmptySplit,
    OneLabel,
    MixedTagScheme,
    TrimmedSpan,
    SkippedRow,
    EmptyRow,
    BlankWord,
    LabelTypo,
    UnseenLabel,
    LabelKind,
    DuplicateRows,
    ConflictingLabels,
    Leakage,
    PastMaxLength,
}

impl Code {
    fn as_str(self) -> &'static str {
        self.describe().0
    }

    /// The code, and what it says of the rows or spans it counts.
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::InvalidUtf8 => ("invalid_utf8", "the text is not UTF-8"),
            Self::UnreadableRow => ("unreadable_row", "rows that cannot be read"),
            Self::TagScheme => ("tag_scheme", "rows with broken tags"),
            Self::MisalignedSpan => ("misaligned_span", "spans that do not fit the text's words"),
            Self::OverlappingSpans => ("overlapping_spans", "spans over words that have an entity already"),
            Self::TooLarge => ("too_large", "over a limit"),
            Self::EmptySplit => ("empty_split", "no rows"),
            Self::OneLabel => ("one_label", "nothing to tell apart"),
            Self::MixedTagScheme => ("mixed_tag_scheme", "entities that open with I- where others open with B-"),
            Self::TrimmedSpan => ("trimmed_span", "spans with spaces at an end, read without them"),
            Self::SkippedRow => ("skipped_row", "rows left out as their annotator wished"),
            Self::EmptyRow => ("empty_row", "rows without a word, left out"),
            Self::BlankWord => ("blank_word", "rows with words of spaces alone"),
            Self::LabelTypo => ("label_typo", "labels that differ from another by little"),
            Self::UnseenLabel => ("unseen_label", "labels that the training split lacks"),
            Self::LabelKind => ("label_kind", "one label a row here, sets of labels elsewhere"),
            Self::DuplicateRows => ("duplicate_rows", "rows that are there already"),
            Self::ConflictingLabels => ("conflicting_labels", "rows that are there already with other labels"),
            Self::Leakage => ("leakage", "rows that another split has too"),
            Self::PastMaxLength => ("past_max_length", "rows longer than training reads"),
        }
    }
}

/// Errors and warnings as they are found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    errors: BTreeMap<Code, Tally>,
    warnings: BTreeMap<Code, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    lines: Lines,
    details: Vec<String>,
}

/// Lines by their number, of which the first are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    pub(super) count: usize,
    first: Vec<usize>,
}

impl Lines {
    /// `line` 0 counts, and is no line.
    pub(super) fn add(&mut self, line: usize) {
        self.count += 1;
        if line > 0 && self.first.len() < LINES_SHOWN_MAX && self.first.last() != Some(&line) {
            self.first.push(line);
        }
    }

    fn add_all(&mut self, others: &Self) {
        others.first.iter().for_each(|line| self.add(*line));
        self.count += others.count - others.first.len();
    }
}

impl FromIterator<usize> for Lines {
    fn from_iter<T: IntoIterator<Item = usize>>(numbers: T) -> Self {
        let mut lines = Self::default();
        numbers.into_iter().for_each(|line| lines.add(line));
        lines
    }
}

impl Findings {
    /// `line` 0: of the whole file.
    pub(super) fn error(&mut self, code: Code, line: usize, detail: impl Into<String>) {
        self.errors.entry(code).or_default().add(line, detail.into());
    }

    pub(super) fn warn(&mut self, code: Code, line: usize, detail: impl Into<String>) {
        self.warnings.entry(code).or_default().add(line, detail.into());
    }

    /// One thing to say of rows at several lines.
    pub(super) fn warn_of_lines(&mut self, code: Code, lines: &Lines, detail: &str) {
        if lines.count > 0 {
            let tally = self.warnings.entry(code).or_default();
            tally.lines.add_all(lines);
            tally.explain(detail.to_owned());
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// (errors, warnings), worst first.
    pub(super) fn finish(self) -> (Vec<Finding>, Vec<Finding>) {
        let list = |tallies: BTreeMap<Code, Tally>| tallies.into_iter().map(|(code, t)| t.finish(code)).collect();
        (list(self.errors), list(self.warnings))
    }
}

impl Tally {
    fn add(&mut self, line: usize, detail: String) {
        self.lines.add(line);
        if !detail.is_empty() && self.details.len() < DETAILS_SHOWN_MAX {
            self.explain(if line > 0 { format!("line {line}: {detail}") } else { detail });
        }
    }

    fn explain(&mut self, mut detail: String) {
        if detail.is_empty() || self.details.len() == DETAILS_SHOWN_MAX {
            return;
        }
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(end);
            detail.push('…');
        }
        self.details.push(detail);
    }

    fn finish(self, code: Code) -> Finding {
        let mut message = code.describe().1.to_owned();
        if !self.details.is_empty() {
            message = format!("{message}: {}", self.details.join("; "));
        }
        if self.details.len() == DETAILS_SHOWN_MAX && self.lines.count > DETAILS_SHOWN_MAX {
            message.push_str("; …");
        }
        Finding { code: code.as_str().to_owned(), message, count: self.lines.count, lines: self.lines.first }
    }
}

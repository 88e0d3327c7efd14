//! What is wrong with the rows: collected by kind, with a count and the first lines of each. Who finds it is left to the readers and the doctor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits::{DETAIL_CHARS_MAX, DETAILS_SHOWN_MAX, LINES_SHOWN_MAX, SAMPLES_SHOWN_MAX};
use super::place::Place;

/// One kind of problem. The codes are part of the upload's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `misaligned_span`, `tag_scheme`, `duplicate_rows`, `leakage`, `label_typo`, `past_max_length`, `empty_row`, …
    pub code: String,
    pub message: String,
    pub count: usize,
    /// The lines of the first of them, from 1 (of a Parquet file: rows).
    pub lines: Vec<usize>,
    /// Of the first of them: its line, its number among the rows, and the id that the file gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// The first of them, each with what is to be said of it.
    #[serde(default)]
    pub samples: Vec<Sample>,
}

/// One row that a finding is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// What was found there; empty where the finding's message says all.
    pub detail: String,
}

/// Every kind of problem, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Code {
    ForeignFormat,
    OtherFamily,
    InvalidUtf8,
    UnknownColumn,
    TooManySkipped,
    UnreadableRow,
    TagScheme,
    MisalignedSpan,
    OverlappingSpans,
    TooLarge,
    EmptySplit,
    OneLabel,
    Encoding,
    MixedTagScheme,
    TrimmedSpan,
    WidenedSpan,
    SplitWord,
    StaleText,
    UnreadRegion,
    UnreadResult,
    FurtherAnnotations,
    ColumnChoice,
    NoHeader,
    QuotedCell,
    RaggedRow,
    Comment,
    ListCell,
    SingleLists,
    SeparatedLabels,
    NumericLabels,
    UnknownClass,
    TrimmedLabel,
    UnusedOption,
    UnlabelledRow,
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
            Self::ForeignFormat => ("foreign_format", "the file is of another kind"),
            Self::OtherFamily => ("other_family", "the data is of another family"),
            Self::InvalidUtf8 => ("invalid_utf8", "rows with bytes that are not UTF-8"),
            Self::UnknownColumn => ("unknown_column", "a column that is not there"),
            Self::TooManySkipped => ("too_many_skipped", "more rows cannot be read than may be left out"),
            Self::UnreadableRow => ("unreadable_row", "rows that cannot be read"),
            Self::TagScheme => ("tag_scheme", "rows with broken tags"),
            Self::MisalignedSpan => ("misaligned_span", "spans that do not fit the text's words"),
            Self::OverlappingSpans => ("overlapping_spans", "spans over words that have an entity already"),
            Self::TooLarge => ("too_large", "over a limit"),
            Self::EmptySplit => ("empty_split", "no rows"),
            Self::OneLabel => ("one_label", "nothing to tell apart"),
            Self::MixedTagScheme => ("mixed_tag_scheme", "entities that open with I- where others open with B-"),
            Self::TrimmedSpan => ("trimmed_span", "spans with spaces at an end, read without them"),
            Self::Encoding => ("encoding", "the text is not UTF-8, and was read in another encoding"),
            Self::WidenedSpan => ("widened_span", "spans that end inside a word, read to the end of the word"),
            Self::SplitWord => ("split_word", "words with more than one span, parted between the spans"),
            Self::StaleText => ("stale_text", "spans whose text is not what their offsets hold; the offsets were read"),
            Self::UnreadRegion => ("unread_region", "rows left out: they have regions of a kind that is not read"),
            Self::UnreadResult => ("unread_result", "annotations of a kind that this family does not read"),
            Self::FurtherAnnotations => ("further_annotations", "rows with several annotations, of which one was read"),
            Self::ColumnChoice => ("column_choice", "columns were chosen among several"),
            Self::NoHeader => ("no_header", "the file has no header; its first line was read as a row"),
            Self::QuotedCell => ("quoted_cell", "cells in quotes, read without them"),
            Self::RaggedRow => ("ragged_row", "rows with more or fewer separators than the header, read nonetheless"),
            Self::Comment => ("comment", "comment lines, left out"),
            Self::ListCell => ("list_cell", "cells that hold a list as a program prints it, read as a list"),
            Self::SingleLists => ("single_lists", "lists of one label each were read as sets of labels"),
            Self::SeparatedLabels => ("separated_labels", "labels that look like several, read as one"),
            Self::NumericLabels => ("numeric_labels", "labels are whole numbers without names"),
            Self::UnknownClass => ("unknown_class", "whole numbers outside the names that the file declares"),
            Self::TrimmedLabel => ("trimmed_label", "labels with blanks at an end, read without them"),
            Self::UnusedOption => ("unused_option", "an option had no effect"),
            Self::UnlabelledRow => ("unlabelled_row", "rows without a label, left out"),
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
    /// Errors of single rows: with `on_error=skip` they may become warnings.
    refused: BTreeMap<Code, Tally>,
    refused_rows: usize,
    last_refused: usize,
    warnings: BTreeMap<Code, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    lines: Lines,
    samples: Vec<Told>,
}

/// What is said of one row, or of all that a kind of finding counts.
#[derive(Debug)]
struct Told {
    place: Option<Place>,
    detail: String,
    /// The place is but the first of those it is said of.
    of_many: bool,
}

/// Rows by their place, of which the first are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    pub(super) count: usize,
    first: Vec<Place>,
}

impl Lines {
    /// The whole file counts, and is no place.
    pub(super) fn add(&mut self, place: &Place) {
        self.count += 1;
        if !place.is_file() && self.first.len() < LINES_SHOWN_MAX && self.first.last() != Some(place) {
            self.first.push(place.clone());
        }
    }

    fn add_all(&mut self, others: &Self) {
        others.first.iter().for_each(|place| self.add(place));
        self.count += others.count - others.first.len();
    }
}

impl<'a> FromIterator<&'a Place> for Lines {
    fn from_iter<T: IntoIterator<Item = &'a Place>>(places: T) -> Self {
        let mut lines = Self::default();
        places.into_iter().for_each(|place| lines.add(place));
        lines
    }
}

impl Findings {
    /// What refuses the whole file.
    pub(super) fn error(&mut self, code: Code, place: &Place, detail: impl Into<String>) {
        self.errors.entry(code).or_default().add(place, detail.into());
    }

    /// What refuses one row.
    pub(super) fn refuse(&mut self, code: Code, place: &Place, detail: impl Into<String>) {
        self.refused.entry(code).or_default().add(place, detail.into());
        if self.refused_rows == 0 || self.last_refused != place.row {
            self.refused_rows += 1;
            self.last_refused = place.row;
        }
    }

    pub(super) fn warn(&mut self, code: Code, place: &Place, detail: impl Into<String>) {
        self.warnings.entry(code).or_default().add(place, detail.into());
    }

    /// One thing to say of rows at several places.
    pub(super) fn warn_of_lines(&mut self, code: Code, lines: &Lines, detail: &str) {
        if lines.count > 0 {
            let tally = self.warnings.entry(code).or_default();
            tally.lines.add_all(lines);
            tally.explain(lines.first.first().cloned(), detail.to_owned(), true);
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty() || !self.refused.is_empty()
    }

    /// Rows that were refused, each once.
    pub(super) fn refused_rows(&self) -> usize {
        self.refused_rows
    }

    /// What refused single rows becomes a warning.
    pub(super) fn forgive_rows(&mut self) {
        for (code, tally) in std::mem::take(&mut self.refused) {
            self.warnings.entry(code).or_default().append(tally);
        }
    }

    /// (errors, warnings), worst first.
    pub(super) fn finish(mut self) -> (Vec<Finding>, Vec<Finding>) {
        for (code, tally) in std::mem::take(&mut self.refused) {
            self.errors.entry(code).or_default().append(tally);
        }
        let list = |tallies: BTreeMap<Code, Tally>| tallies.into_iter().map(|(code, t)| t.finish(code)).collect();
        (list(self.errors), list(self.warnings))
    }
}

impl Tally {
    fn add(&mut self, place: &Place, detail: String) {
        self.lines.add(place);
        self.explain((!place.is_file()).then(|| place.clone()), detail, false);
    }

    fn append(&mut self, other: Self) {
        self.lines.add_all(&other.lines);
        other.samples.into_iter().for_each(|told| self.explain(told.place, told.detail, told.of_many));
    }

    fn explain(&mut self, place: Option<Place>, mut detail: String, of_many: bool) {
        if self.samples.len() == SAMPLES_SHOWN_MAX || (place.is_none() && detail.is_empty()) {
            return;
        }
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(end);
            detail.push('…');
        }
        self.samples.push(Told { place, detail, of_many });
    }

    fn finish(self, code: Code) -> Finding {
        let first = self.lines.first.first();
        let mut lines: Vec<usize> = self.lines.first.iter().map(|place| place.line).filter(|line| *line > 0).collect();
        lines.dedup();
        Finding {
            code: code.as_str().to_owned(),
            message: self.message(code),
            count: self.lines.count,
            lines,
            line: first.and_then(line),
            row: first.and_then(row),
            task_id: first.and_then(task_id),
            samples: self.samples.iter().map(Told::sample).collect(),
        }
    }

    fn message(&self, code: Code) -> String {
        let explained = self.samples.iter().filter(|told| !told.detail.is_empty());
        let shown: Vec<String> = explained.take(DETAILS_SHOWN_MAX).map(ToString::to_string).collect();
        let mut message = code.describe().1.to_owned();
        if !shown.is_empty() {
            message = format!("{message}: {}", shown.join("; "));
        }
        if shown.len() == DETAILS_SHOWN_MAX && self.lines.count > DETAILS_SHOWN_MAX {
            message.push_str("; …");
        }
        message
    }
}

fn line(place: &Place) -> Option<usize> {
    (place.line > 0).then_some(place.line)
}

fn row(place: &Place) -> Option<usize> {
    (place.row > 0).then_some(place.row)
}

fn task_id(place: &Place) -> Option<String> {
    place.task_id.as_deref().map(str::to_owned)
}

impl Told {
    fn sample(&self) -> Sample {
        let place = self.place.as_ref();
        Sample {
            line: place.and_then(line),
            row: place.and_then(row),
            task_id: place.and_then(task_id),
            detail: self.detail.clone(),
        }
    }
}

/// `line 3: tag "PER"`.
impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(place) = self.place.as_ref().filter(|_| !self.of_many) {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.detail)
    }
}

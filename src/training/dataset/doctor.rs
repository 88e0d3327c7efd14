//! What can be wrong with rows that were read: empty splits, labels, duplicates, leakage, length. Errors of single rows are their readers'.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::domain::{Cancel, Excerpt, Result};

use super::findings::{Code, Findings, Lines};
use super::limits::{PREVIEW_ROWS, ROWS_A_LOOK, SKIPPED_SHARE_MAX};
use super::options::OnError;
use super::others::{OtherSplits, fingerprint};
use super::place::Place;
use super::preview::PreviewRow;
use super::report::DoctorReport;
use super::row::{Row, Rows};
use super::typos::typos;
use super::{DatasetFamily, Example, Reading};

/// The split that training reads, by the contract's convention.
pub(super) const TRAIN: &str = "train";

/// Looks at all rows, and takes the findings out of `rows`. Of a file that was read in part, as a bound ended it, what was read is
/// counted and no more. Fails once the work is not wanted any more.
pub(super) fn examine(rows: &mut Rows, format: &str, reading: Reading<'_>, cancel: &Cancel) -> Result<DoctorReport> {
    let Reading { split, others, max_length, .. } = reading;
    let mut findings = std::mem::take(&mut rows.findings);
    std::mem::take(&mut rows.schemes).report(&mut findings);
    let skipped = skip_rows(rows, &mut findings);
    if !rows.is_cut() {
        check_amount(rows, split, others, &mut findings);
        check_labels(rows, others, &mut findings);
        rows.report_readings(&mut findings);
        check_rows(&rows.kept, others, max_length, cancel, &mut findings)?;
    }
    let (errors, warnings) = findings.finish();
    Ok(DoctorReport {
        family: rows.family.to_string(),
        format: format.to_owned(),
        rows: rows.kept.len(),
        skipped,
        tokens: rows.kept.iter().map(|row| row.words).sum(),
        labels: rows.labels.iter().map(|(label, lines)| (label.clone(), lines.count)).collect(),
        multi_label: rows.multi_label(),
        longest_row_tokens: rows.kept.iter().map(|row| row.words).max().unwrap_or(0),
        preview: rows.kept.iter().take(PREVIEW_ROWS).map(|row| PreviewRow::of(row, rows.multi_label())).collect(),
        errors,
        warnings,
    })
}

/// How many rows are left out, where the caller asked for it and enough of them are good.
fn skip_rows(rows: &Rows, findings: &mut Findings) -> usize {
    let bad = findings.refused_rows();
    if rows.options.on_error == OnError::Refuse || bad == 0 {
        return 0;
    }
    let seen = rows.seen();
    if rows.kept.is_empty() || bad as f64 > SKIPPED_SHARE_MAX * seen as f64 {
        let most = 100.0 * SKIPPED_SHARE_MAX;
        let message = format!("{bad} of {seen}; at most {most}% may be, and one row must be good");
        findings.error(Code::TooManySkipped, &Place::file(), message);
        return 0;
    }
    findings.forgive_rows();
    bad
}

/// Rows there must be, and something to tell apart where training reads them: in `train`, or in a split that stands alone.
fn check_amount(rows: &Rows, split: &str, others: OtherSplits<'_>, findings: &mut Findings) {
    if rows.kept.is_empty() {
        if !findings.has_errors() {
            findings.error(Code::EmptySplit, &Place::file(), ""); // else all rows were refused, which says more
        }
        return;
    }
    let Some(sameness) = sameness(rows) else { return };
    if split == TRAIN || others.is_empty() {
        findings.error(Code::OneLabel, &Place::file(), sameness);
    } else {
        findings.warn(Code::OneLabel, &Place::file(), sameness);
    }
}

/// Why no model can learn from these rows. One entity type is enough for NER: words outside are the other class.
fn sameness(rows: &Rows) -> Option<String> {
    let labels = &rows.labels;
    match rows.family {
        DatasetFamily::Ner => labels.is_empty().then(|| "no row has an entity".to_owned()),
        DatasetFamily::Classify if labels.is_empty() => Some("no row has a label".to_owned()),
        DatasetFamily::Classify => {
            let only = labels.keys().next().filter(|_| labels.len() == 1)?;
            let everywhere = rows.kept.iter().all(|row| row.example.labels().count() == 1);
            everywhere.then(|| format!("every row has the label {:?}", Excerpt(only)))
        }
        DatasetFamily::Pairs => None,
    }
}

fn check_labels(rows: &Rows, others: OtherSplits<'_>, findings: &mut Findings) {
    let labels: BTreeMap<&str, &Lines> = rows.labels.iter().map(|(label, lines)| (label.as_str(), lines)).collect();
    for (rare, frequent) in typos(&labels.iter().map(|(label, lines)| (*label, lines.count)).collect()) {
        let shown = |label| format!("{:?} ({})", Excerpt(label), labels[label].count);
        findings.warn_of_lines(Code::LabelTypo, labels[rare], &format!("{} and {}", shown(rare), shown(frequent)));
    }
    check_separated(rows, findings);
    let Some(train) = others.iter().find(|other| other.name == TRAIN) else { return };
    for (unseen, lines) in labels.iter().filter(|(label, _)| !train.labels.contains(**label)) {
        findings.warn_of_lines(Code::UnseenLabel, lines, &format!("{:?}", Excerpt(unseen)));
    }
    if rows.family == DatasetFamily::Classify && rows.multi_label() != train.multi_label {
        findings.warn(
            Code::LabelKind,
            &Place::file(),
            format!("training rows have {}", if train.multi_label { "sets" } else { "one label each" }),
        );
    }
}

/// Labels like `late|rude` where `late` is a label, too: the caller says whether they are several.
fn check_separated(rows: &Rows, findings: &mut Findings) {
    if rows.family != DatasetFamily::Classify || rows.options.multi_label.is_some() {
        return;
    }
    for (label, lines) in &rows.labels {
        let Some(sign) = ['|', ';', ','].into_iter().find(|sign| label.contains(*sign)) else { continue };
        if label.split(sign).any(|part| rows.labels.contains_key(part.trim())) {
            let hint = format!("{:?} (multi_label=true parts cells at {sign:?})", Excerpt(label));
            findings.warn_of_lines(Code::SeparatedLabels, lines, &hint);
        }
    }
}

/// Each row by itself and beside those before it, while this is wanted.
fn check_rows(
    rows: &[Row],
    others: OtherSplits<'_>,
    max_length: usize,
    cancel: &Cancel,
    findings: &mut Findings,
) -> Result<()> {
    let mut seen = HashMap::new();
    for some in rows.chunks(ROWS_A_LOOK) {
        cancel.check()?;
        for row in some {
            let fingerprint = fingerprint(&row.example);
            check_duplicate(row, fingerprint, &mut seen, findings);
            check_leakage(row, fingerprint, others, findings);
        }
    }
    check_length(rows, max_length, findings);
    Ok(())
}

fn check_duplicate<'a>(row: &'a Row, fingerprint: u64, seen: &mut HashMap<u64, &'a Row>, findings: &mut Findings) {
    match seen.get(&fingerprint) {
        Some(first) if first.example.same_answer(&row.example) => {
            findings.warn(Code::DuplicateRows, &row.place, format!("as {}", first.place));
        }
        Some(first) => findings.warn(Code::ConflictingLabels, &row.place, format!("as {}", first.place)),
        None => {
            seen.insert(fingerprint, row);
        }
    }
}

fn check_leakage(row: &Row, fingerprint: u64, others: OtherSplits<'_>, findings: &mut Findings) {
    for other in others.iter().filter(|other| other.has(fingerprint)) {
        findings.warn(Code::Leakage, &row.place, format!("in {:?} too", other.name));
    }
}

fn check_length(rows: &[Row], max_length: usize, findings: &mut Findings) {
    let long: Lines = rows.iter().filter(|row| row.words > max_length).map(|row| &row.place).collect();
    let share = 100.0 * long.count as f64 / rows.len() as f64;
    findings.warn_of_lines(Code::PastMaxLength, &long, &format!("{share:.1}% have over {max_length} words"));
    let blank = rows.iter().filter(|row| row.example.has_blank_word()).map(|row| &row.place).collect();
    findings.warn_of_lines(Code::BlankWord, &blank, "");
}

impl Example {
    fn same_answer(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ner { tags, .. }, Self::Ner { tags: others, .. }) => tags == others,
            (Self::Classify { labels, .. }, Self::Classify { labels: others, .. }) => {
                labels.iter().collect::<HashSet<_>>() == others.iter().collect::<HashSet<_>>()
            }
            (Self::Pair { label, score, .. }, Self::Pair { label: label_b, score: score_b, .. }) => {
                label == label_b && score == score_b
            }
            _ => false,
        }
    }

    fn has_blank_word(&self) -> bool {
        matches!(self, Self::Ner { words, .. } if words.iter().any(|word| word.trim().is_empty()))
    }
}

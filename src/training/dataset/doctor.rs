//! What can be wrong with rows that were read: empty splits, labels, duplicates, leakage, length. Errors of single rows are their readers'.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::findings::{Code, Findings};
use super::limits::LABELS_MAX;
use super::report::DoctorReport;
use super::row::{Row, Rows};
use super::typos::typos;
use super::{DatasetFamily, Example, OtherSplits};

/// The split that training reads, by the contract's convention.
pub(super) const TRAIN: &str = "train";

/// Looks at all rows, and takes the findings out of `rows`.
pub(super) fn examine(
    rows: &mut Rows,
    format: &str,
    split: &str,
    others: OtherSplits<'_>,
    max_length: usize,
) -> DoctorReport {
    let mut findings = std::mem::take(&mut rows.findings);
    std::mem::take(&mut rows.schemes).report(&mut findings);
    let labels = count_labels(&rows.kept);
    check_amount(rows, &labels, split, others, &mut findings);
    check_labels(rows, &labels, others, &mut findings);
    check_duplicates(&rows.kept, &mut findings);
    check_leakage(&rows.kept, others, &mut findings);
    check_length(&rows.kept, max_length, &mut findings);
    let (errors, warnings) = findings.finish();
    DoctorReport {
        family: rows.family.to_string(),
        format: format.to_owned(),
        rows: rows.kept.len(),
        tokens: rows.kept.iter().map(|row| row.words).sum(),
        labels: labels.into_iter().map(|(label, count)| (label.to_owned(), count)).collect(),
        multi_label: rows.multi_label,
        longest_row_tokens: rows.kept.iter().map(|row| row.words).max().unwrap_or(0),
        errors,
        warnings,
    }
}

fn count_labels(rows: &[Row]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    rows.iter().flat_map(|row| row.example.labels()).for_each(|label| *counts.entry(label).or_default() += 1);
    counts
}

/// Rows there must be, and something to tell apart where training reads them: in `train`, or in a split that stands alone.
fn check_amount(
    rows: &Rows,
    labels: &BTreeMap<&str, usize>,
    split: &str,
    others: OtherSplits<'_>,
    findings: &mut Findings,
) {
    if rows.kept.is_empty() {
        if !findings.has_errors() {
            findings.error(Code::EmptySplit, 0, ""); // else all rows were refused, which says more
        }
        return;
    }
    if labels.len() > LABELS_MAX {
        findings.error(Code::TooLarge, 0, format!("{} labels; at most {LABELS_MAX} are allowed", labels.len()));
    }
    let Some(sameness) = sameness(rows, labels) else { return };
    if split == TRAIN || others.is_empty() {
        findings.error(Code::OneLabel, 0, sameness);
    } else {
        findings.warn(Code::OneLabel, 0, sameness);
    }
}

/// Why no model can learn from these rows. One entity type is enough for NER: words outside are the other class.
fn sameness(rows: &Rows, labels: &BTreeMap<&str, usize>) -> Option<String> {
    let only = labels.keys().next().copied().unwrap_or_default();
    match rows.family {
        DatasetFamily::Ner => labels.is_empty().then(|| "no row has an entity".to_owned()),
        DatasetFamily::Classify if labels.is_empty() => Some("no row has a label".to_owned()),
        DatasetFamily::Classify => {
            let everywhere = labels.len() == 1 && rows.kept.iter().all(|row| row.example.labels().count() == 1);
            everywhere.then(|| format!("every row has the label {only:?}"))
        }
        DatasetFamily::Pairs => None,
    }
}

fn check_labels(rows: &Rows, labels: &BTreeMap<&str, usize>, others: OtherSplits<'_>, findings: &mut Findings) {
    let mut lines: HashMap<&str, Vec<usize>> = HashMap::new();
    for row in &rows.kept {
        row.example.labels().for_each(|label| lines.entry(label).or_default().push(row.line));
    }
    for (rare, frequent) in typos(labels) {
        let detail = format!("{rare:?} ({}) and {frequent:?} ({})", labels[rare], labels[frequent]);
        findings.warn_of_lines(Code::LabelTypo, lines[rare].iter().copied(), &detail);
    }
    let Some((_, train)) = others.iter().find(|(name, _)| *name == TRAIN) else { return };
    let known: HashSet<&str> = train.examples.iter().flat_map(Example::labels).collect();
    for unseen in labels.keys().filter(|label| !known.contains(**label)) {
        findings.warn_of_lines(Code::UnseenLabel, lines[unseen].iter().copied(), &format!("{unseen:?}"));
    }
    if rows.family == DatasetFamily::Classify && rows.multi_label != train.multi_label {
        findings.warn(
            Code::LabelKind,
            0,
            format!("training rows have {}", if train.multi_label { "sets" } else { "one label each" }),
        );
    }
}

fn check_duplicates(rows: &[Row], findings: &mut Findings) {
    let mut seen: HashMap<u64, &Row> = HashMap::with_capacity(rows.len());
    for row in rows {
        match seen.get(&fingerprint(&row.example)) {
            Some(first) if first.example.same_answer(&row.example) => {
                findings.warn(Code::DuplicateRows, row.line, format!("as line {}", first.line));
            }
            Some(first) => findings.warn(Code::ConflictingLabels, row.line, format!("as line {}", first.line)),
            None => {
                seen.insert(fingerprint(&row.example), row);
            }
        }
    }
}

fn check_leakage(rows: &[Row], others: OtherSplits<'_>, findings: &mut Findings) {
    for (name, split) in others {
        let theirs: HashSet<u64> = split.examples.iter().map(fingerprint).collect();
        for row in rows.iter().filter(|row| theirs.contains(&fingerprint(&row.example))) {
            findings.warn(Code::Leakage, row.line, format!("in {name:?} too"));
        }
    }
}

fn check_length(rows: &[Row], max_length: usize, findings: &mut Findings) {
    let long: Vec<usize> = rows.iter().filter(|row| row.words > max_length).map(|row| row.line).collect();
    let share = 100.0 * long.len() as f64 / rows.len() as f64;
    let detail = format!("{share:.1}% have over {max_length} words");
    findings.warn_of_lines(Code::PastMaxLength, long.into_iter(), &detail);
    let blank = rows.iter().filter(|row| row.example.has_blank_word()).map(|row| row.line);
    findings.warn_of_lines(Code::BlankWord, blank, "");
}

/// Of what a model reads, without the answer. 64 bits: a false alarm needs billions of rows, and is a warning.
fn fingerprint(example: &Example) -> u64 {
    let mut hasher = DefaultHasher::new();
    match example {
        Example::Ner { words, .. } => words.hash(&mut hasher),
        Example::Classify { text, text_pair, .. } => {
            (text.trim(), text_pair.as_deref().map(str::trim)).hash(&mut hasher)
        }
        Example::Pair { a, b, .. } => (a.trim(), b.trim()).hash(&mut hasher),
    }
    hasher.finish()
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

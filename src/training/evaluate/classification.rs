//! Scores, confusions and errors of classified rows, as scikit-learn's `classification_report` has them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::scores::{LabelCounts, Scores, Summary, ratio};
use super::{Confusions, WorstError};

/// What a confusion says where one side has no label (multi-label rows alone).
const NO_LABEL: &str = "(none)";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassificationReport {
    /// Share of rows whose labels are exactly right.
    pub accuracy: f64,
    /// Over all labels at once; for single-label rows all three of its figures are the accuracy.
    #[serde(default)]
    pub micro: Scores,
    pub macro_average: Scores,
    pub weighted: Scores,
    pub per_label: BTreeMap<String, Scores>,
}

/// One evaluated row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassificationRow {
    pub text: String,
    /// One label, or a set of them.
    pub gold: Vec<String>,
    pub predicted: Vec<String>,
    /// How sure the prediction was: the predicted label's score; of a set the score that is furthest from its gold value.
    pub score: f32,
}

/// Gold and predicted label sets, one a row (single-label: one each). Averages are over the labels that are in either.
/// A multi-label row is right if the whole set is; in a single-label one the first label counts alone.
pub fn evaluate_classification(
    gold: &[Vec<String>],
    predicted: &[Vec<String>],
    multi_label: bool,
) -> ClassificationReport {
    let mut counts = LabelCounts::new();
    let mut right = 0;
    for (gold, predicted) in gold.iter().zip(predicted) {
        let (gold, predicted) = (label_set(gold, multi_label), label_set(predicted, multi_label));
        gold.iter().for_each(|label| counts.entry((*label).to_owned()).or_default().gold += 1);
        predicted.iter().for_each(|label| counts.entry((*label).to_owned()).or_default().predicted += 1);
        gold.intersection(&predicted).for_each(|label| counts.entry((*label).to_owned()).or_default().hits += 1);
        right += usize::from(gold == predicted);
    }
    let Summary { micro, macro_average, weighted, per_label } = Summary::of(&counts);
    let accuracy = ratio(right as f64, gold.len() as f64);
    ClassificationReport { accuracy, micro, macro_average, weighted, per_label }
}

fn label_set(labels: &[String], multi_label: bool) -> BTreeSet<&str> {
    labels.iter().map(String::as_str).take(if multi_label { usize::MAX } else { 1 }).collect()
}

/// Each label the row lacks against each it has too many; against `(none)` where there is no other.
pub(super) fn confuse(row: &ClassificationRow, confusions: &mut Confusions) {
    let (missed, extra) = (without(&row.gold, &row.predicted), without(&row.predicted, &row.gold));
    if missed.is_empty() && extra.is_empty() {
        return;
    }
    let or_none = |labels: Vec<String>| if labels.is_empty() { vec![NO_LABEL.to_owned()] } else { labels };
    let (missed, extra) = (or_none(missed), or_none(extra));
    missed.iter().for_each(|gold| extra.iter().for_each(|predicted| confusions.add(gold, predicted)));
}

fn without(labels: &[String], others: &[String]) -> Vec<String> {
    labels.iter().filter(|label| !others.contains(label)).cloned().collect()
}

/// The row as an error, if its labels are not exactly right.
pub(super) fn error(row: &ClassificationRow) -> Option<WorstError> {
    let as_set = |labels: &[String]| labels.iter().cloned().collect::<BTreeSet<_>>();
    let (gold, predicted) = (as_set(&row.gold), as_set(&row.predicted));
    (gold != predicted).then(|| WorstError {
        text: row.text.clone(),
        gold: name(gold),
        predicted: name(predicted),
        score: f64::from(row.score),
    })
}

fn name(labels: BTreeSet<String>) -> String {
    if labels.is_empty() { NO_LABEL.to_owned() } else { labels.into_iter().collect::<Vec<_>>().join(", ") }
}

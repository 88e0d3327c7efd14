//! Evaluation: entity F1 as seqeval counts it (default mode, and strict IOB2), classification as scikit-learn does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub support: usize,
}

/// Entity-level scores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NerReport {
    pub micro: Scores,
    pub macro_average: Scores,
    pub weighted: Scores,
    pub per_label: BTreeMap<String, Scores>,
    /// The same under strict IOB2.
    pub strict: Option<Box<NerReport>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassificationReport {
    pub accuracy: f64,
    pub macro_average: Scores,
    pub weighted: Scores,
    pub per_label: BTreeMap<String, Scores>,
}

/// The evaluation report of the contract.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub family: String,
    pub dataset: String,
    pub rows: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ner: Option<NerReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classification: Option<ClassificationReport>,
    /// (gold, predicted, count), most frequent first.
    pub confusions: Vec<Confusion>,
    /// The ten worst.
    pub worst_errors: Vec<WorstError>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    pub gold: String,
    pub predicted: String,
    pub count: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorstError {
    pub text: String,
    pub gold: String,
    pub predicted: String,
    /// The loss, or the score of the wrong answer.
    pub score: f64,
}

impl Evaluation {
    /// The figure a gate asks for; None if the family has no such metric.
    pub fn metric(&self, metric: crate::domain::GateMetric) -> Option<f64> {
        let _ = metric;
        todo!()
    }
}

/// Gold and predicted tags, one list a sentence.
pub fn evaluate_ner(gold: &[Vec<String>], predicted: &[Vec<String>]) -> NerReport {
    let _ = (gold, predicted);
    todo!()
}

/// Gold and predicted label sets, one a row (single-label: one each). Rows' labels are those of `labels`.
pub fn evaluate_classification(
    gold: &[Vec<String>],
    predicted: &[Vec<String>],
    multi_label: bool,
) -> ClassificationReport {
    let _ = (gold, predicted, multi_label);
    todo!()
}

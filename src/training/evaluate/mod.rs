//! Evaluation: entity F1 as seqeval counts it (default mode, and strict IOB2), classification as scikit-learn does.
//! Pure: who predicts, and what a gate makes of the figures, is left to others.

mod classification;
mod interval;
mod ner;
mod scores;
mod spans;
mod table;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::domain::{Family, GateMetric};
use interval::Sample;

pub(in crate::training) use interval::CONFIDENCE;

pub use classification::{ClassificationReport, ClassificationRow, evaluate_classification};
pub use ner::{NerReport, NerRow, evaluate_ner};
pub use scores::Scores;
pub use spans::{Span, spans};

/// A report is read by people: the ten worst, as the contract has it.
const WORST_ERRORS_MAX: usize = 10;

/// Confusions of a report; 150 classes can be confused in 22,350 ways.
const CONFUSIONS_MAX: usize = 100;

/// Characters of a text in a report; the rest of a long document helps nobody.
const ERROR_TEXT_CHARS_MAX: usize = 500;

/// The evaluation report of the contract.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub family: String,
    pub dataset: String,
    pub rows: usize,
    /// How these rows were kept apart from what was trained on.
    #[serde(default)]
    pub method: Method,
    /// Where the true figure of `interval_metric` lies with a probability of `confidence`: low and high.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_metric: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ner: Option<NerReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<ClassificationReport>,
    /// Most frequent first. NER: types of entities on the same words; `O` for a missed or made-up one.
    pub confusions: Vec<Confusion>,
    /// The ten wrong rows that the model was surest of, surest first.
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
    /// The score of the wrong answer.
    pub score: f64,
}

/// How evaluated rows were kept apart from those that were trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// They are a split of their own, or were held out.
    #[default]
    Split,
    /// Each was answered by a model that was trained without it; the adapter itself has seen them all.
    CrossValidation,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::CrossValidation => "cross_validation",
        }
    }
}

/// What the interval of a report is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::training) struct Asked {
    pub(in crate::training) metric: GateMetric,
    /// 0 to 1.
    pub(in crate::training) confidence: f64,
}

impl Asked {
    /// What a task is usually measured by.
    pub(in crate::training) fn usual(family: Family, label_sets: bool) -> Self {
        let metric = match family {
            Family::Ner => GateMetric::F1,
            Family::Classify if label_sets => GateMetric::MacroF1,
            Family::Classify => GateMetric::Accuracy,
        };
        Self { metric, confidence: CONFIDENCE }
    }
}

impl Evaluation {
    /// The report on tagged sentences. `dataset`: what they are called in it (`wnut17:dev`).
    pub fn ner(dataset: &str, rows: &[NerRow]) -> Self {
        Self::ner_about(dataset, rows, Asked::usual(Family::Ner, false))
    }

    pub(in crate::training) fn ner_about(dataset: &str, rows: &[NerRow], asked: Asked) -> Self {
        let gold: Vec<_> = rows.iter().map(|row| row.gold.clone()).collect();
        let predicted: Vec<_> = rows.iter().map(|row| row.predicted.clone()).collect();
        let mut confusions = Confusions::default();
        rows.iter().for_each(|row| ner::confuse(row, &mut confusions));
        Self {
            family: Family::Ner.to_string(),
            dataset: dataset.to_owned(),
            rows: rows.len(),
            ner: Some(evaluate_ner(&gold, &predicted)),
            confusions: confusions.most_frequent(),
            worst_errors: worst(rows.iter().filter_map(ner::error)),
            ..Self::default()
        }
        .with_interval(&Sample::of_ner(rows), asked)
    }

    /// The report on classified rows.
    pub fn classification(dataset: &str, rows: &[ClassificationRow], multi_label: bool) -> Self {
        Self::classification_about(dataset, rows, multi_label, Asked::usual(Family::Classify, multi_label))
    }

    pub(in crate::training) fn classification_about(
        dataset: &str,
        rows: &[ClassificationRow],
        multi_label: bool,
        asked: Asked,
    ) -> Self {
        let gold: Vec<_> = rows.iter().map(|row| row.gold.clone()).collect();
        let predicted: Vec<_> = rows.iter().map(|row| row.predicted.clone()).collect();
        let mut confusions = Confusions::default();
        rows.iter().for_each(|row| classification::confuse(row, &mut confusions));
        Self {
            family: Family::Classify.to_string(),
            dataset: dataset.to_owned(),
            rows: rows.len(),
            classification: Some(evaluate_classification(&gold, &predicted, multi_label)),
            confusions: confusions.most_frequent(),
            worst_errors: worst(rows.iter().filter_map(classification::error)),
            ..Self::default()
        }
        .with_interval(&Sample::of_classification(rows, multi_label), asked)
    }

    fn with_interval(self, sample: &Sample, asked: Asked) -> Self {
        Self {
            interval: sample.interval(asked.metric, asked.confidence),
            interval_metric: Some(asked.metric.as_str().to_owned()),
            confidence: Some(asked.confidence),
            ..self
        }
    }

    /// The figure a gate asks for; None if the family has no such metric.
    pub fn metric(&self, metric: GateMetric) -> Option<f64> {
        let of_ner = |report: &NerReport| match metric {
            GateMetric::F1 => Some(report.micro.f1),
            GateMetric::MacroF1 => Some(report.macro_average.f1),
            GateMetric::Precision => Some(report.micro.precision),
            GateMetric::Recall => Some(report.micro.recall),
            GateMetric::WeightedF1 | GateMetric::Accuracy => None,
        };
        let of_classification = |report: &ClassificationReport| match metric {
            GateMetric::Accuracy => Some(report.accuracy),
            GateMetric::F1 | GateMetric::MacroF1 => Some(report.macro_average.f1),
            GateMetric::WeightedF1 => Some(report.weighted.f1),
            GateMetric::Precision | GateMetric::Recall => None,
        };
        self.ner.as_ref().and_then(of_ner).or_else(|| self.classification.as_ref().and_then(of_classification))
    }
}

/// Counts (gold, predicted) pairs that differ.
#[derive(Default)]
struct Confusions(HashMap<(String, String), usize>);

impl Confusions {
    fn add(&mut self, gold: &str, predicted: &str) {
        *self.0.entry((gold.to_owned(), predicted.to_owned())).or_default() += 1;
    }

    fn most_frequent(self) -> Vec<Confusion> {
        let mut pairs: Vec<_> = self.0.into_iter().collect();
        pairs.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        pairs.truncate(CONFUSIONS_MAX);
        pairs.into_iter().map(|((gold, predicted), count)| Confusion { gold, predicted, count }).collect()
    }
}

fn worst(errors: impl Iterator<Item = WorstError>) -> Vec<WorstError> {
    let mut errors: Vec<_> = errors.collect();
    errors.sort_by(|a, b| b.score.total_cmp(&a.score)); // stable: equally sure ones keep the data's order
    errors.truncate(WORST_ERRORS_MAX);
    for error in &mut errors {
        shorten(&mut error.text);
        shorten(&mut error.gold);
        shorten(&mut error.predicted);
    }
    errors
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(ERROR_TEXT_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
}

//! Precision, recall and F1 from counts, and their averages. Knows neither spans nor rows; what counts as a hit is its neighbours' matter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A division by zero counts as 0, as with scikit-learn's `zero_division=0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// How many there are in the gold data.
    pub support: usize,
}

/// What one label got right, said, and should have said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) hits: usize,
    pub(super) predicted: usize,
    pub(super) gold: usize,
}

/// Counts of every label that is in the gold data or was predicted.
pub(super) type LabelCounts = BTreeMap<String, Counts>;

/// The averages over labels, and the labels themselves.
pub(super) struct Summary {
    pub(super) micro: Scores,
    pub(super) macro_average: Scores,
    pub(super) weighted: Scores,
    pub(super) per_label: BTreeMap<String, Scores>,
}

impl Counts {
    pub(super) fn plus(self, other: &Self) -> Self {
        Self { hits: self.hits + other.hits, predicted: self.predicted + other.predicted, gold: self.gold + other.gold }
    }

    pub(super) fn scores(self) -> Scores {
        let precision = ratio(self.hits as f64, self.predicted as f64);
        let recall = ratio(self.hits as f64, self.gold as f64);
        Scores { precision, recall, f1: ratio(2.0 * precision * recall, precision + recall), support: self.gold }
    }
}

impl Summary {
    pub(super) fn of(counts: &LabelCounts) -> Self {
        let per_label: BTreeMap<_, _> = counts.iter().map(|(label, c)| (label.clone(), c.scores())).collect();
        Self {
            micro: counts.values().fold(Counts::default(), Counts::plus).scores(),
            macro_average: average(&per_label, |_| 1.0),
            weighted: average(&per_label, |s| s.support as f64),
            per_label,
        }
    }
}

fn average(labels: &BTreeMap<String, Scores>, weight: impl Fn(&Scores) -> f64) -> Scores {
    let total: f64 = labels.values().map(&weight).sum();
    let mean = |figure: fn(&Scores) -> f64| ratio(labels.values().map(|s| weight(s) * figure(s)).sum(), total);
    Scores {
        precision: mean(|s| s.precision),
        recall: mean(|s| s.recall),
        f1: mean(|s| s.f1),
        support: labels.values().map(|s| s.support).sum(),
    }
}

pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

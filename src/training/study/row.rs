//! The result of one cell as `rows.jsonl` keeps it, a line each: enough to draw every table again without the data.

use serde::{Deserialize, Serialize};

use crate::domain::Family;
use crate::training::study::spec::{Share, ZeroShot};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// [`crate::training::study::Cell::id`].
    pub id: String,
    pub arm: String,
    pub strategy: String,
    pub family: String,
    pub set: String,
    pub share: Share,
    pub seed: u64,
    pub train_rows: usize,
    pub validation_rows: usize,
    pub test_rows: usize,
    /// Labels of the head.
    pub labels: usize,
    /// Trained numbers: LoRA and head.
    pub parameters: usize,
    /// Steps made, and the one whose weights were best on validation.
    pub steps: u64,
    pub best_step: u64,
    pub seconds: f64,
    /// Entity F1 (micro) or accuracy, on the test rows, from 0 to 1.
    pub score: f64,
    pub macro_f1: f64,
    /// The same as `score`, on the validation rows.
    pub validation_score: f64,
    pub outcomes: Outcomes,
    /// Digest of everything that decides the cell: rows, numbers, backbone, primary.
    pub inputs: String,
    pub backbone: String,
    /// Of the primary it started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Of the program.
    pub version: String,
}

/// How each test row came out, in the order of the test rows: what differences between arms are bootstrapped from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcomes {
    /// A `1` for each row with the right label, else a `0`.
    Right(String),
    /// Entities of each row: found, made up, missed.
    Spans(Vec<[u32; 3]>),
}

impl Outcomes {
    pub fn rows(&self) -> usize {
        match self {
            Self::Right(rows) => rows.len(),
            Self::Spans(rows) => rows.len(),
        }
    }

    /// Accuracy or micro F1 of the rows at these places; a place may come again.
    pub fn score(&self, places: impl Iterator<Item = usize>) -> f64 {
        match self {
            Self::Right(rows) => {
                let rows = rows.as_bytes();
                let (right, all) =
                    places.fold((0u64, 0u64), |(right, all), at| (right + u64::from(rows[at] == b'1'), all + 1));
                ratio(right as f64, all as f64)
            }
            Self::Spans(rows) => {
                let mut sums = [0u64; 3];
                places.for_each(|at| sums.iter_mut().zip(rows[at]).for_each(|(sum, count)| *sum += u64::from(count)));
                let [found, made_up, missed] = sums.map(|sum| sum as f64);
                ratio(2.0 * found, 2.0 * found + made_up + missed)
            }
        }
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

impl Row {
    pub fn is_of(&self, family: Family) -> bool {
        self.family == family.as_str()
    }
}

/// Names told without a single example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZeroShotRow {
    pub arm: String,
    pub strategy: String,
    pub family: String,
    pub set: String,
    pub split: String,
    pub rows: usize,
    /// Names to choose from.
    pub names: usize,
    /// Entity F1 (micro) or accuracy.
    pub score: f64,
    /// Of entities alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// How a name or a text was compared.
    pub method: String,
    pub backbone: String,
}

impl ZeroShotRow {
    pub fn is_of(&self, zero: &ZeroShot) -> bool {
        (&*self.family, &self.set, &self.split) == (zero.family.as_str(), &zero.set, &zero.split)
    }
}

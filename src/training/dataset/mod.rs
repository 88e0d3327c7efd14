//! Training data: examples of each family, read from the formats users have, checked by the doctor.

use crate::domain::{Family, Result};

/// One example, whatever format it came in.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// IOB2 tags, one a word.
    Ner {
        words: Vec<String>,
        tags: Vec<String>,
    },
    /// One label, or any number of them.
    Classify {
        text: String,
        text_pair: Option<String>,
        labels: Vec<String>,
    },
    Pair {
        a: String,
        b: String,
        label: Option<String>,
        score: Option<f32>,
    },
}

/// The family of a dataset; `pairs` feed pre-finetuning alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatasetFamily {
    Ner,
    Classify,
    Pairs,
}

/// A readable split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    pub examples: Vec<Example>,
    /// Classification: some row had a list of labels.
    pub multi_label: bool,
}

/// The doctor's findings; `errors` refuse the data, `warnings` do not. Serialised as the upload's answer.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DoctorReport {
    pub family: String,
    pub format: String,
    pub rows: usize,
    pub tokens: usize,
    pub labels: std::collections::BTreeMap<String, usize>,
    pub multi_label: bool,
    pub longest_row_tokens: usize,
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// `misaligned_span`, `tag_scheme`, `duplicate_rows`, `leakage`, `label_typo`, `past_max_length`, `empty_row`, …
    pub code: String,
    pub message: String,
    pub count: usize,
    /// The first of them, from 1.
    pub lines: Vec<usize>,
}

/// Other splits of the same dataset, for leakage checks.
pub type OtherSplits<'a> = &'a [(&'a str, &'a Split)];

/// Bytes in any format of the contract (JSON lines of every shape, CoNLL columns, CSV/TSV, Parquet, Label Studio; gzip or zstd around it),
/// recognised by content. The split is None where errors refuse it. `max_length`: words past it are counted as a warning.
pub fn read(
    family: DatasetFamily,
    bytes: &[u8],
    others: OtherSplits<'_>,
    max_length: usize,
) -> Result<(DoctorReport, Option<Split>)> {
    let _ = (family, bytes, others, max_length);
    todo!()
}

impl Split {
    /// Canonical JSON lines: `{"tokens","tags"}`, `{"text","label"}` or `{"text","labels"}`, `{"a","b"}`.
    pub fn to_jsonl(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads what [`Split::to_jsonl`] wrote.
    pub fn from_jsonl(family: DatasetFamily, bytes: &[u8]) -> Result<Self> {
        let _ = (family, bytes);
        todo!()
    }
}

impl From<Family> for DatasetFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Ner => Self::Ner,
            Family::Classify => Self::Classify,
        }
    }
}

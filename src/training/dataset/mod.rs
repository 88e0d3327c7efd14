//! Training data: examples of each family, read from the formats users have, checked by the doctor. Where it is stored is left to `serving`.

mod decode;
mod doctor;
mod findings;
mod format;
mod limits;
mod options;
mod others;
mod place;
mod preview;
mod report;
mod row;
mod split;
mod suggest;
mod tags;
mod typos;
mod unpack;
mod words;

use std::fmt;
use std::str::FromStr;

use crate::domain::{Cancel, Error, Excerpt, Family, Result};

pub use findings::{Finding, Sample};
pub use options::{AskedOptions, ReadOptions};
pub use others::{OtherSplit, OtherSplits};
pub use preview::PreviewRow;
pub use report::DoctorReport;
pub use split::Split;

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

/// What is read, and how.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    pub family: DatasetFamily,
    /// The split's name: only `train` (or a split that stands alone) must have something to tell apart.
    pub split: &'a str,
    pub options: &'a ReadOptions,
    pub others: OtherSplits<'a>,
    /// Words past it are counted as a warning.
    pub max_length: usize,
}

/// Bytes in any format of the contract (JSON lines of every shape, CoNLL columns, CSV/TSV, Parquet, Label Studio; gzip or zstd around it),
/// recognised by content. The split is None where errors refuse it. `max_length`: words past it are counted as a warning.
/// Fails only on bytes that cannot be unpacked or are over the limit. Rows are held to what training needs; see [`read_split`].
pub fn read(
    family: DatasetFamily,
    bytes: &[u8],
    others: OtherSplits<'_>,
    max_length: usize,
) -> Result<(DoctorReport, Option<Split>)> {
    let options = &ReadOptions::default();
    read_split(Reading { family, split: doctor::TRAIN, options, others, max_length }, bytes, &Cancel::default())
}

/// The same as the caller wants it read.
/// What is accepted keeps every bound as the lines that are stored, so that [`read_stored`] reads it again. Fails once it is cancelled.
pub fn read_split(reading: Reading<'_>, bytes: &[u8], cancel: &Cancel) -> Result<(DoctorReport, Option<Split>)> {
    let bytes = unpack::unpack(bytes, cancel)?;
    let mut rows = row::Rows::new(reading.family, reading.options, cancel);
    let format = format::read(&bytes, &mut rows);
    rows.check_wanted()?;
    suggest::other_family(&bytes, &mut rows, cancel);
    drop(bytes); // the examples are copies
    let report = doctor::examine(&mut rows, format, reading, cancel)?;
    let multi_label = rows.multi_label();
    let examples = rows.kept.into_iter().map(|row| row.example).collect();
    let split = report.errors.is_empty().then_some(Split { examples, multi_label });
    Ok((report, split))
}

/// The JSON lines that [`Split::to_jsonl`] wrote and that were compressed for storage; bounded as an upload is.
pub fn read_stored(family: DatasetFamily, bytes: &[u8], cancel: &Cancel) -> Result<Split> {
    split::parse(family, &unpack::unpack(bytes, cancel)?, cancel)
}

impl DatasetFamily {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ner => "ner",
            Self::Classify => "classify",
            Self::Pairs => "pairs",
        }
    }
}

impl fmt::Display for DatasetFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DatasetFamily {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        [Self::Ner, Self::Classify, Self::Pairs].into_iter().find(|family| family.as_str() == s).ok_or_else(|| {
            Error::invalid(format!("dataset family {:?} is none of \"ner\", \"classify\" and \"pairs\"", Excerpt(s)))
        })
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

//! The JSON of datasets.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::serving;
use crate::transport::datasets::family_word;
use crate::transport::schema;
use crate::transport::wire::Time;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::transport) struct PutQuery {
    /// `ner`, `classify` or `pairs`.
    #[param(value_type = schema::DatasetFamilyWord)]
    pub(in crate::transport) family: String,
    /// `train`, `validation`, `test` or a name of your own; default `train`.
    #[param(value_type = Option<schema::AdapterName>)]
    pub(in crate::transport) split: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Dataset {
    #[schema(example = "banking77")]
    name: String,
    /// `ner`, `classify` or `pairs`.
    #[schema(example = "classify")]
    family: &'static str,
    splits: Vec<Split>,
}

/// A split and what the doctor said of it.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Split {
    #[schema(example = "dataset.split")]
    object: &'static str,
    #[schema(example = "banking77")]
    name: String,
    #[schema(example = "train")]
    split: String,
    /// Counts this split's uploads, from 1.
    version: u32,
    digest: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    #[serde(flatten)]
    report: DoctorReport,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct DoctorReport {
    family: String,
    /// As recognised from the content.
    format: String,
    rows: usize,
    tokens: usize,
    /// Label → how often.
    labels: BTreeMap<String, usize>,
    /// Classification: some row has a list of labels.
    multi_label: bool,
    longest_row_tokens: usize,
    /// Refuse the upload.
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Finding {
    #[schema(example = "duplicate_rows")]
    code: String,
    message: String,
    count: usize,
    /// The first of them, from 1.
    lines: Vec<usize>,
}

impl From<serving::DatasetInfo> for Dataset {
    fn from(info: serving::DatasetInfo) -> Self {
        let split = |split| Split::new(&info.name, split);
        Self { family: family_word(info.family), splits: info.splits.into_iter().map(split).collect(), name: info.name }
    }
}

impl Split {
    pub(in crate::transport) fn new(name: &str, info: serving::SplitInfo) -> Self {
        Self {
            object: "dataset.split",
            name: name.to_owned(),
            split: info.split,
            version: info.version,
            digest: info.digest,
            created_at: Time(SystemTime::UNIX_EPOCH + Duration::from_secs(info.created_at)),
            report: info.report.into(),
        }
    }
}

impl From<serving::DoctorReport> for DoctorReport {
    fn from(report: serving::DoctorReport) -> Self {
        Self {
            family: report.family,
            format: report.format,
            rows: report.rows,
            tokens: report.tokens,
            labels: report.labels,
            multi_label: report.multi_label,
            longest_row_tokens: report.longest_row_tokens,
            errors: report.errors.into_iter().map(Into::into).collect(),
            warnings: report.warnings.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<serving::Finding> for Finding {
    fn from(finding: serving::Finding) -> Self {
        Self { code: finding.code, message: finding.message, count: finding.count, lines: finding.lines }
    }
}

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
    family: String,
    /// `train`, `validation`, `test` or a name of your own; default `train`.
    #[param(value_type = Option<schema::AdapterName>)]
    split: Option<String>,
    /// The field or column with the text; of a table also its place, from 1.
    text_column: Option<String>,
    /// The field or column with the label (for `ner`: the spans or tags); of a table also its place, from 1.
    label_column: Option<String>,
    /// The columns of a CoNLL file, from 1: `word:2,tag:3`.
    columns: Option<String>,
    /// Names of the labels or tags that the file has as 0, 1, 2…: `a,b,c`, or a JSON list.
    labels: Option<String>,
    /// `true`: a row has any number of labels; `false`: it has one. Else the file decides.
    multi_label: Option<String>,
    /// Labels to be called otherwise: `old:new,old:new`, or a JSON object.
    rename: Option<String>,
    /// `refuse` (default): a row that cannot be read refuses the file; `skip`: it is left out and counted, up to half of the rows.
    on_error: Option<String>,
}

impl PutQuery {
    /// The family, the split, and how the data is to be read.
    pub(in crate::transport) fn parts(self) -> (String, String, serving::AskedOptions) {
        let Self { family, split, text_column, label_column, columns, labels, multi_label, rename, on_error } = self;
        let asked = serving::AskedOptions { text_column, label_column, columns, labels, multi_label, rename, on_error };
        (family, split.unwrap_or_else(|| "train".to_owned()), asked)
    }
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
    /// Rows that could not be read and were left out, as `on_error=skip` has it.
    skipped: usize,
    tokens: usize,
    /// Label → how often.
    labels: BTreeMap<String, usize>,
    /// Classification: some row has a list of labels.
    multi_label: bool,
    longest_row_tokens: usize,
    /// The first two rows as they were understood.
    preview: Vec<PreviewRow>,
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
    /// The line of the first, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// Its number among the rows, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<usize>,
    /// The id that the file gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    /// The first of them, at most five.
    samples: Vec<Sample>,
}

/// A row that a finding is about.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Sample {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    /// What was found there.
    detail: String,
}

/// A row as it was understood: `tokens` and `tags`, or `text` with `label` or `labels`, or `a` and `b`. Long ones are cut.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct PreviewRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    row: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
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
            skipped: report.skipped,
            tokens: report.tokens,
            labels: report.labels,
            multi_label: report.multi_label,
            longest_row_tokens: report.longest_row_tokens,
            preview: report.preview.into_iter().map(Into::into).collect(),
            errors: report.errors.into_iter().map(Into::into).collect(),
            warnings: report.warnings.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<serving::Finding> for Finding {
    fn from(finding: serving::Finding) -> Self {
        let serving::Finding { code, message, count, lines, line, row, task_id, samples } = finding;
        let samples = samples.into_iter().map(Into::into).collect();
        Self { code, message, count, lines, line, row, task_id, samples }
    }
}

impl From<serving::Sample> for Sample {
    fn from(sample: serving::Sample) -> Self {
        let serving::Sample { line, row, task_id, detail } = sample;
        Self { line, row, task_id, detail }
    }
}

impl From<serving::PreviewRow> for PreviewRow {
    fn from(preview: serving::PreviewRow) -> Self {
        let serving::PreviewRow { line, row, task_id, tokens, tags, text, text_pair, label, labels, a, b, score } =
            preview;
        Self { line, row, task_id, tokens, tags, text, text_pair, label, labels, a, b, score }
    }
}

//! Datasets over gRPC.

use std::time::{Duration, SystemTime};

use crate::domain::Result;
use crate::serving::{AskedOptions, DatasetInfo, DoctorReport, Finding, PreviewRow, Sample, SplitInfo};
use crate::transport::call::Call;
use crate::transport::datasets::{blocking, family_word, store};
use crate::transport::proto;
use crate::transport::rpc::timestamp;

pub(in crate::transport) async fn put(call: Call, request: proto::PutDatasetRequest) -> Result<proto::DatasetSplit> {
    let asked = asked(&request);
    let data = request.data.into();
    let (name, info) = store(&call, request.name, &request.family, request.split, &asked, data).await?;
    Ok(split(&name, info))
}

pub(in crate::transport) async fn list(
    call: Call,
    _: proto::ListDatasetsRequest,
) -> Result<proto::ListDatasetsResponse> {
    let all = blocking(&call, |datasets| datasets.list()).await?;
    Ok(proto::ListDatasetsResponse { datasets: all.into_iter().map(Into::into).collect() })
}

pub(in crate::transport) async fn get(call: Call, request: proto::DatasetRequest) -> Result<proto::Dataset> {
    Ok(blocking(&call, move |datasets| datasets.get(&request.name)).await?.into())
}

pub(in crate::transport) async fn delete(
    call: Call,
    request: proto::DatasetRequest,
) -> Result<proto::DeleteDatasetResponse> {
    blocking(&call, move |datasets| datasets.delete(&request.name)).await?;
    Ok(proto::DeleteDatasetResponse {})
}

/// The options as REST has them, where lists of names are JSON.
fn asked(request: &proto::PutDatasetRequest) -> AskedOptions {
    let labels = (!request.labels.is_empty()).then(|| serde_json::Value::from(request.labels.clone()).to_string());
    let rename = |(old, new): (&String, &String)| (old.clone(), serde_json::Value::from(new.clone()));
    let renames: serde_json::Map<_, _> = request.rename.iter().map(rename).collect();
    AskedOptions {
        text_column: request.text_column.clone(),
        label_column: request.label_column.clone(),
        columns: request.columns.clone(),
        labels,
        multi_label: request.multi_label.map(|many| many.to_string()),
        rename: (!renames.is_empty()).then(|| serde_json::Value::Object(renames).to_string()),
        on_error: request.on_error.clone(),
    }
}

impl From<DatasetInfo> for proto::Dataset {
    fn from(info: DatasetInfo) -> Self {
        let splits = info.splits.into_iter().map(|s| split(&info.name, s)).collect();
        Self { family: family_word(info.family).to_owned(), splits, name: info.name }
    }
}

fn split(name: &str, info: SplitInfo) -> proto::DatasetSplit {
    proto::DatasetSplit {
        name: name.to_owned(),
        split: info.split,
        version: info.version,
        digest: info.digest,
        created_at: Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(info.created_at))),
        report: Some(info.report.into()),
    }
}

impl From<DoctorReport> for proto::DoctorReport {
    fn from(report: DoctorReport) -> Self {
        Self {
            family: report.family,
            format: report.format,
            rows: report.rows as u64,
            tokens: report.tokens as u64,
            labels: report.labels.into_iter().map(|(label, count)| (label, count as u64)).collect(),
            multi_label: report.multi_label,
            longest_row_tokens: report.longest_row_tokens as u64,
            errors: report.errors.into_iter().map(Into::into).collect(),
            warnings: report.warnings.into_iter().map(Into::into).collect(),
            skipped: report.skipped as u64,
            preview: report.preview.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Finding> for proto::Finding {
    fn from(finding: Finding) -> Self {
        Self {
            code: finding.code,
            message: finding.message,
            count: finding.count as u64,
            lines: finding.lines.into_iter().map(|line| line as u64).collect(),
            line: finding.line.map(|line| line as u64),
            row: finding.row.map(|row| row as u64),
            task_id: finding.task_id,
            samples: finding.samples.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Sample> for proto::Sample {
    fn from(sample: Sample) -> Self {
        let Sample { line, row, task_id, detail } = sample;
        Self { line: line.map(|line| line as u64), row: row.map(|row| row as u64), task_id, detail }
    }
}

impl From<PreviewRow> for proto::PreviewRow {
    fn from(preview: PreviewRow) -> Self {
        let PreviewRow { line, row, task_id, tokens, tags, text, text_pair, label, labels, a, b, score } = preview;
        Self {
            line: line.map(|line| line as u64),
            row: row as u64,
            task_id,
            tokens: tokens.unwrap_or_default(),
            tags: tags.unwrap_or_default(),
            text,
            text_pair,
            label,
            labels: labels.unwrap_or_default(),
            a,
            b,
            score,
        }
    }
}

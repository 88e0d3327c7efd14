//! Datasets over gRPC.

use std::time::{Duration, SystemTime};

use crate::domain::Result;
use crate::serving::{DatasetInfo, DoctorReport, Finding, SplitInfo};
use crate::transport::call::Call;
use crate::transport::datasets::{blocking, family_word, store};
use crate::transport::proto;
use crate::transport::rpc::timestamp;

pub(in crate::transport) async fn put(call: Call, request: proto::PutDatasetRequest) -> Result<proto::DatasetSplit> {
    let data = request.data.into();
    let (name, info) = store(&call, request.name, &request.family, request.split, data).await?;
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
        }
    }
}

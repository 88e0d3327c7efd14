//! Datasets: upload with the doctor's report, list, delete.

mod grpc;
pub(super) mod http;
mod wire;

pub(super) use grpc::{delete, get, list, put};
pub(super) use wire::DoctorReport;

use std::sync::Arc;

use axum::body::Bytes;

use crate::domain::{Error, Excerpt, Result};
use crate::serving::{AskedOptions, DatasetFamily, DatasetService, ReadOptions, SplitInfo, Upload};
use crate::transport::call::Call;

/// Runs the doctor over an upload and keeps it, while its caller waits.
async fn store(
    call: &Call,
    name: String,
    family: &str,
    split: String,
    asked: &AskedOptions,
    data: Bytes,
) -> Result<(String, SplitInfo)> {
    let family = self::family(family)?;
    let upload = Upload { family, split, options: ReadOptions::parse(asked, family)? };
    let datasets = call.services().datasets.clone();
    let info = datasets.upload(name.clone(), upload, data, call.deadline).await?;
    Ok((name, info))
}

/// The service reads and writes files.
async fn blocking<A: Send + 'static>(
    call: &Call,
    work: impl FnOnce(&Arc<DatasetService>) -> Result<A> + Send + 'static,
) -> Result<A> {
    let datasets = call.services().datasets.clone();
    let died = |error| Error::internal("a dataset task died").with_source(error);
    tokio::task::spawn_blocking(move || work(&datasets)).await.map_err(died)?
}

fn family(word: &str) -> Result<DatasetFamily> {
    match word {
        "ner" => Ok(DatasetFamily::Ner),
        "classify" => Ok(DatasetFamily::Classify),
        "pairs" => Ok(DatasetFamily::Pairs),
        other => Err(Error::invalid(format!("family: {:?} is none of ner, classify, pairs", Excerpt(other)))),
    }
}

fn family_word(family: DatasetFamily) -> &'static str {
    match family {
        DatasetFamily::Ner => "ner",
        DatasetFamily::Classify => "classify",
        DatasetFamily::Pairs => "pairs",
    }
}

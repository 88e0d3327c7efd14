//! `/v1/admin/datasets`.

use axum::Json as Answer;
use axum::extract::Path;
use axum::http::StatusCode;

use crate::transport::call::Call;
use crate::transport::datasets::wire::{Dataset, PutQuery, Split};
use crate::transport::datasets::{blocking, store};
use crate::transport::error::Failure;
use crate::transport::extract::{Query, Upload};
use crate::transport::openapi::Failures;
use crate::transport::schema;
use crate::transport::wire::{Binary, Deleted, List};

/// Uploads a split; the answer is the doctor's report
///
/// JSON lines, CoNLL columns, CSV, TSV, Parquet or a Label Studio export, also gzip or zstd; recognised by content. Where a file leaves
/// a choice, a parameter makes it; else the report warns of what was chosen, and shows the first two rows as understood.
#[utoipa::path(
    put, path = "/v1/admin/datasets/{name}", operation_id = "put_dataset", tag = "admin", params(("name" = schema::AdapterName, Path), PutQuery),
    request_body(content = Binary, content_type = "application/octet-stream"),
    responses((status = 201, body = Split), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn put(
    call: Call,
    Path(name): Path<String>,
    Query(query): Query<PutQuery>,
    Upload(data): Upload,
) -> Result<(StatusCode, Answer<Split>), Failure> {
    let (family, split, asked) = query.parts();
    let (name, info) = store(&call, name, &family, split, &asked, data).await?;
    Ok((StatusCode::CREATED, Answer(Split::new(&name, info))))
}

/// All datasets
#[utoipa::path(get, path = "/v1/admin/datasets", operation_id = "list_datasets", tag = "admin", responses((status = 200, body = List<Dataset>), Failures), security(("key" = [])))]
pub(in crate::transport) async fn list(call: Call) -> Result<Answer<List<Dataset>>, Failure> {
    let all = blocking(&call, |datasets| datasets.list()).await?;
    Ok(Answer(List::all(all.into_iter().map(Into::into).collect())))
}

/// One dataset with its splits
#[utoipa::path(
    get, path = "/v1/admin/datasets/{name}", operation_id = "get_dataset", tag = "admin", params(("name" = schema::AdapterName, Path)),
    responses((status = 200, body = Dataset), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn get(call: Call, Path(name): Path<String>) -> Result<Answer<Dataset>, Failure> {
    Ok(Answer(blocking(&call, move |datasets| datasets.get(&name)).await?.into()))
}

/// Deletes a dataset with all its splits
#[utoipa::path(
    delete, path = "/v1/admin/datasets/{name}", operation_id = "delete_dataset", tag = "admin", params(("name" = schema::AdapterName, Path)),
    responses((status = 200, body = Deleted), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn delete(call: Call, Path(name): Path<String>) -> Result<Answer<Deleted>, Failure> {
    let deleted = Deleted::new(&name, None);
    blocking(&call, move |datasets| datasets.delete(&name)).await?;
    Ok(Answer(deleted))
}

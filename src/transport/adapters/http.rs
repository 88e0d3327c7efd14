//! `/v1/adapters` and `/v1/admin/adapters`.

use axum::Json as Answer;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::IntoResponse;

use crate::domain::{AdapterName, Result};
use crate::serving::AdapterView;
use crate::transport::adapters::multipart::AdapterUpload;
use crate::transport::adapters::wire::{Activate, Adapter, AdapterForm, PublishQuery, Published, VersionQuery};
use crate::transport::call::Call;
use crate::transport::error::Failure;
use crate::transport::extract::{Json, Query};
use crate::transport::openapi::Failures;
use crate::transport::schema;
use crate::transport::wire::{Binary, Deleted, List, adapter_name};

/// All adapters with their versions
#[utoipa::path(get, path = "/v1/adapters", operation_id = "list_adapters", tag = "inference", responses((status = 200, body = List<Adapter>), Failures))]
pub(in crate::transport) async fn list(call: Call) -> Answer<List<Adapter>> {
    Answer(List::all(call.inference().registry().list().into_iter().map(Into::into).collect()))
}

/// One adapter with its versions
#[utoipa::path(get, path = "/v1/adapters/{name}", operation_id = "get_adapter", tag = "inference", params(("name" = schema::AdapterName, Path)), responses((status = 200, body = Adapter), Failures))]
pub(in crate::transport) async fn get(call: Call, Path(name): Path<String>) -> Result<Answer<Adapter>, Failure> {
    let name = named(&call, &name)?;
    view(call.inference().registry().get(&name))
}

/// Publishes a PEFT folder as the next version
///
/// The body is a `.tar` or `.tar.gz`, or `multipart/form-data` with the folder's files. All of it is validated before anything is visible.
#[utoipa::path(
    put, path = "/v1/admin/adapters/{name}", operation_id = "publish_adapter", tag = "admin", params(("name" = schema::AdapterName, Path), PublishQuery),
    request_body(content((Binary = "application/x-tar"), (Binary = "application/gzip"), (AdapterForm = "multipart/form-data"))),
    responses((status = 201, body = Published), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn publish(
    call: Call,
    Path(name): Path<String>,
    Query(query): Query<PublishQuery>,
    AdapterUpload(archive): AdapterUpload,
) -> Result<(StatusCode, Answer<Published>), Failure> {
    let name = named(&call, &name)?;
    let (labels, activate) = (query.labels(), query.activate.unwrap_or(true));
    let family = query.family.map(|family| family.parse()).transpose()?;
    let registry = call.inference().registry();
    let (published, warnings) = registry.publish_archive(&name, archive, labels, family, activate).await?;
    Ok((StatusCode::CREATED, Answer(Published::new(published, warnings))))
}

/// Retires a version, or the whole adapter; requests under way still finish
#[utoipa::path(
    delete, path = "/v1/admin/adapters/{name}", operation_id = "delete_adapter", tag = "admin", params(("name" = schema::AdapterName, Path), VersionQuery),
    responses((status = 200, body = Deleted), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn delete(
    call: Call,
    Path(name): Path<String>,
    Query(query): Query<VersionQuery>,
) -> Result<Answer<Deleted>, Failure> {
    let name = named(&call, &name)?;
    call.inference().registry().retire(&name, query.version).await?;
    Ok(Answer(Deleted::new(name, query.version)))
}

/// Promotes a version or rolls back to it, atomically
#[utoipa::path(
    post, path = "/v1/admin/adapters/{name}/activate", operation_id = "activate_adapter", tag = "admin", params(("name" = schema::AdapterName, Path)), request_body = Activate,
    responses((status = 200, body = Adapter), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn activate(
    call: Call,
    Path(name): Path<String>,
    Json(request): Json<Activate>,
) -> Result<Answer<Adapter>, Failure> {
    let name = named(&call, &name)?;
    view(call.inference().registry().activate(&name, request.version).await)
}

/// Makes a version resident
#[utoipa::path(
    post, path = "/v1/admin/adapters/{name}/load", operation_id = "load_adapter", tag = "admin", params(("name" = schema::AdapterName, Path), VersionQuery),
    responses((status = 200, body = Adapter), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn load(
    call: Call,
    Path(name): Path<String>,
    Query(query): Query<VersionQuery>,
) -> Result<Answer<Adapter>, Failure> {
    let name = named(&call, &name)?;
    view(call.inference().registry().load(&name, query.version).await)
}

/// Frees a version's memory; it stays registered and is loaded again when it is asked for
#[utoipa::path(
    post, path = "/v1/admin/adapters/{name}/unload", operation_id = "unload_adapter", tag = "admin", params(("name" = schema::AdapterName, Path), VersionQuery),
    responses((status = 200, body = Adapter), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn unload(
    call: Call,
    Path(name): Path<String>,
    Query(query): Query<VersionQuery>,
) -> Result<Answer<Adapter>, Failure> {
    let name = named(&call, &name)?;
    view(call.inference().registry().unload(&name, query.version).await)
}

/// Keeps an adapter resident whatever memory is needed for others
#[utoipa::path(
    post, path = "/v1/admin/adapters/{name}/pin", operation_id = "pin_adapter", tag = "admin", params(("name" = schema::AdapterName, Path)),
    responses((status = 200, body = Adapter), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn pin(call: Call, Path(name): Path<String>) -> Result<Answer<Adapter>, Failure> {
    let name = named(&call, &name)?;
    view(call.inference().registry().set_pinned(&name, true).await)
}

/// Lets an adapter be evicted again
#[utoipa::path(
    post, path = "/v1/admin/adapters/{name}/unpin", operation_id = "unpin_adapter", tag = "admin", params(("name" = schema::AdapterName, Path)),
    responses((status = 200, body = Adapter), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn unpin(call: Call, Path(name): Path<String>) -> Result<Answer<Adapter>, Failure> {
    let name = named(&call, &name)?;
    view(call.inference().registry().set_pinned(&name, false).await)
}

/// A version's PEFT folder as `.tar`
#[utoipa::path(
    get, path = "/v1/admin/adapters/{name}/download", operation_id = "download_adapter", tag = "admin", params(("name" = schema::AdapterName, Path), VersionQuery),
    responses((status = 200, body = Binary, content_type = "application/x-tar"), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn download(
    call: Call,
    Path(name): Path<String>,
    Query(query): Query<VersionQuery>,
) -> Result<impl IntoResponse, Failure> {
    let name = named(&call, &name)?;
    let archive = call.inference().registry().download(&name, query.version).await?;
    let disposition = format!("attachment; filename=\"{name}.tar\"");
    let headers = [(CONTENT_TYPE, "application/x-tar".to_owned()), (CONTENT_DISPOSITION, disposition)];
    Ok((headers, Bytes::from(archive)))
}

/// The name of the path; the request is counted under it.
fn named(call: &Call, name: &str) -> Result<AdapterName> {
    let name = adapter_name(name)?;
    call.account.set_adapter(name.as_str());
    Ok(name)
}

fn view(view: Result<AdapterView>) -> Result<Answer<Adapter>, Failure> {
    Ok(Answer(view?.into()))
}

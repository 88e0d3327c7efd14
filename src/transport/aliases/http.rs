//! `/v1/admin/aliases`.

use axum::Json as Answer;
use axum::extract::Path;

use crate::transport::aliases::wire::{Alias, AliasSpec};
use crate::transport::call::Call;
use crate::transport::error::Failure;
use crate::transport::extract::Json;
use crate::transport::openapi::Failures;
use crate::transport::schema;
use crate::transport::wire::{Deleted, List, adapter_name};

/// All aliases
#[utoipa::path(get, path = "/v1/admin/aliases", operation_id = "list_aliases", tag = "admin", responses((status = 200, body = List<Alias>), Failures), security(("key" = [])))]
pub(in crate::transport) async fn list(call: Call) -> Result<Answer<List<Alias>>, Failure> {
    let aliases = call.inference().registry().aliases()?;
    Ok(Answer(List::all(aliases.iter().map(|(name, alias)| Alias::new(name, alias)).collect())))
}

/// One alias
#[utoipa::path(
    get, path = "/v1/admin/aliases/{alias}", operation_id = "get_alias", tag = "admin", params(("alias" = schema::AdapterName, Path)),
    responses((status = 200, body = Alias), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn get(call: Call, Path(alias): Path<String>) -> Result<Answer<Alias>, Failure> {
    let name = adapter_name(&alias)?;
    Ok(Answer(Alias::new(&name, &super::find(&call, &name)?)))
}

/// Creates or replaces an alias: a weighted split, and a shadow
#[utoipa::path(
    put, path = "/v1/admin/aliases/{alias}", operation_id = "put_alias", tag = "admin", params(("alias" = schema::AdapterName, Path)), request_body = AliasSpec,
    responses((status = 200, body = Alias), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn put(
    call: Call,
    Path(alias): Path<String>,
    Json(spec): Json<AliasSpec>,
) -> Result<Answer<Alias>, Failure> {
    let (name, value) = (adapter_name(&alias)?, spec.into_domain()?);
    call.inference().registry().set_alias(&name, value.clone()).await?;
    Ok(Answer(Alias::new(&name, &value)))
}

/// Removes an alias; its adapters stay
#[utoipa::path(
    delete, path = "/v1/admin/aliases/{alias}", operation_id = "delete_alias", tag = "admin", params(("alias" = schema::AdapterName, Path)),
    responses((status = 200, body = Deleted), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn delete(call: Call, Path(alias): Path<String>) -> Result<Answer<Deleted>, Failure> {
    let name = adapter_name(&alias)?;
    call.inference().registry().remove_alias(&name).await?;
    Ok(Answer(Deleted::new(name, None)))
}

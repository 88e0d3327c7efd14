//! `/v1/admin/backbone`.

use axum::Json as Answer;

use crate::transport::backbone::view;
use crate::transport::backbone::wire::{Backbone, BackboneChoice};
use crate::transport::call::Call;
use crate::transport::error::Failure;
use crate::transport::extract::Json;
use crate::transport::openapi::Failures;

/// The active backbone, and all that are resident
#[utoipa::path(get, path = "/v1/admin/backbone", operation_id = "get_backbone", tag = "admin", responses((status = 200, body = Backbone), Failures), security(("key" = [])))]
pub(in crate::transport) async fn get(call: Call) -> Result<Answer<Backbone>, Failure> {
    Ok(Answer(view(&call).await?))
}

/// Makes a backbone resident, so that adapters for it can be published, without changing what is active
#[utoipa::path(
    post, path = "/v1/admin/backbone/load", operation_id = "load_backbone", tag = "admin", request_body = BackboneChoice,
    responses((status = 200, body = Backbone), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn load(
    call: Call,
    Json(request): Json<BackboneChoice>,
) -> Result<Answer<Backbone>, Failure> {
    call.inference().registry().load_backbone(&request.backbone).await?;
    Ok(Answer(view(&call).await?))
}

/// Switches to a backbone without losing a request; a rollback is the same call with the old name.
/// Adapters stay with the backbone they were made for; one that no version was made for goes
#[utoipa::path(
    post, path = "/v1/admin/backbone/activate", operation_id = "activate_backbone", tag = "admin", request_body = BackboneChoice,
    responses((status = 200, body = Backbone), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn activate(
    call: Call,
    Json(request): Json<BackboneChoice>,
) -> Result<Answer<Backbone>, Failure> {
    call.inference().registry().activate_backbone(&request.backbone).await?;
    Ok(Answer(view(&call).await?))
}

/// Takes a resident backbone off the device. Its adapters are listed as failed until it is loaded again; requests under way still finish
#[utoipa::path(
    post, path = "/v1/admin/backbone/retire", operation_id = "retire_backbone", tag = "admin", request_body = BackboneChoice,
    responses((status = 200, body = Backbone), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn retire(
    call: Call,
    Json(request): Json<BackboneChoice>,
) -> Result<Answer<Backbone>, Failure> {
    call.inference().registry().retire_backbone(&request.backbone).await?;
    Ok(Answer(view(&call).await?))
}

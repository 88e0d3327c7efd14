//! `/v1/admin/backbone`.

use axum::Json as Answer;

use crate::transport::backbone::confirm;
use crate::transport::backbone::wire::{ActivateBackbone, Backbone};
use crate::transport::call::Call;
use crate::transport::error::Failure;
use crate::transport::extract::Json;
use crate::transport::openapi::Failures;

/// The resident backbone
#[utoipa::path(get, path = "/v1/admin/backbone", operation_id = "get_backbone", tag = "admin", responses((status = 200, body = Backbone), Failures), security(("key" = [])))]
pub(in crate::transport) async fn get(call: Call) -> Answer<Backbone> {
    Answer((&call.services().backbone).into())
}

/// Confirms the resident backbone; another one is a conflict
#[utoipa::path(
    post, path = "/v1/admin/backbone/activate", operation_id = "activate_backbone", tag = "admin", request_body = ActivateBackbone,
    responses((status = 200, body = Backbone), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn activate(
    call: Call,
    Json(request): Json<ActivateBackbone>,
) -> Result<Answer<Backbone>, Failure> {
    Ok(Answer(confirm(&call, &request.backbone)?.into()))
}

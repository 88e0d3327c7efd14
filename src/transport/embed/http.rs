//! `POST /v1/embed`.

use axum::Json as Answer;

use crate::transport::call::Call;
use crate::transport::embed::wire::{EmbedRequest, EmbedResponse};
use crate::transport::error::Failure;
use crate::transport::extract::Json;
use crate::transport::openapi::Failures;

/// One vector an input
#[utoipa::path(
    post, path = "/v1/embed", tag = "inference",
    request_body(content = EmbedRequest, example = json!({"inputs": ["Meet Anna in Kraków"], "parameters": {"pooling": "mean"}})),
    responses((status = 200, body = EmbedResponse), Failures),
)]
pub(in crate::transport) async fn embed(
    call: Call,
    Json(request): Json<EmbedRequest>,
) -> Result<Answer<EmbedResponse>, Failure> {
    Ok(Answer(super::answer(&call, request).await?))
}

//! `POST /v1/classify`.

use axum::Json as Answer;

use crate::transport::call::Call;
use crate::transport::classify::wire::{ClassifyRequest, ClassifyResponse};
use crate::transport::error::Failure;
use crate::transport::extract::Json;
use crate::transport::openapi::Failures;

/// Labels of each input
#[utoipa::path(
    post, path = "/v1/classify", tag = "inference",
    request_body(content = ClassifyRequest, example = json!({"inputs": ["My card has not arrived yet"], "parameters": {"top_k": 3}})),
    responses((status = 200, body = ClassifyResponse), Failures),
)]
pub(in crate::transport) async fn classify(
    call: Call,
    Json(request): Json<ClassifyRequest>,
) -> Result<Answer<ClassifyResponse>, Failure> {
    Ok(Answer(super::answer(&call, request).await?))
}

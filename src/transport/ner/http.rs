//! `POST /v1/ner`.

use axum::Json as Answer;

use crate::transport::call::Call;
use crate::transport::error::Failure;
use crate::transport::extract::Json;
use crate::transport::ner::wire::{NerRequest, NerResponse};
use crate::transport::openapi::Failures;

/// Entities of each input
#[utoipa::path(
    post, path = "/v1/ner", tag = "inference",
    request_body(content = NerRequest, example = json!({"inputs": ["Meet Anna in Kraków"], "parameters": {"aggregation_strategy": "simple"}})),
    responses((status = 200, body = NerResponse), Failures),
)]
pub(in crate::transport) async fn ner(
    call: Call,
    Json(request): Json<NerRequest>,
) -> Result<Answer<NerResponse>, Failure> {
    Ok(Answer(super::answer(&call, request).await?))
}

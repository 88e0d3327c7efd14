//! `POST /v1/analyze`.

use axum::Json as Answer;

use crate::transport::analyze::wire::{AnalyzeRequest, AnalyzeResponse};
use crate::transport::call::Call;
use crate::transport::error::Failure;
use crate::transport::extract::Json;
use crate::transport::openapi::Failures;

/// The same inputs through many adapters; the layers that no adapter touches run once
#[utoipa::path(
    post, path = "/v1/analyze", tag = "inference",
    request_body(content = AnalyzeRequest, example = json!({"inputs": "Meet Anna in Kraków", "adapters": ["people-places", "bank-intents"]})),
    responses((status = 200, body = AnalyzeResponse), Failures),
)]
pub(in crate::transport) async fn analyze(
    call: Call,
    Json(request): Json<AnalyzeRequest>,
) -> Result<Answer<AnalyzeResponse>, Failure> {
    Ok(Answer(super::answer(&call, request).await?))
}

//! `Classify` and `ClassifyStream`: the messages of `proto/` to the JSON's types and back.

use crate::domain::Result;
use crate::transport::call::Call;
use crate::transport::classify::wire;
use crate::transport::error::status_message;
use crate::transport::extract::word;
use crate::transport::proto;
use crate::transport::proto::classify_stream_response::Outcome;
use crate::transport::rpc::{inputs, item, values};

pub(in crate::transport) async fn classify(
    call: Call,
    request: proto::ClassifyRequest,
) -> Result<proto::ClassifyResponse> {
    Ok(super::answer(&call, request.try_into()?).await?.into())
}

/// One message of a stream: whatever happens to it is its answer.
pub(in crate::transport) async fn classify_stream(
    call: Call,
    message: proto::ClassifyStreamRequest,
) -> proto::ClassifyStreamResponse {
    let request = message.request.unwrap_or_default();
    let outcome = item(&call, message.timeout_ms, |call| classify(call, request)).await;
    let outcome = outcome.map_or_else(|error| Outcome::Error(status_message(&error)), Outcome::Response);
    proto::ClassifyStreamResponse { id: message.id, outcome: Some(outcome) }
}

impl TryFrom<proto::ClassifyRequest> for wire::ClassifyRequest {
    type Error = crate::domain::Error;

    fn try_from(request: proto::ClassifyRequest) -> Result<Self> {
        Ok(Self {
            inputs: inputs(request.inputs)?,
            adapter: request.adapter,
            parameters: request.parameters.map(TryInto::try_into).transpose()?,
        })
    }
}

impl TryFrom<proto::ClassifyParameters> for wire::ClassifyParameters {
    type Error = crate::domain::Error;

    fn try_from(p: proto::ClassifyParameters) -> Result<Self> {
        Ok(Self {
            top_k: p.top_k,
            function_to_apply: word("parameters.function_to_apply", p.function_to_apply)?,
            threshold: p.threshold,
            long_text: word("parameters.long_text", p.long_text)?,
            candidate_labels: values(p.candidate_labels),
            hypothesis_template: p.hypothesis_template,
        })
    }
}

impl From<wire::ClassifyResponse> for proto::ClassifyResponse {
    fn from(response: wire::ClassifyResponse) -> Self {
        Self {
            id: response.id,
            adapter: Some(response.adapter.into()),
            results: response.results.into_iter().map(Into::into).collect(),
            usage: Some(response.usage.into()),
        }
    }
}

impl From<wire::ClassifyResult> for proto::ClassifyResult {
    fn from(result: wire::ClassifyResult) -> Self {
        let scored = |l: wire::ScoredLabel| proto::ScoredLabel { label: l.label, score: l.score };
        Self {
            labels: result.labels.into_iter().map(scored).collect(),
            tokens: result.tokens as u32,
            windows: result.windows as u32,
            truncated: result.truncated,
        }
    }
}

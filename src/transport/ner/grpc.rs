//! `Ner` and `NerStream`: the messages of `proto/` to the JSON's types and back.

use crate::domain::Result;
use crate::transport::call::Call;
use crate::transport::error::status_message;
use crate::transport::extract::word;
use crate::transport::ner::wire;
use crate::transport::proto;
use crate::transport::proto::ner_stream_response::Outcome;
use crate::transport::rpc::{inputs, item, values};

pub(in crate::transport) async fn ner(call: Call, request: proto::NerRequest) -> Result<proto::NerResponse> {
    Ok(super::answer(&call, request.try_into()?).await?.into())
}

/// One message of a stream: whatever happens to it is its answer.
pub(in crate::transport) async fn ner_stream(call: Call, message: proto::NerStreamRequest) -> proto::NerStreamResponse {
    let request = message.request.unwrap_or_default();
    let outcome = item(&call, message.timeout_ms, |call| ner(call, request)).await;
    let outcome = outcome.map_or_else(|error| Outcome::Error(status_message(&error)), Outcome::Response);
    proto::NerStreamResponse { id: message.id, outcome: Some(outcome) }
}

impl TryFrom<proto::NerRequest> for wire::NerRequest {
    type Error = crate::domain::Error;

    fn try_from(request: proto::NerRequest) -> Result<Self> {
        Ok(Self {
            inputs: inputs(request.inputs)?,
            adapter: request.adapter,
            parameters: request.parameters.map(TryInto::try_into).transpose()?,
        })
    }
}

impl TryFrom<proto::NerParameters> for wire::NerParameters {
    type Error = crate::domain::Error;

    fn try_from(p: proto::NerParameters) -> Result<Self> {
        Ok(Self {
            aggregation_strategy: word("parameters.aggregation_strategy", p.aggregation_strategy)?,
            threshold: p.threshold,
            ignore_labels: values(p.ignore_labels),
            labels: values(p.labels),
            offset_unit: word("parameters.offset_unit", p.offset_unit)?,
            long_text: word("parameters.long_text", p.long_text)?,
            stride: p.stride,
            candidate_labels: values(p.candidate_labels),
        })
    }
}

impl From<wire::NerResponse> for proto::NerResponse {
    fn from(response: wire::NerResponse) -> Self {
        Self {
            id: response.id,
            adapter: Some(response.adapter.into()),
            offset_unit: response.offset_unit.as_str().to_owned(),
            results: response.results.into_iter().map(Into::into).collect(),
            usage: Some(response.usage.into()),
        }
    }
}

impl From<wire::NerResult> for proto::NerResult {
    fn from(result: wire::NerResult) -> Self {
        Self {
            entities: result.entities.into_iter().map(Into::into).collect(),
            tokens: result.tokens as u32,
            windows: result.windows as u32,
            truncated: result.truncated,
        }
    }
}

impl From<wire::Entity> for proto::Entity {
    fn from(entity: wire::Entity) -> Self {
        Self {
            entity_group: entity.entity_group,
            entity: entity.entity,
            score: entity.score,
            word: entity.word,
            start: entity.start as u32,
            end: entity.end as u32,
            index: entity.index.map(|index| index as u32),
        }
    }
}

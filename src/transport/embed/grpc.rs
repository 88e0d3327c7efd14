//! `Embed`: the messages of `proto/` to the JSON's types and back.

use crate::domain::Result;
use crate::transport::call::Call;
use crate::transport::embed::wire;
use crate::transport::extract::word;
use crate::transport::proto;
use crate::transport::rpc::inputs;

pub(in crate::transport) async fn embed(call: Call, request: proto::EmbedRequest) -> Result<proto::EmbedResponse> {
    let parameters = |p: proto::EmbedParameters| -> Result<_> {
        let pooling = word("parameters.pooling", p.pooling)?;
        let long_text = word("parameters.long_text", p.long_text)?;
        Ok(wire::EmbedParameters { pooling, normalize: p.normalize, long_text })
    };
    let request = wire::EmbedRequest {
        inputs: inputs(request.inputs)?,
        adapter: request.adapter,
        parameters: request.parameters.map(parameters).transpose()?,
    };
    Ok(super::answer(&call, request).await?.into())
}

impl From<wire::EmbedResponse> for proto::EmbedResponse {
    fn from(response: wire::EmbedResponse) -> Self {
        Self {
            id: response.id,
            adapter: response.adapter.map(Into::into),
            backbone: Some(response.backbone.into()),
            embeddings: response.embeddings.into_iter().map(|values| proto::Embedding { values }).collect(),
            usage: Some(response.usage.into()),
            truncated: response.truncated,
        }
    }
}

//! `/v1/embed` and its gRPC twin: one vector an input.

mod grpc;
pub(super) mod http;
pub(super) mod wire;

pub(super) use grpc::embed;

use crate::domain::Result;
use crate::serving::EmbedRequest;
use crate::transport::call::Call;
use crate::transport::wire::{AdapterIdentity, Usage};
use wire::EmbedResponse;

/// Both protocols meet here.
pub(super) async fn answer(call: &Call, request: wire::EmbedRequest) -> Result<EmbedResponse> {
    let adapter = call.asked(request.adapter.as_deref())?;
    let parameters = request.parameters.unwrap_or_default().into();
    let inputs = request.inputs.into_domain(call.api.inputs_max, false)?;
    let request = EmbedRequest { inputs, adapter, parameters, deadline: call.deadline };
    let answer = call.inference().embed(request).await?;
    call.answered(answer.adapter.as_ref(), answer.timings);
    Ok(EmbedResponse {
        id: call.account.id.clone(),
        object: "embed",
        adapter: answer.adapter.as_ref().map(|adapter| AdapterIdentity::new(adapter, &answer.backbone)),
        backbone: (&*answer.backbone).into(),
        usage: Usage { sequences: answer.embeddings.len(), tokens: answer.tokens },
        embeddings: answer.embeddings,
        truncated: answer.truncated,
    })
}

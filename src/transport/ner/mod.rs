//! `/v1/ner` and its gRPC twins: entities of texts.

mod grpc;
pub(super) mod http;
pub(super) mod wire;

pub(super) use grpc::{ner, ner_stream};

use crate::domain::{Error, Result};
use crate::serving::{InferenceRequest, Predictions, Task};
use crate::transport::call::Call;
use crate::transport::wire::{AdapterIdentity, Usage};
use wire::{NerRequest, NerResponse};

/// Both protocols meet here.
pub(super) async fn answer(call: &Call, request: NerRequest) -> Result<NerResponse> {
    let adapter = call.asked(request.adapter.as_deref())?;
    let parameters = request.parameters.unwrap_or_default().into_domain()?;
    let inputs = request.inputs.into_domain(call.api.inputs_max, false)?;
    let task = Task::Ner(parameters.clone());
    let request = InferenceRequest { task, adapter, inputs, deadline: call.deadline, caller: call.caller };
    let answer = call.inference().infer(request).await?;
    call.answered(Some(&answer.adapter), answer.timings);
    let Predictions::Ner(predictions) = answer.predictions else {
        return Err(Error::internal("a token classification request got another family's answer"));
    };
    let result = |(input, prediction)| wire::NerResult::new(input, prediction, &parameters);
    let results: Vec<_> = answer.inputs.iter().zip(&predictions).map(result).collect();
    Ok(NerResponse {
        id: call.account.id.clone(),
        object: "ner",
        adapter: AdapterIdentity::new(&answer.adapter, &answer.backbone),
        offset_unit: parameters.offset_unit.into(),
        usage: Usage { sequences: results.len(), tokens: results.iter().map(|r| r.tokens).sum() },
        results,
    })
}

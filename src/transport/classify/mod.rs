//! `/v1/classify` and its gRPC twins: labels of texts and pairs.

mod grpc;
pub(super) mod http;
pub(super) mod wire;

pub(super) use grpc::{classify, classify_stream};

use crate::domain::{Error, Result};
use crate::serving::{InferenceRequest, Predictions, Task};
use crate::transport::call::Call;
use crate::transport::wire::{AdapterIdentity, Usage};
use wire::{ClassifyRequest, ClassifyResponse};

/// Both protocols meet here.
pub(super) async fn answer(call: &Call, request: ClassifyRequest) -> Result<ClassifyResponse> {
    let adapter = call.asked(request.adapter.as_deref())?;
    let task = Task::Classify(request.parameters.unwrap_or_default().into_domain()?);
    let inputs = request.inputs.into_domain(call.api.inputs_max, true)?;
    let request = InferenceRequest { task, adapter, inputs, deadline: call.deadline, caller: call.caller };
    let answer = call.inference().infer(request).await?;
    call.answered(Some(&answer.adapter), answer.timings);
    let Predictions::Classify(predictions) = answer.predictions else {
        return Err(Error::internal("a classification request got another family's answer"));
    };
    let results: Vec<wire::ClassifyResult> = predictions.into_iter().map(Into::into).collect();
    Ok(ClassifyResponse {
        id: call.account.id.clone(),
        object: "classify",
        adapter: AdapterIdentity::new(&answer.adapter, &answer.backbone),
        usage: Usage { sequences: results.len(), tokens: results.iter().map(|r| r.tokens).sum() },
        results,
    })
}

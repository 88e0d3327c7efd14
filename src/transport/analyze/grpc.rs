//! `Analyze`: the messages of `proto/` to the JSON's types and back.

use std::collections::BTreeMap;

use crate::domain::Result;
use crate::transport::analyze::wire;
use crate::transport::call::Call;
use crate::transport::error::status_message;
use crate::transport::proto;
use crate::transport::proto::adapter_result::Kind;
use crate::transport::rpc::inputs;

pub(in crate::transport) async fn analyze(
    call: Call,
    request: proto::AnalyzeRequest,
) -> Result<proto::AnalyzeResponse> {
    let request = wire::AnalyzeRequest {
        inputs: inputs(request.inputs)?,
        adapters: request.adapters,
        parameters: request.parameters.map(TryInto::try_into).transpose()?,
    };
    Ok(super::answer(&call, request).await?.into())
}

impl TryFrom<proto::AnalyzeParameters> for wire::AnalyzeParameters {
    type Error = crate::domain::Error;

    fn try_from(p: proto::AnalyzeParameters) -> Result<Self> {
        let ner = p.ner.map(TryInto::try_into).transpose()?;
        let classify = p.classify.map(TryInto::try_into).transpose()?;
        Ok(Self { ner, classify })
    }
}

impl From<wire::AnalyzeResponse> for proto::AnalyzeResponse {
    fn from(response: wire::AnalyzeResponse) -> Self {
        let identities = response.adapters.into_iter().map(|(asked, adapter)| (asked, adapter.into()));
        Self {
            id: response.id,
            adapters: identities.collect(),
            offset_unit: response.offset_unit.as_str().to_owned(),
            results: response.results.into_iter().map(by_adapter).collect(),
            usage: Some(response.usage.into()),
        }
    }
}

fn by_adapter(results: BTreeMap<String, wire::AdapterResult>) -> proto::AnalyzeResult {
    let by_adapter = results.into_iter().map(|(asked, result)| (asked, result.into())).collect();
    proto::AnalyzeResult { by_adapter }
}

impl From<wire::AdapterResult> for proto::AdapterResult {
    fn from(result: wire::AdapterResult) -> Self {
        let kind = match result {
            wire::AdapterResult::Ner(result) => Kind::Ner(result.into()),
            wire::AdapterResult::Classify(result) => Kind::Classify(result.into()),
            wire::AdapterResult::Failed(failure) => Kind::Error(status_message(&failure.into_cause())),
        };
        Self { kind: Some(kind) }
    }
}

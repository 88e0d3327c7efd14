//! The JSON of `/v1/analyze`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::Error;
use crate::transport::classify::wire::{ClassifyParameters, ClassifyResult};
use crate::transport::error;
use crate::transport::ner::wire::{NerParameters, NerResult, OffsetUnit};
use crate::transport::schema;
use crate::transport::wire::{AdapterIdentity, Inputs, TextsSchema, Usage};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct AnalyzeRequest {
    #[schema(value_type = TextsSchema)]
    pub(in crate::transport) inputs: Inputs,
    /// At least one; each once. Their family is their own.
    #[schema(
        value_type = BTreeSet<schema::AdapterReference>, min_items = 1, max_items = 64,
        example = json!(["people-places", "bank-intents@2"])
    )]
    pub(in crate::transport) adapters: Vec<String>,
    pub(in crate::transport) parameters: Option<AnalyzeParameters>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct AnalyzeParameters {
    /// For the adapters of family `ner`.
    pub(in crate::transport) ner: Option<NerParameters>,
    /// For the adapters of family `classify`.
    pub(in crate::transport) classify: Option<ClassifyParameters>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct AnalyzeResponse {
    pub(in crate::transport) id: String,
    #[schema(example = "analyze")]
    pub(in crate::transport) object: &'static str,
    /// By adapter as asked; those that failed are missing.
    pub(in crate::transport) adapters: BTreeMap<String, AdapterIdentity>,
    /// Of the entities.
    pub(in crate::transport) offset_unit: OffsetUnit,
    /// One an input, in order: by adapter as asked.
    pub(in crate::transport) results: Vec<BTreeMap<String, AdapterResult>>,
    pub(in crate::transport) usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::transport) enum AdapterResult {
    Ner(NerResult),
    Classify(ClassifyResult),
    Failed(AdapterFailure),
}

/// This adapter failed; the others answered.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct AdapterFailure {
    error: FailureBody,
    #[serde(skip)]
    cause: Option<Error>,
}

#[derive(Debug, Serialize, ToSchema)]
struct FailureBody {
    #[schema(example = "adapter_not_found")]
    code: &'static str,
    status: u16,
    detail: String,
}

impl AdapterFailure {
    pub(in crate::transport) fn new(cause: &Error) -> Self {
        let (code, status) = (cause.kind().code(), error::row(cause.kind()).0.as_u16());
        let error = FailureBody { code, status, detail: error::detail(cause).to_owned() };
        Self { error, cause: Some(cause.clone()) }
    }

    pub(in crate::transport) fn into_cause(self) -> Error {
        self.cause.unwrap_or_else(|| Error::internal("a failure without a cause"))
    }
}

impl AdapterResult {
    pub(in crate::transport) fn tokens(&self) -> usize {
        match self {
            Self::Ner(result) => result.tokens,
            Self::Classify(result) => result.tokens,
            Self::Failed(_) => 0,
        }
    }
}

//! The JSON of `/v1/classify`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain;
use crate::domain::{Activation, ClassifyPrediction, Error, HypothesisTemplate, Result};
use crate::transport::schema;
use crate::transport::wire::{AdapterIdentity, Inputs, InputsSchema, LongText, Usage, candidate_labels};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct ClassifyRequest {
    #[schema(value_type = InputsSchema)]
    pub(in crate::transport) inputs: Inputs,
    /// `name`, `name@version` or an alias; default: the alias `default-classify`.
    #[schema(value_type = Option<schema::AdapterReference>, example = "bank-intents")]
    pub(in crate::transport) adapter: Option<String>,
    pub(in crate::transport) parameters: Option<ClassifyParameters>,
}

/// Every field is optional; `null` is its default.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct ClassifyParameters {
    /// Only so many labels, best first; default: all.
    #[schema(minimum = 1, maximum = 4294967295u32)]
    pub(in crate::transport) top_k: Option<u32>,
    /// From logits to scores; default: the adapter's own.
    pub(in crate::transport) function_to_apply: Option<FunctionToApply>,
    /// Labels scored lower are left out.
    #[schema(default = 0.0)]
    pub(in crate::transport) threshold: Option<f32>,
    #[schema(default = "truncate")]
    pub(in crate::transport) long_text: Option<LongText>,
    /// Zero-shot: the classes to choose from, with an adapter whose head compares with named concepts.
    #[schema(value_type = Option<BTreeSet<schema::CandidateLabel>>, min_items = 1, max_items = 256)]
    pub(in crate::transport) candidate_labels: Option<Vec<String>>,
    /// Zero-shot: what is encoded of each class, its name in place of `{}`.
    #[schema(value_type = Option<schema::Template>, default = "{}")]
    pub(in crate::transport) hypothesis_template: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::transport) enum FunctionToApply {
    Softmax,
    Sigmoid,
    /// The logits themselves.
    None,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct ClassifyResponse {
    #[schema(example = "req_01938d2c7f1a7c7e8b1d2f3a4b5c6d7e")]
    pub(in crate::transport) id: String,
    #[schema(example = "classify")]
    pub(in crate::transport) object: &'static str,
    pub(in crate::transport) adapter: AdapterIdentity,
    /// One an input, in order.
    pub(in crate::transport) results: Vec<ClassifyResult>,
    pub(in crate::transport) usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct ClassifyResult {
    /// Best first.
    pub(in crate::transport) labels: Vec<ScoredLabel>,
    /// Tokens the encoder read for this input, special tokens included.
    pub(in crate::transport) tokens: usize,
    pub(in crate::transport) windows: usize,
    /// Whether some of the text went unread.
    pub(in crate::transport) truncated: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct ScoredLabel {
    #[schema(example = "card_arrival")]
    pub(in crate::transport) label: String,
    #[schema(example = 0.973)]
    pub(in crate::transport) score: f32,
}

impl ClassifyParameters {
    pub(in crate::transport) fn into_domain(self) -> Result<domain::ClassifyParameters> {
        let or = domain::ClassifyParameters::default();
        if self.top_k == Some(0) {
            return Err(Error::invalid("parameters.top_k: 0 labels; at least 1, or null for all"));
        }
        if self.hypothesis_template.is_some() && self.candidate_labels.is_none() {
            return Err(Error::invalid("parameters.hypothesis_template: there are no candidate_labels to put in it"));
        }
        let template = self.hypothesis_template.map(HypothesisTemplate::new).transpose();
        let template = template.map_err(|error| error.context("parameters.hypothesis_template"))?;
        Ok(domain::ClassifyParameters {
            top_k: self.top_k.map(|top_k| top_k as usize),
            activation: self.function_to_apply.map(Into::into),
            threshold: self.threshold.unwrap_or(or.threshold),
            long_text: self.long_text.map_or(or.long_text, Into::into),
            candidate_labels: candidate_labels(self.candidate_labels)?,
            hypothesis_template: template.unwrap_or_default(),
        })
    }
}

impl From<FunctionToApply> for Activation {
    fn from(function: FunctionToApply) -> Self {
        match function {
            FunctionToApply::Softmax => Self::Softmax,
            FunctionToApply::Sigmoid => Self::Sigmoid,
            FunctionToApply::None => Self::None,
        }
    }
}

impl From<ClassifyPrediction> for ClassifyResult {
    fn from(prediction: ClassifyPrediction) -> Self {
        let scored = |l: domain::ScoredLabel| ScoredLabel { label: l.label, score: l.score };
        Self {
            labels: prediction.labels.into_iter().map(scored).collect(),
            tokens: prediction.tokens,
            windows: prediction.windows,
            truncated: prediction.truncated,
        }
    }
}

//! The JSON of `/v1/embed`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain;
use crate::transport::schema;
use crate::transport::wire::{AdapterIdentity, BackboneIdentity, Inputs, LongText, TextsSchema, Usage};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct EmbedRequest {
    #[schema(value_type = TextsSchema)]
    pub(in crate::transport) inputs: Inputs,
    /// Default: the backbone alone.
    #[schema(value_type = Option<schema::AdapterReference>)]
    pub(in crate::transport) adapter: Option<String>,
    pub(in crate::transport) parameters: Option<EmbedParameters>,
}

/// Every field is optional; `null` is its default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct EmbedParameters {
    #[schema(default = "mean")]
    pub(in crate::transport) pooling: Option<Pooling>,
    /// To unit length.
    #[schema(default = true)]
    pub(in crate::transport) normalize: Option<bool>,
    /// Of a text past the backbone's own limit for embeddings. `window`: the mean of its windows.
    #[schema(default = "truncate")]
    pub(in crate::transport) long_text: Option<LongText>,
}

/// Which tokens' vectors make the text's.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::transport) enum Pooling {
    Mean,
    Cls,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct EmbedResponse {
    pub(in crate::transport) id: String,
    #[schema(example = "embed")]
    pub(in crate::transport) object: &'static str,
    /// `null`: the backbone alone.
    pub(in crate::transport) adapter: Option<AdapterIdentity>,
    pub(in crate::transport) backbone: BackboneIdentity,
    /// One vector an input, in order.
    pub(in crate::transport) embeddings: Vec<Vec<f32>>,
    /// One an input: whether some of the text went unread.
    pub(in crate::transport) truncated: Vec<bool>,
    pub(in crate::transport) usage: Usage,
}

impl From<EmbedParameters> for domain::EmbedParameters {
    fn from(parameters: EmbedParameters) -> Self {
        let or = Self::default();
        Self {
            pooling: parameters.pooling.map_or(or.pooling, Into::into),
            normalize: parameters.normalize.unwrap_or(or.normalize),
            long_text: parameters.long_text.map_or(or.long_text, Into::into),
        }
    }
}

impl From<Pooling> for domain::Pooling {
    fn from(pooling: Pooling) -> Self {
        match pooling {
            Pooling::Mean => Self::Mean,
            Pooling::Cls => Self::Cls,
        }
    }
}

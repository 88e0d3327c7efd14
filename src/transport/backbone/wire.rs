//! The JSON of the backbone.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::transport::BackboneView;

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Backbone {
    #[schema(example = "all-MiniLM-L6-v2")]
    name: String,
    /// SHA-256 of weights, config and tokenizer.
    fingerprint: String,
    #[schema(example = "bert")]
    architecture: String,
    #[schema(example = "f32")]
    precision: String,
    /// What computes its products.
    kernel: String,
    /// Tokens of one sequence, special ones included.
    max_length: usize,
    hidden_size: usize,
    layers: usize,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct ActivateBackbone {
    /// A name or a fingerprint.
    pub(in crate::transport) backbone: String,
}

impl From<&BackboneView> for Backbone {
    fn from(view: &BackboneView) -> Self {
        Self {
            name: view.name.clone(),
            fingerprint: view.fingerprint.to_string(),
            architecture: view.architecture.clone(),
            precision: view.precision.clone(),
            kernel: view.kernel.clone(),
            max_length: view.max_length,
            hidden_size: view.hidden_size,
            layers: view.layers,
        }
    }
}

//! The JSON of backbones.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::serving::BackboneView;

/// The active backbone, and all that are resident.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Backbone {
    #[serde(flatten)]
    pub(in crate::transport) active: ResidentBackbone,
    /// The active one too, oldest first.
    pub(in crate::transport) resident: Vec<ResidentBackbone>,
    /// Names that can be activated without a fetch; folders can be, too.
    pub(in crate::transport) available: Vec<String>,
}

/// A backbone in memory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::transport) struct ResidentBackbone {
    #[schema(example = "all-MiniLM-L6-v2")]
    pub(in crate::transport) name: String,
    /// SHA-256 of weights, config and tokenizer.
    pub(in crate::transport) fingerprint: String,
    /// Computes requests that name no adapter, and is what jobs train on.
    pub(in crate::transport) is_active: bool,
    #[schema(example = "bert")]
    pub(in crate::transport) architecture: String,
    #[schema(example = "f32")]
    pub(in crate::transport) precision: String,
    /// What computes its products.
    pub(in crate::transport) kernel: String,
    /// Tokens of one sequence, special ones included.
    pub(in crate::transport) max_length: usize,
    pub(in crate::transport) hidden_size: usize,
    pub(in crate::transport) layers: usize,
    /// Of its weights in memory.
    pub(in crate::transport) bytes: usize,
    /// Every version made for it.
    #[schema(example = json!(["people-places@3"]))]
    pub(in crate::transport) adapters: Vec<String>,
}

/// Which backbone is meant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct BackboneChoice {
    /// A name or a folder; of a resident one also its fingerprint.
    #[schema(min_length = 1)]
    pub(in crate::transport) backbone: String,
}

impl From<BackboneView> for ResidentBackbone {
    fn from(view: BackboneView) -> Self {
        Self {
            name: view.identity.name,
            fingerprint: view.identity.fingerprint.to_string(),
            is_active: view.is_active,
            architecture: view.architecture,
            precision: view.precision,
            kernel: view.kernel,
            max_length: view.max_length,
            hidden_size: view.hidden_size,
            layers: view.layers,
            bytes: view.bytes,
            adapters: view.adapters,
        }
    }
}

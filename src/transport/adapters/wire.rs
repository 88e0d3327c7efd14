//! The JSON of adapters.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::serving;
use crate::transport::schema;
use crate::transport::wire::{Binary, Time};

/// An adapter with all its versions; figures are the active version's.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Adapter {
    #[schema(example = "people-places")]
    name: String,
    /// `ner` or `classify`; `null` if no version can be read.
    #[schema(example = "ner")]
    family: Option<&'static str>,
    /// In head order.
    labels: Vec<String>,
    active_version: Option<u32>,
    versions: Vec<Version>,
    /// Never evicted for memory.
    pinned: bool,
    /// Aliases that lead here.
    aliases: Vec<String>,
    rank: Option<usize>,
    /// With LoRA, counted from 0 at the bottom.
    layers: Vec<usize>,
    /// Trained numbers.
    parameters: usize,
    bytes: u64,
    /// What its training reported.
    metrics: Option<serde_json::Value>,
    /// What computes the active version, once it ran: the backbone's precision, or `f32` where its answers would not be the same.
    #[schema(example = "bf16")]
    precision: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Version {
    version: u32,
    digest: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// `registered` (on disk), `loading`, `resident` (on the device) or `failed`.
    #[schema(example = "resident")]
    state: &'static str,
    /// Why it failed.
    reason: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Published {
    name: String,
    version: u32,
    digest: String,
    active: bool,
    /// What of the upload is doubtful, such as a `base_model_name_or_path` of another model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

/// A PEFT folder's files, each under its name; for the document alone.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(in crate::transport) struct AdapterForm {
    #[serde(rename = "adapter_config.json")]
    config: Binary,
    #[serde(rename = "adapter_model.safetensors")]
    weights: Binary,
    #[serde(rename = "trunkline.json")]
    card: Option<Binary>,
    /// Of the whole model, if it lies beside the adapter: its `id2label` and `problem_type` count where nothing else says so.
    #[serde(rename = "config.json")]
    model_config: Option<Binary>,
}

/// How to publish an upload.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::transport) struct PublishQuery {
    /// Answer from this version on; default true.
    pub(in crate::transport) activate: Option<bool>,
    /// In head order, separated by commas, for folders without a card.
    pub(in crate::transport) labels: Option<String>,
    /// `ner` or `classify`, for folders without a card.
    #[param(value_type = Option<schema::FamilyWord>)]
    pub(in crate::transport) family: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::transport) struct VersionQuery {
    /// Default: the active one (to delete: all of them).
    #[param(minimum = 1, maximum = 4294967295u32)]
    pub(in crate::transport) version: Option<u32>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct Activate {
    #[schema(minimum = 1, maximum = 4294967295u32)]
    pub(in crate::transport) version: u32,
}

impl From<serving::AdapterView> for Adapter {
    fn from(view: serving::AdapterView) -> Self {
        Self {
            name: view.name.to_string(),
            family: view.family.map(|family| family.as_str()),
            labels: view.labels,
            active_version: view.active_version,
            versions: view.versions.into_iter().map(Into::into).collect(),
            pinned: view.pinned,
            aliases: view.aliases.iter().map(ToString::to_string).collect(),
            rank: view.rank,
            layers: view.layers,
            parameters: view.parameters,
            bytes: view.bytes,
            metrics: view.metrics,
            precision: view.precision,
        }
    }
}

impl From<serving::VersionView> for Version {
    fn from(view: serving::VersionView) -> Self {
        Self {
            version: view.version,
            digest: view.digest.to_string(),
            created_at: Time(view.created_at),
            state: view.state.as_str(),
            reason: view.reason,
        }
    }
}

impl Published {
    pub(in crate::transport) fn new(published: serving::PublishedVersion, warnings: Vec<String>) -> Self {
        Self {
            name: published.name.to_string(),
            version: published.version,
            digest: published.digest.to_string(),
            active: published.active,
            warnings,
        }
    }
}

impl PublishQuery {
    pub(in crate::transport) fn labels(&self) -> Option<Vec<String>> {
        self.labels.as_ref().map(|labels| labels.split(',').map(|label| label.trim().to_owned()).collect())
    }
}

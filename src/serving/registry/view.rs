//! What the registry shows of itself.

use std::time::{Duration, SystemTime};

use crate::domain::{AdapterName, BackboneIdentity, Digest, Family};
use crate::serving::Backbone;
use crate::serving::registry::catalog::{Adapter, Catalog};
use crate::serving::registry::residency::{State, Version};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    Registered,
    Loading,
    Resident,
    Failed,
}

impl VersionState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Loading => "loading",
            Self::Resident => "resident",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct VersionView {
    pub version: u32,
    pub digest: Digest,
    pub created_at: SystemTime,
    pub state: VersionState,
    /// Why it failed.
    pub reason: Option<String>,
}

/// One adapter as `GET /v1/adapters` shows it; figures are the active version's.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterView {
    pub name: AdapterName,
    pub family: Option<Family>,
    pub labels: Vec<String>,
    pub active_version: Option<u32>,
    pub versions: Vec<VersionView>,
    pub pinned: bool,
    pub aliases: Vec<AdapterName>,
    pub rank: Option<usize>,
    pub layers: Vec<usize>,
    pub parameters: usize,
    pub bytes: u64,
    /// The card's `training.metrics`.
    pub metrics: Option<serde_json::Value>,
    /// What computes it, once it ran: the backbone's precision, or `f32` where its answers would not be the same.
    pub precision: Option<&'static str>,
}

/// One resident backbone as `GET /v1/admin/backbone` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackboneView {
    pub identity: BackboneIdentity,
    /// Computes requests without an adapter.
    pub is_active: bool,
    pub architecture: String,
    pub precision: String,
    pub kernel: String,
    pub max_length: usize,
    pub hidden_size: usize,
    pub layers: usize,
    /// Of its weights in memory.
    pub bytes: usize,
    /// `name@version` of every version made for it.
    pub adapters: Vec<String>,
}

impl BackboneView {
    pub(super) fn new(backbone: &Backbone, is_active: bool, adapters: Vec<String>) -> Self {
        let encoder = backbone.resident.encoder();
        let config = encoder.config();
        Self {
            identity: BackboneIdentity::clone(backbone.identity()),
            is_active,
            architecture: format!("{:?}", config.architecture).to_lowercase(),
            precision: encoder.precision().to_owned(),
            kernel: encoder.kernel_name().to_owned(),
            max_length: config.max_length,
            hidden_size: config.hidden_size,
            layers: config.layers,
            bytes: encoder.memory_bytes(),
            adapters,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedVersion {
    pub name: AdapterName,
    pub version: u32,
    pub digest: Digest,
    pub active: bool,
}

impl Catalog {
    pub(super) fn view(&self, adapter: &Adapter) -> AdapterView {
        let facts = adapter.active_version().and_then(|version| version.facts());
        AdapterView {
            name: adapter.name.clone(),
            family: facts.map(|facts| facts.family),
            labels: facts.map(|facts| facts.labels.clone()).unwrap_or_default(),
            active_version: adapter.active,
            versions: adapter.versions.iter().map(|version| version.view()).collect(),
            pinned: adapter.pinned,
            aliases: self.aliases_of(&adapter.name),
            rank: facts.map(|facts| facts.rank),
            layers: facts.map(|facts| facts.layers.clone()).unwrap_or_default(),
            parameters: facts.map_or(0, |facts| facts.parameters),
            bytes: facts.map_or(0, |facts| facts.bytes as u64),
            metrics: facts.and_then(|facts| facts.metrics.clone()),
            precision: facts.and_then(|facts| facts.precision),
        }
    }
}

impl Version {
    fn view(&self) -> VersionView {
        let (state, reason) = match &*self.state() {
            State::Registered => (VersionState::Registered, None),
            State::Loading => (VersionState::Loading, None),
            State::Resident(_) => (VersionState::Resident, None),
            State::Failed(error) => (VersionState::Failed, Some(error.to_string())),
        };
        let created_at = SystemTime::UNIX_EPOCH + Duration::from_secs(self.created_at);
        VersionView { version: self.version, digest: self.digest.clone(), created_at, state, reason }
    }
}

//! What the registry shows of itself.

use std::time::{Duration, SystemTime};

use crate::domain::{AdapterName, Digest, Family};
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

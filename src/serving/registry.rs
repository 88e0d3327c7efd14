//! Name → live version: snapshot, lease, swap. Registered (on disk) and resident (on the device) are two states.

use std::sync::Arc;
use std::time::SystemTime;

use crate::adapter::{AdapterFiles, AdapterStore};
use crate::domain::{AdapterName, AdapterRef, Alias, Digest, Family, Result};
use crate::engine::{Engine, ResidentAdapter};
use crate::telemetry::Metrics;

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

/// A version held by a request until its answer, whatever is published meanwhile.
#[derive(Clone)]
pub struct Lease {
    pub adapter: Arc<ResidentAdapter>,
    /// Of the alias that led here: sees the same request without answering.
    pub shadow: Option<AdapterRef>,
}

#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Bytes of resident adapters; unpinned ones are evicted, least recently used first.
    pub adapter_memory: usize,
    /// Of the backbone every adapter must be made for.
    pub fingerprint: Digest,
}

pub struct Registry {
    store: AdapterStore,
}

impl Registry {
    /// Reads the store and makes the active versions resident, as far as memory goes. An adapter that fails is listed as failed; the others serve.
    pub async fn open(
        store: AdapterStore,
        engine: Engine,
        metrics: Arc<Metrics>,
        config: RegistryConfig,
    ) -> Result<Arc<Self>> {
        let _ = (engine, metrics, config);
        Ok(Arc::new(Self { store }))
    }

    pub fn store(&self) -> &AdapterStore {
        &self.store
    }

    /// The version `reference` means now, resident; loads it if it is only registered, without delaying requests of others.
    /// `adapter_not_found` names the nearest.
    pub async fn lease(&self, reference: &AdapterRef) -> Result<Lease> {
        let _ = reference;
        todo!()
    }

    /// Validates all of it, makes it durable, makes it resident, then visible. Nothing is visible before it runs.
    pub async fn publish(&self, name: &AdapterName, files: AdapterFiles, activate: bool) -> Result<PublishedVersion> {
        let _ = (name, files, activate);
        todo!()
    }

    /// [`Registry::publish`] of an uploaded `.tar` or `.tar.gz`; `labels` and `family` are for folders that have no card.
    pub async fn publish_archive(
        &self,
        name: &AdapterName,
        archive: Vec<u8>,
        labels: Option<Vec<String>>,
        family: Option<Family>,
        activate: bool,
    ) -> Result<PublishedVersion> {
        let _ = (name, archive, labels, family, activate);
        todo!()
    }

    /// Promotes or rolls back, atomically.
    pub async fn activate(&self, name: &AdapterName, version: u32) -> Result<AdapterView> {
        let _ = (name, version);
        todo!()
    }

    /// Requests under way still finish.
    pub async fn retire(&self, name: &AdapterName, version: Option<u32>) -> Result<()> {
        let _ = (name, version);
        todo!()
    }

    pub async fn load(&self, name: &AdapterName, version: Option<u32>) -> Result<AdapterView> {
        let _ = (name, version);
        todo!()
    }

    pub async fn unload(&self, name: &AdapterName, version: Option<u32>) -> Result<AdapterView> {
        let _ = (name, version);
        todo!()
    }

    pub async fn set_pinned(&self, name: &AdapterName, pinned: bool) -> Result<AdapterView> {
        let _ = (name, pinned);
        todo!()
    }

    /// A version's PEFT folder (the active one's if None), as files and as `.tar`.
    pub async fn files(&self, name: &AdapterName, version: Option<u32>) -> Result<AdapterFiles> {
        let _ = (name, version);
        todo!()
    }

    pub async fn download(&self, name: &AdapterName, version: Option<u32>) -> Result<Vec<u8>> {
        let _ = (name, version);
        todo!()
    }

    pub fn list(&self) -> Vec<AdapterView> {
        todo!()
    }

    pub fn get(&self, name: &AdapterName) -> Result<AdapterView> {
        let _ = name;
        todo!()
    }

    pub async fn set_alias(&self, alias: &AdapterName, value: Alias) -> Result<()> {
        let _ = (alias, value);
        todo!()
    }

    pub async fn remove_alias(&self, alias: &AdapterName) -> Result<()> {
        let _ = alias;
        todo!()
    }

    pub fn aliases(&self) -> Vec<(AdapterName, Alias)> {
        todo!()
    }
}

//! Name → live version: snapshot, lease, swap. Registered (on disk) and resident (on the device) are two states.
//!
//! Readers resolve names in an immutable [`Catalog`] and take no lock; writers replace it, one at a time. A version's residency is its own
//! state, so a cold load or an eviction changes no catalog and delays nobody else. Leaves files to `adapter`, the device to `engine`.

mod admin;
mod backbones;
mod catalog;
mod loader;
mod names;
mod residency;
mod samples;
mod view;

use std::future::Future;
use std::sync::Arc;

use crate::adapter::{AdapterFiles, AdapterStore, Carded, read_archive, write_tar};
use crate::domain::{AdapterName, AdapterRef, Alias, Error, ErrorKind, Family, Result};
use crate::engine::ResidentAdapter;
use crate::engine::give_back_memory;
use crate::serving::{Backbone, Backbones, Part, degrade};
use crate::telemetry::Metrics;
use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tracing::warn;

use catalog::{Catalog, Found};
use residency::Residency;
pub use view::{AdapterView, BackboneView, PublishedVersion, VersionState, VersionView};

/// A version held by a request until its answer, whatever is published meanwhile.
#[derive(Clone)]
pub struct Lease {
    pub adapter: Arc<ResidentAdapter>,
    /// The one it was made for.
    pub backbone: Arc<Backbone>,
    /// Of the alias that led here: sees the same request without answering.
    pub shadow: Option<AdapterRef>,
}

#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Bytes of resident adapters; unpinned ones are evicted, least recently used first.
    pub adapter_memory: usize,
}

pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    residency: Arc<Residency>,
    backbones: Arc<Backbones>,
    catalog: ArcSwap<Catalog>,
    /// Held while the store and the catalog change together.
    writer: Mutex<()>,
    metrics: Arc<Metrics>,
}

impl Registry {
    /// Reads the store and makes the active versions resident, as far as memory goes, and before them the backbones they were made
    /// for, if they were resident when the process ended. An adapter that fails is listed as failed; the others serve. What cannot be
    /// read on disk degrades the server, and is asked for in vain.
    pub async fn open(
        store: AdapterStore,
        backbones: Arc<Backbones>,
        metrics: Arc<Metrics>,
        config: RegistryConfig,
    ) -> Result<Arc<Self>> {
        let residency = Arc::new(Residency::new(store, backbones.clone(), metrics.clone(), config)?);
        let store = residency.store().clone();
        let catalog = {
            let metrics = metrics.clone();
            blocking(move || Ok(read_catalog(&store, &metrics))).await?
        };
        let (snapshot, writer) = (ArcSwap::default(), Mutex::default());
        let inner = Arc::new(Inner { residency, backbones, catalog: snapshot, writer, metrics });
        for adapter in catalog.adapters() {
            inner.metrics.add_adapter(adapter.name.as_str());
        }
        inner.restore_backbones(&catalog).await;
        inner.preload(&catalog).await;
        inner.replace(catalog);
        // Reading the backbone and hundreds of adapters took more memory than keeping them does.
        give_back_memory();
        Ok(Arc::new(Self { inner }))
    }

    pub fn backbones(&self) -> &Arc<Backbones> {
        &self.inner.backbones
    }

    pub fn store(&self) -> &AdapterStore {
        self.inner.residency.store()
    }

    /// The version `reference` means now, resident; loads it if it is only registered, without delaying requests of others.
    /// `adapter_not_found` names the nearest.
    pub async fn lease(&self, reference: &AdapterRef) -> Result<Lease> {
        let found = self.inner.catalog.load().find(reference)?;
        self.inner.hold(found).await
    }

    /// Who answers when no adapter is named: the alias `default-ner` or `default-classify`, else the family's only adapter.
    pub async fn lease_default(&self, family: Family) -> Result<Lease> {
        let found = self.inner.catalog.load().find_default(family)?;
        self.inner.hold(found).await
    }

    /// Validates all of it, makes it durable, makes it resident, then visible. Nothing is visible before it runs.
    pub async fn publish(&self, name: &AdapterName, files: AdapterFiles, activate: bool) -> Result<PublishedVersion> {
        let name = name.clone();
        self.detached(|inner| async move { inner.publish(name, files, activate).await }).await
    }

    /// [`Registry::publish`] of an uploaded `.tar` or `.tar.gz`; `labels` and `family` are for folders that have no card. The second
    /// value is what of the folder is doubtful.
    pub async fn publish_archive(
        &self,
        name: &AdapterName,
        archive: Vec<u8>,
        labels: Option<Vec<String>>,
        family: Option<Family>,
        activate: bool,
    ) -> Result<(PublishedVersion, Vec<String>)> {
        let residency = self.inner.residency.clone();
        let carded = blocking(move || residency.with_card(read_archive(&archive)?, labels, family));
        let Carded { files, warnings } = carded.await?;
        warnings.iter().for_each(|warning| warn!(adapter = %name, warning, "a published adapter is doubtful"));
        Ok((self.publish(name, files, activate).await?, warnings))
    }

    /// Promotes or rolls back, atomically.
    pub async fn activate(&self, name: &AdapterName, version: u32) -> Result<AdapterView> {
        let name = name.clone();
        self.detached(move |inner| async move { inner.activate(name, version).await }).await
    }

    /// Requests under way still finish. `conflict` for what an alias points at, and for the active version among others.
    pub async fn retire(&self, name: &AdapterName, version: Option<u32>) -> Result<()> {
        let name = name.clone();
        self.detached(move |inner| async move { inner.retire(name, version).await }).await
    }

    /// Makes a version (None: the active one) resident; a failed one is tried again.
    pub async fn load(&self, name: &AdapterName, version: Option<u32>) -> Result<AdapterView> {
        let found = self.inner.catalog.load().version(name, version)?;
        self.inner.residency.load(found).await?;
        self.get(name)
    }

    /// Frees a version's memory; the next request loads it again.
    pub async fn unload(&self, name: &AdapterName, version: Option<u32>) -> Result<AdapterView> {
        let found = self.inner.catalog.load().version(name, version)?;
        if found.is_pinned() {
            return Err(Error::conflict(format!("adapter {name} is pinned; unpin it before it is unloaded")));
        }
        self.inner.residency.unload(&found);
        self.get(name)
    }

    /// A pinned adapter's active version is never evicted; pinning makes it resident.
    pub async fn set_pinned(&self, name: &AdapterName, pinned: bool) -> Result<AdapterView> {
        let name = name.clone();
        self.detached(move |inner| async move { inner.set_pinned(name, pinned).await }).await
    }

    /// A version's PEFT folder (the active one's if None).
    pub async fn files(&self, name: &AdapterName, version: Option<u32>) -> Result<AdapterFiles> {
        let found = self.inner.catalog.load().version(name, version)?;
        let store = self.inner.residency.store().clone();
        blocking(move || store.read(&found.name, found.version)).await
    }

    /// [`Registry::files`] as `.tar`.
    pub async fn download(&self, name: &AdapterName, version: Option<u32>) -> Result<Vec<u8>> {
        let files = self.files(name, version).await?;
        blocking(move || write_tar(&files)).await
    }

    pub fn list(&self) -> Vec<AdapterView> {
        let catalog = self.inner.catalog.load();
        catalog.adapters().map(|adapter| catalog.view(adapter)).collect()
    }

    pub fn get(&self, name: &AdapterName) -> Result<AdapterView> {
        let catalog = self.inner.catalog.load();
        Ok(catalog.view(catalog.adapter(name)?))
    }

    /// Creates or replaces an alias. Its targets and its shadow must exist; its name must be no adapter's.
    pub async fn set_alias(&self, alias: &AdapterName, value: Alias) -> Result<()> {
        let alias = alias.clone();
        self.detached(move |inner| async move { inner.set_alias(alias, value).await }).await
    }

    pub async fn remove_alias(&self, alias: &AdapterName) -> Result<()> {
        let alias = alias.clone();
        self.detached(move |inner| async move { inner.remove_alias(alias).await }).await
    }

    /// Makes a backbone resident, so that adapters for it can be published, without changing what is active.
    pub async fn load_backbone(&self, asked: &str) -> Result<()> {
        let asked = asked.to_owned();
        self.detached(|inner| async move { inner.load_backbone(asked).await }).await
    }

    /// Switches what computes requests without an adapter and what jobs train on. Adapters are computed by the backbone they were
    /// made for as before; the one active until now goes if no adapter was made for it. A rollback is the same call.
    pub async fn activate_backbone(&self, asked: &str) -> Result<()> {
        let asked = asked.to_owned();
        self.detached(|inner| async move { inner.activate_backbone(asked).await }).await
    }

    /// Takes a backbone off the device; its adapters are listed as failed until it is loaded again. `conflict` for the active one.
    pub async fn retire_backbone(&self, asked: &str) -> Result<()> {
        let asked = asked.to_owned();
        self.detached(|inner| async move { inner.retire_backbone(asked).await }).await
    }

    /// The resident ones, oldest first.
    pub fn backbone_views(&self) -> Vec<BackboneView> {
        self.inner.backbone_views()
    }

    /// By name. `unavailable` if nobody knows which there are.
    pub fn aliases(&self) -> Result<Vec<(AdapterName, Alias)>> {
        let catalog = self.inner.catalog.load();
        catalog.require_aliases().map(|()| catalog.aliases())
    }

    /// Runs a change to its end even if the caller goes away: store and catalog must not part.
    async fn detached<F, R>(&self, change: impl FnOnce(Arc<Inner>) -> F) -> Result<R>
    where
        F: Future<Output = Result<R>> + Send + 'static,
        R: Send + 'static,
    {
        tokio::spawn(change(self.inner.clone())).await.map_err(unfinished)?
    }
}

impl Inner {
    async fn hold(&self, found: Found) -> Result<Lease> {
        let (adapter, backbone) = self.residency.resident(&found.version).await?;
        Ok(Lease { adapter, backbone, shadow: found.shadow })
    }
}

/// What the store says, as far as it can be read.
fn read_catalog(store: &AdapterStore, metrics: &Metrics) -> Catalog {
    let (entries, unreadable) = store.list().unwrap_or_else(|error| {
        degrade(metrics, Part::Adapters, &error);
        Default::default()
    });
    for one in &unreadable {
        degrade(metrics, Part::Adapters, &Error::unavailable(one.to_string()));
    }
    if let Some(why) = store.is_read_only().filter(|why| why.kind() == ErrorKind::Unavailable) {
        degrade(metrics, Part::Adapters, why);
    }
    let aliases = store.aliases().map_err(Error::into_unavailable);
    if let Err(error) = &aliases {
        degrade(metrics, Part::Aliases, error);
    }
    Catalog::new(entries, aliases, unreadable)
}

/// File and tensor work, off the async threads.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    tokio::task::spawn_blocking(work).await.map_err(unfinished)?
}

fn unfinished(source: tokio::task::JoinError) -> Error {
    Error::internal("a change of the registry ended unexpectedly").with_source(source)
}

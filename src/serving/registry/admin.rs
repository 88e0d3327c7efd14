//! Changes: each makes the store durable first, then swaps the catalog, one change at a time.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use crate::adapter::AdapterFiles;
use crate::domain::{AdapterName, AdapterRef, Alias, Error, Family, Result};
use crate::serving::registry::catalog::{Adapter, Catalog};
use crate::serving::registry::residency::{Held, Room, State, Version};
use crate::serving::registry::view::{AdapterView, PublishedVersion};
use crate::serving::registry::{Inner, blocking};

impl Inner {
    /// Loads active versions until memory is full, pinned ones first, and describes the others. What fails is marked, not fatal.
    pub(super) async fn preload(&self, catalog: &Catalog) {
        let mut adapters: Vec<&Adapter> = catalog.adapters().collect();
        adapters.sort_by_key(|adapter| !adapter.pinned);
        let mut is_full = false;
        for adapter in adapters {
            for version in &adapter.versions {
                if is_full || adapter.active != Some(version.version) {
                    self.residency.list(version).await;
                } else {
                    // Marked as failed, or left registered: both show in the list.
                    let _listed = self.residency.load_into(version.clone(), Room::OnlyFree).await;
                    is_full = matches!(*version.state(), State::Registered);
                }
            }
        }
    }

    pub(super) async fn publish(
        self: Arc<Self>,
        name: AdapterName,
        files: AdapterFiles,
        activate: bool,
    ) -> Result<PublishedVersion> {
        let files =
            if files.card.is_some() { files } else { self.residency.with_card(files.into(), None, None)?.files };
        let (bundle, backbone) = self.residency.check(files.clone()).await?;
        self.may_be_named(&name, bundle.family())?;
        let family = bundle.family();
        let rehearsed = self.residency.rehearse(&name, files.digest(), bundle, backbone).await?;

        let _writer = self.writer.lock().await;
        self.may_be_named(&name, family)?;
        self.backbones.of(rehearsed.1.fingerprint())?;
        let (store, stored) = (self.residency.store().clone(), name.clone());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let entry = blocking(move || store.publish(&stored, &files, now, activate)).await?;
        let version = Arc::new(Version::new(name.clone(), &entry));
        let published =
            PublishedVersion { name: name.clone(), version: entry.version, digest: entry.digest, active: activate };
        self.introduce(version, rehearsed, activate);
        info!(adapter = %name, version = published.version, active = activate, "adapter published");
        Ok(published)
    }

    /// Resident first, visible then.
    fn introduce(&self, version: Arc<Version>, rehearsed: Held, activate: bool) {
        self.metrics.add_adapter(version.name.as_str());
        self.residency.adopt(&version, rehearsed, if activate { Room::Evict } else { Room::OnlyFree });
        self.residency.show(&version);
        self.change(|catalog| {
            let mut adapter = catalog.adapter(&version.name).cloned().unwrap_or_else(|_new| Adapter {
                name: version.name.clone(),
                active: None,
                pinned: false,
                versions: Vec::new(),
            });
            adapter.active = if activate { Some(version.version) } else { adapter.active };
            adapter.versions.push(version);
            catalog.put(adapter);
        });
    }

    /// One name is one family, and never an alias too.
    fn may_be_named(&self, name: &AdapterName, family: Family) -> Result<()> {
        let catalog = self.catalog.load();
        if catalog.has_alias(name) {
            return Err(Error::conflict(format!("{name} is an alias; an adapter needs another name")));
        }
        match catalog.adapter(name).ok().and_then(Adapter::family) {
            Some(known) if known != family => Err(Error::conflict(format!(
                "adapter {name} is of family {known}; one of family {family} needs another name"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) async fn activate(self: Arc<Self>, name: AdapterName, version: u32) -> Result<AdapterView> {
        let _writer = self.writer.lock().await;
        let found = self.catalog.load().version(&name, Some(version))?;
        self.residency.load(found).await?;
        let (store, stored) = (self.residency.store().clone(), name.clone());
        blocking(move || store.activate(&stored, version)).await?;
        self.edit(&name, |adapter| adapter.active = Some(version))?;
        info!(adapter = %name, version, "adapter activated");
        self.view(&name)
    }

    /// The backbone goes with the last version made for it, unless it is active.
    pub(super) async fn retire(self: Arc<Self>, name: AdapterName, version: Option<u32>) -> Result<()> {
        for retired in self.retire_versions(name, version).await? {
            let backbone = retired.facts().and_then(|facts| self.backbones.of(&facts.fingerprint).ok());
            let Some(backbone) = backbone else { continue };
            if let Err(error) = self.release(&backbone).await {
                warn!(backbone = backbone.identity().name, %error, "a backbone that no adapter needs any more stays");
            }
        }
        Ok(())
    }

    async fn retire_versions(&self, name: AdapterName, version: Option<u32>) -> Result<Vec<Arc<Version>>> {
        let _writer = self.writer.lock().await;
        let catalog = self.catalog.load_full();
        let adapter = catalog.adapter(&name)?;
        let version = match version {
            Some(version) => self.retirable(&catalog, adapter, version)?,
            None => None,
        };
        refuse_if_aliased(&catalog, &name, version)?;
        let (store, stored) = (self.residency.store().clone(), name.clone());
        blocking(move || store.retire(&stored, version)).await?;
        let goes = |known: &Arc<Version>| version.is_none_or(|version| known.version == version);
        let retired: Vec<Arc<Version>> = adapter.versions.iter().filter(|known| goes(known)).cloned().collect();
        match version {
            Some(_) => self.edit(&name, |adapter| adapter.versions.retain(|known| !goes(known)))?,
            None => self.change(|catalog| catalog.remove(&name)),
        }
        self.forget(&name, &retired, version.is_none());
        info!(adapter = %name, ?version, "adapter retired");
        Ok(retired)
    }

    /// The version to retire; None if it is the last and the adapter goes with it.
    fn retirable(&self, catalog: &Catalog, adapter: &Adapter, version: u32) -> Result<Option<u32>> {
        catalog.version(&adapter.name, Some(version))?;
        if adapter.versions.len() == 1 {
            return Ok(None);
        }
        if adapter.active == Some(version) {
            return Err(Error::conflict(format!(
                "version {version} of adapter {} is active; activate another before it is retired",
                adapter.name
            )));
        }
        Ok(Some(version))
    }

    fn forget(&self, name: &AdapterName, retired: &[Arc<Version>], whole: bool) {
        for version in retired {
            self.residency.retire(version);
            let number = version.version.to_string();
            drop(self.metrics.adapter_resident.remove_label_values(&[name.as_str(), number.as_str()]));
        }
        if whole {
            self.metrics.remove_adapter(name.as_str());
        }
    }

    pub(super) async fn set_pinned(self: Arc<Self>, name: AdapterName, pinned: bool) -> Result<AdapterView> {
        let _writer = self.writer.lock().await;
        let active = self.catalog.load().adapter(&name)?.active_version().cloned();
        if let Some(active) = active.filter(|_| pinned) {
            self.residency.load(active).await?;
        }
        let (store, stored) = (self.residency.store().clone(), name.clone());
        blocking(move || store.set_pinned(&stored, pinned)).await?;
        self.edit(&name, |adapter| adapter.pinned = pinned)?;
        self.view(&name)
    }

    pub(super) async fn set_alias(self: Arc<Self>, alias: AdapterName, value: Alias) -> Result<()> {
        let _writer = self.writer.lock().await;
        let catalog = self.catalog.load_full();
        catalog.require_aliases()?;
        check_alias(&catalog, &alias, &value)?;
        let (store, stored, kept) = (self.residency.store().clone(), alias.clone(), value.clone());
        blocking(move || store.set_alias(&stored, Some(&kept))).await?;
        info!(%alias, targets = value.targets.len(), "alias set");
        self.change(|catalog| catalog.put_alias(alias, value));
        Ok(())
    }

    pub(super) async fn remove_alias(self: Arc<Self>, alias: AdapterName) -> Result<()> {
        let _writer = self.writer.lock().await;
        let catalog = self.catalog.load_full();
        catalog.require_aliases()?;
        if !catalog.has_alias(&alias) {
            return Err(Error::not_found(format!("no alias {:?}", alias.as_str())));
        }
        let (store, stored) = (self.residency.store().clone(), alias.clone());
        blocking(move || store.set_alias(&stored, None)).await?;
        self.change(|catalog| catalog.remove_alias(&alias));
        info!(%alias, "alias removed");
        Ok(())
    }

    fn view(&self, name: &AdapterName) -> Result<AdapterView> {
        let catalog = self.catalog.load();
        Ok(catalog.view(catalog.adapter(name)?))
    }

    fn edit(&self, name: &AdapterName, edit: impl FnOnce(&mut Adapter)) -> Result<()> {
        let mut adapter = self.catalog.load().adapter(name)?.clone();
        edit(&mut adapter);
        self.change(|catalog| catalog.put(adapter));
        Ok(())
    }

    /// Readers see all of the change or nothing of it. Under the writer's lock.
    fn change(&self, change: impl FnOnce(&mut Catalog)) {
        let mut next = Catalog::clone(&self.catalog.load());
        change(&mut next);
        self.replace(next);
    }

    pub(super) fn replace(&self, next: Catalog) {
        for adapter in next.adapters() {
            adapter.versions.iter().for_each(|version| {
                version.set_pinned(adapter.pinned && adapter.active == Some(version.version));
                self.residency.show(version);
            });
        }
        let before = self.catalog.swap(Arc::new(next));
        before.adapters().for_each(|adapter| self.show_active(adapter, false));
        self.catalog.load().adapters().for_each(|adapter| self.show_active(adapter, true));
    }

    /// Adds or removes the series that describes the active version.
    fn show_active(&self, adapter: &Adapter, is_current: bool) {
        let name = adapter.name.as_str();
        let Some(version) = adapter.active_version().filter(|_| self.metrics.adapter_label(name) == name) else {
            return;
        };
        let Some(facts) = version.facts() else { return };
        let number = version.version.to_string();
        let labels = [name, number.as_str(), version.digest.as_str(), facts.family.as_str()];
        if is_current {
            self.metrics.adapter_info.with_label_values(&labels).set(1);
            self.metrics.set_labels(name, version.digest.as_str(), || facts.result_labels());
        } else {
            drop(self.metrics.adapter_info.remove_label_values(&labels));
        }
    }
}

fn refuse_if_aliased(catalog: &Catalog, name: &AdapterName, version: Option<u32>) -> Result<()> {
    let is_hit = |reference: &AdapterRef| {
        reference.name == *name && version.is_none_or(|version| reference.version == Some(version))
    };
    let aliases = catalog.pointing_at(is_hit);
    if aliases.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = aliases.iter().map(AdapterName::as_str).collect();
    Err(Error::conflict(format!("the alias {} points at adapter {name}; move or remove it first", names.join(", "))))
}

/// Targets are adapters, never aliases, so an alias cannot lead back to itself.
fn check_alias(catalog: &Catalog, alias: &AdapterName, value: &Alias) -> Result<()> {
    if catalog.adapter(alias).is_ok() {
        return Err(Error::conflict(format!("{alias} is an adapter; an alias needs another name")));
    }
    value.check().map_err(|error| error.context(format!("alias {alias}")))?;
    let mut families = Vec::new();
    for reference in value.targets.iter().map(|target| &target.adapter).chain(&value.shadow) {
        if catalog.has_alias(&reference.name) {
            return Err(Error::conflict(format!("target {reference} is itself an alias; an adapter is wanted")));
        }
        let version = catalog.version(&reference.name, reference.version)?;
        families.extend(version.facts().map(|facts| facts.family));
    }
    families.sort_unstable();
    families.dedup();
    match (&families[..], alias.as_str()) {
        ([_, _, ..], _) => Err(Error::conflict(format!("alias {alias} mixes families; all targets must be of one"))),
        ([Family::Classify], "default-ner") | ([Family::Ner], "default-classify") => {
            Err(Error::conflict(format!("alias {alias} leads to the other family ({})", families[0])))
        }
        _ => Ok(()),
    }
}

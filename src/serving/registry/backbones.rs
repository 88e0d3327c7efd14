//! Backbones and the adapters made for them: one comes with its adapters, and goes when none of them is left.

use std::sync::Arc;

use tracing::warn;

use crate::domain::{Digest, Result};
use crate::serving::registry::Inner;
use crate::serving::registry::catalog::{Adapter, Catalog};
use crate::serving::registry::residency::{Room, Version};
use crate::serving::registry::view::BackboneView;
use crate::serving::{Backbone, Part, degrade};

impl Inner {
    /// Loads what was resident when the process ended, as far as adapters were made for it, and forgets the rest. Where nobody knows what
    /// that was, it looks among all that could be loaded.
    pub(super) async fn restore_backbones(&self, catalog: &Catalog) {
        let _changing = self.backbones.changing().await;
        let active = self.backbones.active();
        let mut others = match self.backbones.remembered() {
            Ok(others) => others,
            Err(_lost) => self.backbones.available().await,
        };
        others.retain(|other| other.fingerprint != *active.fingerprint());
        if !others.is_empty() {
            self.describe_all(catalog).await;
        }
        for other in others.into_iter().filter(|other| is_wanted(catalog, &other.fingerprint)) {
            match self.backbones.bring(&other.name).await {
                Ok(found) if *found.fingerprint() != other.fingerprint => {
                    warn!(name = other.name, wanted = %other.fingerprint, found = %found.fingerprint(), "another backbone has the name of one that was resident");
                }
                Ok(_) => {}
                Err(error) => warn!(name = other.name, %error, "a backbone that was resident cannot be loaded"),
            }
        }
        if let Err(error) = self.backbones.settle().await {
            degrade(&self.metrics, Part::Backbones, &error);
        }
    }

    pub(super) async fn load_backbone(self: Arc<Self>, asked: String) -> Result<()> {
        let _changing = self.backbones.changing().await;
        let backbone = self.backbones.bring(&asked).await?;
        self.revive(&backbone).await;
        Ok(())
    }

    /// Its adapters are there before it is active.
    pub(super) async fn activate_backbone(self: Arc<Self>, asked: String) -> Result<()> {
        let _changing = self.backbones.changing().await;
        let backbone = self.backbones.bring(&asked).await?;
        self.revive(&backbone).await;
        let before = self.backbones.active();
        self.backbones.activate(&backbone).await?;
        self.release_now(&before).await
    }

    pub(super) async fn retire_backbone(self: Arc<Self>, asked: String) -> Result<()> {
        let _changing = self.backbones.changing().await;
        let backbone = self.backbones.called(&asked)?;
        self.remove(&backbone).await
    }

    /// Adapters that failed because their backbone was not there are tried again: active versions now, the others when they are asked for.
    async fn revive(&self, backbone: &Arc<Backbone>) {
        let catalog = self.catalog.load_full();
        for version in made_for(&catalog, backbone.fingerprint()) {
            version.forgive();
        }
        for active in catalog.adapters().filter_map(Adapter::active_version) {
            if active.is_for(backbone.fingerprint()) {
                // Resident already, marked as failed, or left registered: all show in the list.
                let _listed = self.residency.load_into(active.clone(), Room::OnlyFree).await;
            }
        }
    }

    /// After a version made for `backbone` was retired.
    pub(super) async fn release(&self, backbone: &Arc<Backbone>) -> Result<()> {
        let _changing = self.backbones.changing().await;
        self.release_now(backbone).await
    }

    /// It goes if nothing that was made for it is left and it is not active. Nothing is published meanwhile.
    async fn release_now(&self, backbone: &Arc<Backbone>) -> Result<()> {
        let _writer = self.writer.lock().await;
        let catalog = self.catalog.load_full();
        self.describe_all(&catalog).await;
        let is_active = Arc::ptr_eq(&self.backbones.active(), backbone);
        if is_active || is_wanted(&catalog, backbone.fingerprint()) {
            return Ok(());
        }
        self.remove(backbone).await
    }

    /// Out of sight first, so that no load can bring an adapter of it back.
    async fn remove(&self, backbone: &Arc<Backbone>) -> Result<()> {
        self.backbones.remove(backbone).await?;
        let gone = self.backbones.of(backbone.fingerprint()).err();
        let catalog = self.catalog.load_full();
        for version in made_for(&catalog, backbone.fingerprint()) {
            gone.iter().for_each(|gone| self.residency.orphan(version, gone));
        }
        Ok(())
    }

    /// Learns of every version which backbone it was made for.
    async fn describe_all(&self, catalog: &Catalog) {
        let versions = catalog.adapters().flat_map(|adapter| &adapter.versions);
        for version in versions.filter(|version| version.facts().is_none()) {
            self.residency.describe(version).await;
        }
    }

    pub(super) fn backbone_views(&self) -> Vec<BackboneView> {
        let (active, catalog) = (self.backbones.active(), self.catalog.load());
        let view = |backbone: &Arc<Backbone>| {
            let adapters = made_for(&catalog, backbone.fingerprint()).map(|v| format!("{}@{}", v.name, v.version));
            BackboneView::new(backbone, Arc::ptr_eq(backbone, &active), adapters.collect())
        };
        self.backbones.resident().iter().map(view).collect()
    }
}

fn made_for<'a>(catalog: &'a Catalog, fingerprint: &'a Digest) -> impl Iterator<Item = &'a Arc<Version>> {
    catalog.adapters().flat_map(|adapter| &adapter.versions).filter(move |version| version.is_for(fingerprint))
}

fn is_wanted(catalog: &Catalog, fingerprint: &Digest) -> bool {
    made_for(catalog, fingerprint).next().is_some()
}

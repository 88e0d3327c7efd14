//! Backbones on the device: the active one, and those that stay for the adapters made for them. Leaves names and files to
//! who implements [`BackboneSource`], the adapters to the registry.
//!
//! Readers take a snapshot. Who changes the set holds [`Backbones::changing`], writes the journal, then swaps the snapshot;
//! a request keeps the backbone it was admitted with, whatever the set is by then.

mod journal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};
use tracing::{info, warn};

use crate::domain::{BackboneIdentity, Digest, Error, ErrorKind, Result};
use crate::engine::{ResidentBackbone, give_back_memory};
use crate::telemetry::Metrics;
use crate::text::Tokenizer;

pub use journal::BackboneJournal;

/// Backbones on the device at once: each takes as much memory as the first, and an operator swaps two.
const RESIDENT_MAX: usize = 8;

/// A backbone that can compute, and what turns texts into its tokens.
pub struct Backbone {
    pub tokenizer: Arc<Tokenizer>,
    /// Its files, in Hugging Face layout.
    pub folder: PathBuf,
    /// Tokens of a text that it was trained to embed, special ones included; None: as many as it reads.
    pub embedded_tokens_max: Option<usize>,
    /// Dropped last: it gives back what all of it took.
    pub resident: Arc<ResidentBackbone>,
}

impl Backbone {
    pub fn identity(&self) -> &Arc<BackboneIdentity> {
        &self.resident.identity
    }

    pub fn fingerprint(&self) -> &Digest {
        &self.resident.identity.fingerprint
    }

    /// What it is called, here and where it came from.
    pub fn names(&self) -> Vec<String> {
        let origin = self.resident.encoder().config().origin.clone();
        std::iter::once(self.identity().name.clone()).chain(origin).collect()
    }

    /// Tokens of one sequence, special ones included.
    pub fn max_length(&self) -> usize {
        self.resident.encoder().config().max_length
    }

    /// Tokens of one text that is embedded, special ones included.
    pub fn embedded_length(&self) -> usize {
        self.embedded_tokens_max.unwrap_or(usize::MAX).min(self.max_length())
    }

    fn is_called(&self, name: &str) -> bool {
        self.identity().name == name || self.fingerprint().as_str() == name
    }
}

/// What a name leads to, before it is loaded.
#[derive(Clone, Debug)]
pub struct FoundBackbone {
    pub identity: BackboneIdentity,
    pub folder: PathBuf,
}

/// Where backbones come from. All methods block.
pub trait BackboneSource: Send + Sync {
    /// By the files as they are now; fetches nothing. `not_found` says where it was looked for.
    fn find(&self, name: &str) -> Result<FoundBackbone>;
    /// Ready to compute: it has run once.
    fn load(&self, found: &FoundBackbone) -> Result<Backbone>;
    /// What could be activated by name.
    fn names(&self) -> Vec<String>;
    /// Makes a backbone of this name: that of `parent`'s folder with the weights that `write` writes to a file, and `provenance`
    /// beside them. There whole or not at all; one that is there and equal stays. `conflict` where nothing can be kept, or the
    /// name is another backbone's.
    fn keep(&self, name: &str, parent: &Path, provenance: &Value, write: WriteWeights<'_>) -> Result<FoundBackbone> {
        let _ = (parent, provenance, write);
        Err(Error::conflict(format!("backbone {name:?} cannot be kept: this process has no place for new ones")))
    }
}

/// Writes `model.safetensors` to a path.
pub type WriteWeights<'a> = &'a mut dyn FnMut(&Path) -> Result<()>;

/// A snapshot.
#[derive(Clone)]
struct Set {
    active: Arc<Backbone>,
    /// The active one too, oldest first.
    resident: Vec<Arc<Backbone>>,
}

pub struct Backbones {
    set: ArcSwap<Set>,
    /// None: what the process started with is all there is.
    source: Option<Arc<dyn BackboneSource>>,
    journal: Option<BackboneJournal>,
    /// Whether what was resident before this start was brought back: until then the journal keeps saying what that was.
    settled: AtomicBool,
    changes: Mutex<()>,
    metrics: Arc<Metrics>,
}

impl Backbones {
    /// With one that is active. `journal` keeps the set for the next start.
    pub fn start(
        active: Backbone,
        source: Option<Arc<dyn BackboneSource>>,
        journal: Option<BackboneJournal>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let active = Arc::new(active);
        let set = Set { resident: vec![active.clone()], active };
        show(&metrics, &[], &set);
        let (set, settled) = (ArcSwap::from_pointee(set), AtomicBool::new(false));
        Arc::new(Self { set, source, journal, settled, changes: Mutex::default(), metrics })
    }

    /// Computes what names no adapter, and is trained on.
    pub fn active(&self) -> Arc<Backbone> {
        self.set.load().active.clone()
    }

    /// The one an adapter was made for. `conflict` if it is not resident.
    pub fn of(&self, fingerprint: &Digest) -> Result<Arc<Backbone>> {
        let set = self.set.load();
        let found = set.resident.iter().find(|backbone| backbone.fingerprint() == fingerprint);
        found.cloned().ok_or_else(|| {
            Error::conflict(format!(
                "the adapter was made for backbone {fingerprint}, which is not resident; resident is {}: load or activate the backbone it was made for",
                listed(&set.resident)
            ))
        })
    }

    /// [`BackboneSource::keep`] with `parent`'s configuration and tokenizer. Blocks.
    pub(super) fn keep(
        &self,
        name: &str,
        parent: &Backbone,
        provenance: &Value,
        write: WriteWeights<'_>,
    ) -> Result<BackboneIdentity> {
        let source = self.source.as_ref().ok_or_else(|| no_source(name))?;
        Ok(source.keep(name, &parent.folder, provenance, write)?.identity)
    }

    /// Oldest first.
    pub fn resident(&self) -> Vec<Arc<Backbone>> {
        self.set.load().resident.clone()
    }

    /// What could be activated by name, resident or not.
    pub async fn names(&self) -> Result<Vec<String>> {
        let Some(source) = self.source.clone() else { return Ok(Vec::new()) };
        blocking(move || Ok(source.names())).await
    }

    /// Names and fingerprints of those that were resident when the set last changed, before this start; or why nobody knows.
    pub(super) fn remembered(&self) -> Result<Vec<BackboneIdentity>> {
        self.journal.as_ref().map_or(Ok(Vec::new()), BackboneJournal::before)
    }

    /// Everything that could be loaded. All of it is hashed, so this is for a start without a journal.
    pub(super) async fn available(&self) -> Vec<BackboneIdentity> {
        let mut found = Vec::new();
        for name in self.names().await.unwrap_or_default() {
            match self.find(&name).await {
                Ok(backbone) => found.push(backbone.identity),
                Err(error) => warn!(backbone = name, %error, "a backbone cannot be read"),
            }
        }
        found.sort_by(|a, b| a.fingerprint.as_str().cmp(b.fingerprint.as_str()));
        found.dedup_by(|a, b| a.fingerprint == b.fingerprint);
        found
    }

    /// Held over a change of the set, from the look at it to the swap.
    pub(super) async fn changing(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Makes a backbone resident by name, or finds it resident by name or fingerprint. Under [`Backbones::changing`].
    pub(super) async fn bring(&self, asked: &str) -> Result<Arc<Backbone>> {
        let found = match self.find(asked).await {
            Ok(found) => found,
            // Its folder may be gone, or the name may be a fingerprint.
            Err(error) => return self.called(asked).map_err(|_| error),
        };
        if let Ok(resident) = self.of(&found.identity.fingerprint) {
            return Ok(resident);
        }
        let count = self.set.load().resident.len();
        if count >= RESIDENT_MAX {
            return Err(Error::conflict(format!(
                "{count} backbones are resident, as many as may be; retire one first"
            )));
        }
        let Some(source) = self.source.clone() else { return Err(no_source(asked)) };
        let load = move || {
            let backbone = source.load(&found);
            // Reading and packing took more memory than the backbone keeps.
            give_back_memory();
            backbone
        };
        let backbone = Arc::new(blocking(load).await?);
        self.swap(|set| set.resident.push(backbone.clone())).await?;
        info!(backbone = backbone.identity().name, fingerprint = %backbone.fingerprint(), "backbone loaded");
        Ok(backbone)
    }

    async fn find(&self, asked: &str) -> Result<FoundBackbone> {
        let (source, name) = (self.source.clone().ok_or_else(|| no_source(asked))?, asked.to_owned());
        blocking(move || source.find(&name)).await
    }

    /// A resident one by name or fingerprint.
    pub(super) fn called(&self, asked: &str) -> Result<Arc<Backbone>> {
        let resident = self.resident();
        let called: Vec<&Arc<Backbone>> = resident.iter().filter(|backbone| backbone.is_called(asked)).collect();
        match called[..] {
            [one] => Ok(one.clone()),
            [] => Err(Error::not_found(format!("no resident backbone {asked:?}; resident is {}", listed(&resident)))),
            _ => Err(Error::conflict(format!(
                "several resident backbones are called {asked:?}; the fingerprint of one is wanted"
            ))),
        }
    }

    /// What is admitted from now on without an adapter runs on `backbone`, which is resident. Under [`Backbones::changing`].
    pub(super) async fn activate(&self, backbone: &Arc<Backbone>) -> Result<()> {
        self.swap(|set| set.active = backbone.clone()).await?;
        info!(backbone = backbone.identity().name, fingerprint = %backbone.fingerprint(), "backbone activated");
        Ok(())
    }

    /// Takes a backbone off the device; requests that hold it still finish. Under [`Backbones::changing`].
    pub(super) async fn remove(&self, backbone: &Arc<Backbone>) -> Result<()> {
        if Arc::ptr_eq(&self.active(), backbone) {
            return Err(Error::conflict(format!(
                "backbone {} is the active one; activate another before it is retired",
                backbone.identity().name
            )));
        }
        self.swap(|set| set.resident.retain(|one| !Arc::ptr_eq(one, backbone))).await?;
        info!(backbone = backbone.identity().name, fingerprint = %backbone.fingerprint(), "backbone retired");
        Ok(())
    }

    /// Writes the set as it is to the journal: what was resident before this start and is not wanted any more is forgotten.
    pub(super) async fn settle(&self) -> Result<()> {
        self.settled.store(true, Ordering::SeqCst);
        self.swap(|_same| ()).await
    }

    /// Durable first, then seen.
    async fn swap(&self, change: impl FnOnce(&mut Set)) -> Result<()> {
        let before = self.set.load_full();
        let mut next = Set::clone(&before);
        change(&mut next);
        if let Some(journal) = self.journal.clone().filter(|_| self.settled.load(Ordering::SeqCst)) {
            let active = BackboneIdentity::clone(next.active.identity());
            let resident = next.resident.iter().map(|one| BackboneIdentity::clone(one.identity())).collect();
            blocking(move || journal.write(&active, resident)).await?;
        }
        show(&self.metrics, &before.resident, &next);
        self.set.store(Arc::new(next));
        Ok(())
    }
}

/// The series of resident backbones, and of no other.
fn show(metrics: &Metrics, before: &[Arc<Backbone>], now: &Set) {
    for backbone in &now.resident {
        let labels = labels(backbone);
        let own = [labels[0], labels[1]];
        metrics.backbone_info.with_label_values(&labels).set(1);
        metrics.backbone_active.with_label_values(&own).set(i64::from(Arc::ptr_eq(backbone, &now.active)));
        metrics.backbone_bytes.with_label_values(&own).set(backbone.resident.encoder().memory_bytes() as i64);
    }
    let is_gone = |one: &&Arc<Backbone>| now.resident.iter().all(|other| other.fingerprint() != one.fingerprint());
    for gone in before.iter().filter(is_gone).map(labels) {
        drop(metrics.backbone_info.remove_label_values(&gone));
        drop(metrics.backbone_active.remove_label_values(&gone[..2]));
        drop(metrics.backbone_bytes.remove_label_values(&gone[..2]));
    }
}

/// Name, fingerprint, precision and kernel.
fn labels(backbone: &Arc<Backbone>) -> [&str; 4] {
    let (identity, encoder) = (backbone.identity(), backbone.resident.encoder());
    [&identity.name, identity.fingerprint.as_str(), encoder.precision(), encoder.kernel_name()]
}

fn listed(backbones: &[Arc<Backbone>]) -> String {
    let one = |backbone: &Arc<Backbone>| format!("{} ({})", backbone.identity().name, backbone.fingerprint());
    backbones.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn no_source(asked: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("backbone {asked:?} is not resident, and no other can be loaded here"))
}

/// File and tensor work, off the async threads.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    let unfinished = |source| Error::internal("a change of the backbones ended unexpectedly").with_source(source);
    tokio::task::spawn_blocking(work).await.map_err(unfinished)?
}

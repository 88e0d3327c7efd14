//! Which versions are on the device: loaded once however many ask, off the request path; evicted least recently used first.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tracing::{debug, info, warn};

use crate::adapter::{
    AdapterBundle, AdapterCard, AdapterFiles, AdapterStore, Carded, LoraConfig, MadeFor, Upload, VersionEntry,
};
use crate::domain::{AdapterIdentity, AdapterName, Digest, Error, ErrorKind, Family, Result, Tag};
use crate::engine::ResidentAdapter;
use crate::serving::registry::loader::Loader;
use crate::serving::registry::samples::samples;
use crate::serving::registry::{RegistryConfig, blocking, unfinished};
use crate::serving::{Backbone, Backbones};
use crate::telemetry::{LabelValue as _, LoadOutcome, Metrics};

/// One version of an adapter; the same object in every catalog that knows it.
pub(super) struct Version {
    pub(super) name: AdapterName,
    pub(super) version: u32,
    pub(super) digest: Digest,
    /// Seconds since 1970.
    pub(super) created_at: u64,
    state: ArcSwap<State>,
    /// Of a version that has run.
    facts: OnceLock<Facts>,
    /// What its small files say, where there was no room to load it at the start.
    described: OnceLock<Facts>,
    /// Held by who loads it.
    flight: Arc<tokio::sync::Mutex<()>>,
    /// The tick of its last lease.
    last_used: AtomicU64,
    pinned: AtomicBool,
    /// No catalog knows it any more.
    retired: AtomicBool,
}

pub(super) enum State {
    Registered,
    Loading,
    Resident(Held),
    Failed(Error),
}

/// A resident version and the backbone it runs on.
pub(super) type Held = (Arc<ResidentAdapter>, Arc<Backbone>);

/// What stays known of a version once it has been read.
pub(super) struct Facts {
    /// Of the backbone it was made for.
    pub(super) fingerprint: Digest,
    pub(super) family: Family,
    pub(super) labels: Vec<String>,
    pub(super) rank: usize,
    pub(super) layers: Vec<usize>,
    pub(super) parameters: usize,
    pub(super) bytes: usize,
    pub(super) metrics: Option<serde_json::Value>,
    /// What computes it; none of a version that has not run.
    pub(super) precision: Option<&'static str>,
}

impl Facts {
    fn of(adapter: &ResidentAdapter) -> Self {
        let labels = adapter.labels.as_slice().to_vec();
        let (rank, layers, parameters, bytes) =
            (adapter.rank, adapter.layers.clone(), adapter.parameters, adapter.bytes);
        let (family, metrics) = (adapter.card.family, metrics_of(&adapter.card));
        let fingerprint = adapter.card.backbone_fingerprint.clone();
        let precision = Some(adapter.precision());
        Self { fingerprint, family, labels, rank, layers, parameters, bytes, metrics, precision }
    }

    /// All but what only the weights tell.
    fn described(config: LoraConfig, card: AdapterCard) -> Self {
        let (family, metrics) = (card.family, metrics_of(&card));
        let layers = config.layers_to_transform.unwrap_or_default();
        let (fingerprint, labels) = (card.backbone_fingerprint, card.labels);
        let rank = config.rank;
        Self { fingerprint, family, labels, rank, layers, parameters: 0, bytes: 0, metrics, precision: None }
    }
}

impl Facts {
    /// What its answers are counted by: classes, or entity types.
    pub(super) fn result_labels(&self) -> BTreeSet<String> {
        let of = |label: &String| match self.family {
            Family::Ner => Tag::parse(label).label().unwrap_or(label).to_owned(),
            Family::Classify => label.clone(),
        };
        self.labels.iter().map(of).collect()
    }
}

/// The figures of its training; a list of adapters has no room for more than that many bytes of each, which the card may well have.
fn metrics_of(card: &AdapterCard) -> Option<serde_json::Value> {
    const BYTES_MAX: usize = 16 << 10;
    let metrics = card.training.as_ref()?.get("metrics")?;
    (metrics.to_string().len() <= BYTES_MAX).then(|| metrics.clone())
}

impl Version {
    pub(super) fn new(name: AdapterName, entry: &VersionEntry) -> Self {
        Self {
            name,
            version: entry.version,
            digest: entry.digest.clone(),
            created_at: entry.created_at,
            state: ArcSwap::from_pointee(State::Registered),
            facts: OnceLock::new(),
            described: OnceLock::new(),
            flight: Arc::default(),
            last_used: AtomicU64::new(0),
            pinned: AtomicBool::new(false),
            retired: AtomicBool::new(false),
        }
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    pub(super) fn facts(&self) -> Option<&Facts> {
        self.facts.get().or_else(|| self.described.get())
    }

    /// What it was computed in; none of a version that has not run. Files never change: what ran once runs again.
    fn precision(&self) -> Option<&'static str> {
        self.facts.get().and_then(|facts| facts.precision)
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    pub(super) fn set_pinned(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Relaxed);
    }

    pub(super) fn is_for(&self, fingerprint: &Digest) -> bool {
        self.facts().is_some_and(|facts| facts.fingerprint == *fingerprint)
    }

    fn resident(&self) -> Option<Held> {
        match &**self.state.load() {
            State::Resident(held) => Some(held.clone()),
            _ => None,
        }
    }

    /// A failure that may be over.
    pub(super) fn forgive(&self) {
        if matches!(&**self.state.load(), State::Failed(_)) {
            self.set(State::Registered);
        }
    }

    /// A version that failed its checks fails them again: its files never change.
    fn verdict(&self) -> Option<Error> {
        match &**self.state.load() {
            State::Failed(error) if matches!(error.kind(), ErrorKind::Unprocessable | ErrorKind::Conflict) => {
                Some(error.clone())
            }
            _ => None,
        }
    }

    fn identity(&self, family: Family) -> AdapterIdentity {
        AdapterIdentity { name: self.name.clone(), version: self.version, digest: self.digest.clone(), family }
    }

    fn set(&self, state: State) {
        self.state.store(Arc::new(state));
    }
}

/// Whether a load may push others out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Evict,
    OnlyFree,
}

pub(super) struct Residency {
    store: Arc<AdapterStore>,
    backbones: Arc<Backbones>,
    loader: Loader,
    metrics: Arc<Metrics>,
    config: RegistryConfig,
    /// Counts leases: who was leased longest ago has the smallest.
    ticks: AtomicU64,
    residents: Mutex<Vec<(Arc<Version>, usize)>>,
}

impl Residency {
    pub(super) fn new(
        store: AdapterStore,
        backbones: Arc<Backbones>,
        metrics: Arc<Metrics>,
        config: RegistryConfig,
    ) -> Result<Self> {
        let (store, ticks, residents) = (Arc::new(store), AtomicU64::new(1), Mutex::default());
        Ok(Self { store, backbones, loader: Loader::start()?, metrics, config, ticks, residents })
    }

    pub(super) fn store(&self) -> &Arc<AdapterStore> {
        &self.store
    }

    /// Gives a folder fresh from PEFT the card it lacks: it is taken to be made for the active backbone.
    pub(super) fn with_card(
        &self,
        upload: Upload,
        labels: Option<Vec<String>>,
        family: Option<Family>,
    ) -> Result<Carded> {
        let backbone = self.backbones.active();
        let names = backbone.names();
        let (fingerprint, max_length) = (backbone.fingerprint(), backbone.max_length());
        upload.with_card(labels, family, MadeFor { fingerprint, max_length, names: &names })
    }

    /// For a request: at once if it is resident, else when it is loaded. What failed its checks is refused without another try.
    pub(super) async fn resident(self: &Arc<Self>, version: &Arc<Version>) -> Result<Held> {
        version.last_used.store(self.ticks.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        match version.resident() {
            Some(held) => Ok(held),
            None => match version.verdict() {
                Some(error) => Err(error),
                None => self.load(version.clone()).await,
            },
        }
    }

    pub(super) async fn load(self: &Arc<Self>, version: Arc<Version>) -> Result<Held> {
        self.load_into(version, Room::Evict).await
    }

    /// One load at a time for each version; it goes on if the asker leaves, for those who wait behind it.
    pub(super) async fn load_into(self: &Arc<Self>, version: Arc<Version>, room: Room) -> Result<Held> {
        let flight = version.flight.clone().lock_owned().await;
        if let Some(held) = version.resident() {
            return Ok(held);
        }
        let this = self.clone();
        let load = async move {
            let _flight = flight;
            this.load_now(&version, room).await
        };
        tokio::spawn(load).await.map_err(unfinished)?
    }

    async fn load_now(&self, version: &Arc<Version>, room: Room) -> Result<Held> {
        version.set(State::Loading);
        let started = Instant::now();
        let outcome = self
            .read(version)
            .await
            .map_err(|error| error.context(format!("adapter {}@{} cannot be loaded", version.name, version.version)));
        let label = self.metrics.adapter_label(version.name.as_str());
        let word = if outcome.is_ok() { LoadOutcome::Ok } else { LoadOutcome::Error };
        self.metrics.adapter_loads.with_label_values(&[label.as_str(), word.as_str()]).inc();
        self.metrics.adapter_load_seconds.observe(started.elapsed().as_secs_f64());
        match outcome {
            Ok(held) => self.settle(version, held, room),
            Err(error) => {
                warn!(adapter = %version.name, version = version.version, %error, "adapter failed to load");
                if version.facts().is_none() {
                    self.describe(version).await;
                }
                version.set(State::Failed(error.clone()));
                Err(error)
            }
        }
    }

    async fn read(&self, version: &Arc<Version>) -> Result<Held> {
        let (store, backbones, version) = (self.store.clone(), self.backbones.clone(), version.clone());
        let read = move || {
            let files = store.read(&version.name, version.version)?;
            let (bundle, backbone) = open(&files, &backbones)?;
            let identity = version.identity(bundle.family());
            let resident = &backbone.resident;
            let adapter = match version.precision() {
                Some(known) if known == resident.encoder().precision() => {
                    Arc::new(ResidentAdapter::new(identity, bundle, resident)?)
                }
                Some(_) => Arc::new(ResidentAdapter::exact(identity, bundle, resident)?),
                None => resident.admit_agreeing(identity, bundle, &samples(&backbone)?)?,
            };
            Ok((adapter, backbone))
        };
        self.loader.run(read).await
    }

    /// Learns of a version what can be listed without its weights. One that cannot be read says so when it is loaded.
    pub(super) async fn describe(&self, version: &Arc<Version>) {
        let (store, of) = (self.store.clone(), version.clone());
        let facts = self.loader.run(move || store.describe(&of.name, of.version)).await;
        match facts {
            Ok((config, card)) => drop(version.described.set(Facts::described(config, card))),
            Err(error) => {
                warn!(adapter = %version.name, version = version.version, %error, "adapter cannot be described")
            }
        }
    }

    /// Of what is not loaded at the start: described, and failed if its backbone is not there.
    pub(super) async fn list(&self, version: &Arc<Version>) {
        self.describe(version).await;
        let backbone = version.facts().map(|facts| self.backbones.of(&facts.fingerprint));
        if let Some(Err(error)) = backbone {
            version.set(State::Failed(error));
        }
    }

    /// The files as a bundle for a resident backbone; `unprocessable` or `conflict` with all problems.
    pub(super) async fn check(&self, files: AdapterFiles) -> Result<(AdapterBundle, Arc<Backbone>)> {
        let backbones = self.backbones.clone();
        blocking(move || open(&files, &backbones)).await
    }

    /// A bundle that has no version yet, after it ran and if it could be resident.
    pub(super) async fn rehearse(
        &self,
        name: &AdapterName,
        digest: Digest,
        bundle: AdapterBundle,
        backbone: Arc<Backbone>,
    ) -> Result<Held> {
        let identity = AdapterIdentity { name: name.clone(), version: 0, digest, family: bundle.family() };
        let on = backbone.clone();
        let admit = move || on.resident.admit_agreeing(identity, bundle, &samples(&on)?);
        let adapter = self.loader.run(admit).await?;
        match victims(&self.standing(&self.residents()), adapter.bytes, self.config.adapter_memory) {
            Some(_) => Ok((adapter, backbone)),
            None => Err(self.no_room(name, adapter.bytes)),
        }
    }

    /// Makes a version resident that ran before it had its number.
    pub(super) fn adopt(&self, version: &Arc<Version>, (rehearsed, backbone): Held, room: Room) {
        let adapter = rehearsed.identified(version.identity(rehearsed.identity.family));
        if let Err(error) = self.settle(version, (adapter, backbone), room) {
            info!(adapter = %version.name, version = version.version, %error, "published, not resident");
        }
    }

    fn settle(&self, version: &Arc<Version>, (adapter, backbone): Held, room: Room) -> Result<Held> {
        version.facts.get_or_init(|| Facts::of(&adapter));
        let mut residents = self.residents();
        if version.retired.load(Ordering::SeqCst) {
            // Whoever waited for it still gets it; nobody else will ask.
            return Ok((adapter, backbone));
        }
        if let Err(error) = self.backbones.of(backbone.fingerprint()) {
            version.set(State::Failed(error));
            return Ok((adapter, backbone));
        }
        let victims = victims(&self.standing(&residents), adapter.bytes, self.config.adapter_memory);
        let Some(mut victims) = victims.filter(|victims| victims.is_empty() || room == Room::Evict) else {
            version.set(State::Registered);
            return Err(self.no_room(&version.name, adapter.bytes));
        };
        victims.sort_unstable();
        for at in victims.into_iter().rev() {
            let (victim, bytes) = residents.remove(at);
            debug!(adapter = %victim.name, version = victim.version, bytes, "adapter evicted");
            victim.set(State::Registered);
            self.metrics.adapter_evictions.inc();
            self.show(&victim);
        }
        residents.push((version.clone(), adapter.bytes));
        version.set(State::Resident((adapter.clone(), backbone.clone())));
        self.show(version);
        self.show_residents(&residents);
        Ok((adapter, backbone))
    }

    /// Takes a version off the device; requests that hold it still finish.
    pub(super) fn unload(&self, version: &Arc<Version>) {
        self.take_off(version, State::Registered);
    }

    /// [`Residency::unload`] of a version whose backbone went, `gone` as the reason.
    pub(super) fn orphan(&self, version: &Arc<Version>, gone: &Error) {
        self.take_off(version, State::Failed(gone.clone()));
    }

    fn take_off(&self, version: &Arc<Version>, state: State) {
        let mut residents = self.residents();
        residents.retain(|(resident, _)| !Arc::ptr_eq(resident, version));
        version.set(state);
        self.show(version);
        self.show_residents(&residents);
    }

    /// [`Residency::unload`] for good: a load under way will not bring it back.
    pub(super) fn retire(&self, version: &Arc<Version>) {
        version.retired.store(true, Ordering::SeqCst);
        self.unload(version);
    }

    fn residents(&self) -> MutexGuard<'_, Vec<(Arc<Version>, usize)>> {
        self.residents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standing(&self, residents: &[(Arc<Version>, usize)]) -> Vec<Standing> {
        let standing = |(version, bytes): &(Arc<Version>, usize)| Standing {
            bytes: *bytes,
            last_used: version.last_used.load(Ordering::Relaxed),
            pinned: version.is_pinned(),
        };
        residents.iter().map(standing).collect()
    }

    fn no_room(&self, name: &AdapterName, bytes: usize) -> Error {
        let memory = self.config.adapter_memory;
        Error::unavailable(format!(
            "adapter {name} needs {bytes} bytes; of {memory} bytes for adapters too many are pinned or taken: unpin one or raise --adapter-memory"
        ))
    }

    /// Shows whether a version is resident, for adapters that have series of their own.
    pub(super) fn show(&self, version: &Version) {
        let label = self.metrics.adapter_label(version.name.as_str());
        if label == version.name.as_str() {
            let resident = i64::from(version.resident().is_some());
            self.metrics.adapter_resident.with_label_values(&[label, version.version.to_string()]).set(resident);
        }
    }

    fn show_residents(&self, residents: &[(Arc<Version>, usize)]) {
        let bytes: usize = residents.iter().map(|(_, bytes)| bytes).sum();
        self.metrics.adapter_bytes.set(bytes as i64);
        self.metrics.adapters_resident.set(residents.len() as i64);
    }
}

/// The files for the resident backbone that they were made for.
fn open(files: &AdapterFiles, backbones: &Backbones) -> Result<(AdapterBundle, Arc<Backbone>)> {
    let backbone = backbones.of(&files.read_card()?.backbone_fingerprint)?;
    let bundle = AdapterBundle::read(files, backbone.resident.encoder(), backbone.fingerprint())?;
    Ok((bundle, backbone))
}

#[derive(Clone, Copy)]
struct Standing {
    bytes: usize,
    last_used: u64,
    pinned: bool,
}

/// Who must go so that `incoming` bytes fit into `memory`: least recently used first, never a pinned one. None: it cannot fit.
fn victims(residents: &[Standing], incoming: usize, memory: usize) -> Option<Vec<usize>> {
    let mut used: usize = residents.iter().map(|resident| resident.bytes).sum();
    let mut candidates: Vec<usize> = (0..residents.len()).filter(|&at| !residents[at].pinned).collect();
    candidates.sort_by_key(|&at| residents[at].last_used);
    let mut victims = Vec::new();
    let mut next = candidates.into_iter();
    while used + incoming > memory {
        let victim = next.next()?;
        used -= residents[victim].bytes;
        victims.push(victim);
    }
    Some(victims)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Residents as `bytes@last_used`, a pinned one with `!`.
    #[track_caller]
    fn check(residents: &str, incoming: usize, expected: Option<&[usize]>) {
        let standing = |word: &str| {
            let (bytes, used) = word.trim_end_matches('!').split_once('@').unwrap();
            Standing { bytes: bytes.parse().unwrap(), last_used: used.parse().unwrap(), pinned: word.ends_with('!') }
        };
        let residents: Vec<Standing> = residents.split_whitespace().map(standing).collect();
        assert_eq!(victims(&residents, incoming, 10).as_deref(), expected);
    }

    #[test]
    fn who_was_used_longest_ago_goes_first_and_pinned_ones_stay() {
        check("", 10, Some(&[]));
        check("", 11, None);
        check("4@1 4@2", 2, Some(&[]));
        check("4@2 4@1", 3, Some(&[1]));
        check("4@2 4@1", 10, Some(&[1, 0]));
        check("4@1! 4@2", 5, Some(&[1]));
        check("4@1! 4@2", 7, None);
    }
}

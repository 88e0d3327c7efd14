//! Which versions are on the device: loaded once however many ask, off the request path; evicted least recently used first.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tracing::{debug, info, warn};

use crate::adapter::{AdapterBundle, AdapterCard, AdapterFiles, AdapterStore, LoraConfig, VersionEntry};
use crate::domain::{AdapterIdentity, AdapterName, Digest, Error, ErrorKind, Family, Result};
use crate::engine::{Engine, ResidentAdapter};
use crate::serving::registry::loader::Loader;
use crate::serving::registry::{RegistryConfig, blocking, unfinished};
use crate::telemetry::Metrics;

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
    Resident(Arc<ResidentAdapter>),
    Failed(Error),
}

/// What stays known of a version once it has been read.
pub(super) struct Facts {
    pub(super) family: Family,
    pub(super) labels: Vec<String>,
    pub(super) rank: usize,
    pub(super) layers: Vec<usize>,
    pub(super) parameters: usize,
    pub(super) bytes: usize,
    pub(super) metrics: Option<serde_json::Value>,
}

impl Facts {
    fn of(adapter: &ResidentAdapter) -> Self {
        let labels = adapter.labels.as_slice().to_vec();
        let (rank, layers, parameters, bytes) =
            (adapter.rank, adapter.layers.clone(), adapter.parameters, adapter.bytes);
        let (family, metrics) = (adapter.card.family, metrics_of(&adapter.card));
        Self { family, labels, rank, layers, parameters, bytes, metrics }
    }

    /// All but what only the weights tell.
    fn described(config: LoraConfig, card: AdapterCard) -> Self {
        let (family, metrics) = (card.family, metrics_of(&card));
        let layers = config.layers_to_transform.unwrap_or_default();
        Self { family, labels: card.labels, rank: config.rank, layers, parameters: 0, bytes: 0, metrics }
    }
}

fn metrics_of(card: &AdapterCard) -> Option<serde_json::Value> {
    card.training.as_ref().and_then(|training| training.get("metrics").cloned())
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

    /// Files never change: what ran once runs again.
    fn has_run(&self) -> bool {
        self.facts.get().is_some()
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    pub(super) fn set_pinned(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Relaxed);
    }

    fn resident(&self) -> Option<Arc<ResidentAdapter>> {
        match &**self.state.load() {
            State::Resident(adapter) => Some(adapter.clone()),
            _ => None,
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
    engine: Engine,
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
        engine: Engine,
        metrics: Arc<Metrics>,
        config: RegistryConfig,
    ) -> Result<Self> {
        let (store, ticks, residents) = (Arc::new(store), AtomicU64::new(1), Mutex::default());
        Ok(Self { store, engine, loader: Loader::start()?, metrics, config, ticks, residents })
    }

    pub(super) fn store(&self) -> &Arc<AdapterStore> {
        &self.store
    }

    /// Gives a folder fresh from PEFT the card it lacks.
    pub(super) fn with_card(
        &self,
        files: AdapterFiles,
        labels: Option<Vec<String>>,
        family: Option<Family>,
    ) -> Result<AdapterFiles> {
        files.with_card(labels, family, &self.config.fingerprint, self.engine.encoder().config().max_length)
    }

    /// For a request: at once if it is resident, else when it is loaded. What failed its checks is refused without another try.
    pub(super) async fn resident(self: &Arc<Self>, version: &Arc<Version>) -> Result<Arc<ResidentAdapter>> {
        version.last_used.store(self.ticks.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        match version.resident() {
            Some(adapter) => Ok(adapter),
            None => match version.verdict() {
                Some(error) => Err(error),
                None => self.load(version.clone()).await,
            },
        }
    }

    pub(super) async fn load(self: &Arc<Self>, version: Arc<Version>) -> Result<Arc<ResidentAdapter>> {
        self.load_into(version, Room::Evict).await
    }

    /// One load at a time for each version; it goes on if the asker leaves, for those who wait behind it.
    pub(super) async fn load_into(self: &Arc<Self>, version: Arc<Version>, room: Room) -> Result<Arc<ResidentAdapter>> {
        let flight = version.flight.clone().lock_owned().await;
        if let Some(adapter) = version.resident() {
            return Ok(adapter);
        }
        let this = self.clone();
        let load = async move {
            let _flight = flight;
            this.load_now(&version, room).await
        };
        tokio::spawn(load).await.map_err(unfinished)?
    }

    async fn load_now(&self, version: &Arc<Version>, room: Room) -> Result<Arc<ResidentAdapter>> {
        version.set(State::Loading);
        let started = Instant::now();
        let outcome = self
            .read(version)
            .await
            .map_err(|error| error.context(format!("adapter {}@{} cannot be loaded", version.name, version.version)));
        let label = self.metrics.adapter_label(version.name.as_str());
        let word = if outcome.is_ok() { "ok" } else { "error" };
        self.metrics.adapter_loads.with_label_values(&[label.as_str(), word]).inc();
        self.metrics.adapter_load_seconds.observe(started.elapsed().as_secs_f64());
        match outcome {
            Ok(adapter) => self.settle(version, adapter, room),
            Err(error) => {
                warn!(adapter = %version.name, version = version.version, %error, "adapter failed to load");
                version.set(State::Failed(error.clone()));
                Err(error)
            }
        }
    }

    async fn read(&self, version: &Arc<Version>) -> Result<Arc<ResidentAdapter>> {
        let (store, engine, version) = (self.store.clone(), self.engine.clone(), version.clone());
        let fingerprint = self.config.fingerprint.clone();
        let read = move || {
            let files = store.read(&version.name, version.version)?;
            let bundle = AdapterBundle::read(&files, engine.encoder(), &fingerprint)?;
            let identity = version.identity(bundle.family());
            match version.has_run() {
                true => ResidentAdapter::new(identity, bundle, engine.encoder()).map(Arc::new),
                false => engine.admit(identity, bundle),
            }
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

    /// The files as a bundle for this backbone; `unprocessable` or `conflict` with all problems.
    pub(super) async fn check(&self, files: AdapterFiles) -> Result<AdapterBundle> {
        let (encoder, fingerprint) = (self.engine.encoder().clone(), self.config.fingerprint.clone());
        blocking(move || AdapterBundle::read(&files, &encoder, &fingerprint)).await
    }

    /// A bundle that has no version yet, after it ran and if it could be resident.
    pub(super) async fn rehearse(
        &self,
        name: &AdapterName,
        digest: Digest,
        bundle: AdapterBundle,
    ) -> Result<Arc<ResidentAdapter>> {
        let identity = AdapterIdentity { name: name.clone(), version: 0, digest, family: bundle.family() };
        let engine = self.engine.clone();
        let adapter = self.loader.run(move || engine.admit(identity, bundle)).await?;
        match victims(&self.standing(&self.residents()), adapter.bytes, self.config.adapter_memory) {
            Some(_) => Ok(adapter),
            None => Err(self.no_room(name, adapter.bytes)),
        }
    }

    /// Makes a version resident that ran before it had its number.
    pub(super) fn adopt(&self, version: &Arc<Version>, rehearsed: &ResidentAdapter, room: Room) {
        let adapter = rehearsed.identified(version.identity(rehearsed.identity.family));
        if let Err(error) = self.settle(version, adapter, room) {
            info!(adapter = %version.name, version = version.version, %error, "published, not resident");
        }
    }

    fn settle(
        &self,
        version: &Arc<Version>,
        adapter: Arc<ResidentAdapter>,
        room: Room,
    ) -> Result<Arc<ResidentAdapter>> {
        version.facts.get_or_init(|| Facts::of(&adapter));
        let mut residents = self.residents();
        if version.retired.load(Ordering::SeqCst) {
            // Whoever waited for it still gets it; nobody else will ask.
            return Ok(adapter);
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
        version.set(State::Resident(adapter.clone()));
        self.show(version);
        self.show_bytes(&residents);
        Ok(adapter)
    }

    /// Takes a version off the device; requests that hold it still finish.
    pub(super) fn unload(&self, version: &Arc<Version>) {
        let mut residents = self.residents();
        residents.retain(|(resident, _)| !Arc::ptr_eq(resident, version));
        version.set(State::Registered);
        self.show(version);
        self.show_bytes(&residents);
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

    fn show_bytes(&self, residents: &[(Arc<Version>, usize)]) {
        let bytes: usize = residents.iter().map(|(_, bytes)| bytes).sum();
        self.metrics.adapter_bytes.set(bytes as i64);
    }
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

//! Builds the parts bottom-up and hands each its own configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::adapter::AdapterStore;
use crate::app::config::environment;
use crate::app::progress::Progress;
use crate::backbone::{BackboneCache, Sources, embedded_tokens_max};
use crate::domain::{BackboneIdentity, Digest, Error, Result};
use crate::engine::{Engine, EngineConfig, ResidentBackbone};
use crate::model::kernels::packed::Kernel;
use crate::model::{Encoder, open_device};
use crate::serving::{Backbone, Backbones, Inference, InferenceConfig, Registry, RegistryConfig};
use crate::telemetry::Metrics;
use crate::text::Tokenizer;

/// Which network, where.
#[derive(Clone, Debug, Args)]
pub(super) struct ModelArgs {
    /// Backbone: "default" (minilm-mtpf of backbones/), a name on the hub, as sentence-transformers/all-MiniLM-L6-v2, or a folder in
    /// Hugging Face layout [default: "default"; of serve: the one activated last]
    #[arg(long, value_name = "NAME|DIR")]
    pub(super) backbone: Option<String>,
    /// Where backbones are kept [default: the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub(super) cache_dir: Option<PathBuf>,
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    pub(super) device: String,
    /// auto, f32 or bf16; auto is bf16 where the machine multiplies it and agreement with f32 was checked for the backbone
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "bf16"])]
    pub(super) precision: String,
    /// Instructions of the CPU's products: auto (the fastest this machine has), or one by name, for comparisons
    #[arg(long, default_value = "auto", value_parser = kernel_names())]
    pub(super) kernel: String,
    /// Compute threads [default: what the container's quota allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
}

/// Where adapters are, and how much memory they may take.
#[derive(Clone, Debug, Args)]
pub(super) struct StoreArgs {
    /// Adapters, one folder each
    #[arg(long, default_value = "adapters", value_name = "DIR")]
    pub(super) adapters_dir: PathBuf,
    /// Memory of resident adapters, in bytes
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES")]
    pub(super) adapter_memory: usize,
}

/// What a command without `--backbone` computes with.
pub(super) const DEFAULT_BACKBONE: &str = "default";

/// Where it is kept, from the repository, or from the image's work folder.
const BUNDLED_BACKBONE: &str = "backbones/minilm-mtpf";

/// Folders above the program that may be the repository: it is in `target/release`.
const FOLDERS_ABOVE_MAX: usize = 4;

/// The network and its tokenizer.
pub(super) struct Model {
    pub(super) name: String,
    pub(super) fingerprint: Digest,
    /// Its files.
    pub(super) folder: PathBuf,
    /// Of a text that is embedded; None: as many as the encoder reads.
    pub(super) embedded_tokens_max: Option<usize>,
    pub(super) encoder: Arc<Encoder>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) threads: usize,
}

impl Model {
    /// What it is called, here and where it came from.
    pub(super) fn names(&self) -> Vec<String> {
        std::iter::once(self.name.clone()).chain(self.encoder.config().origin.clone()).collect()
    }

    /// Ready to serve: it has run once.
    pub(super) fn backbone(&self) -> Result<Backbone> {
        let identity = BackboneIdentity { name: self.name.clone(), fingerprint: self.fingerprint.clone() };
        let resident = ResidentBackbone::admit(identity, self.encoder.clone())?;
        let (tokenizer, folder) = (self.tokenizer.clone(), self.folder.clone());
        Ok(Backbone { resident, tokenizer, folder, embedded_tokens_max: self.embedded_tokens_max })
    }
}

impl ModelArgs {
    /// Without a home there is no cache; a backbone in a folder needs none.
    pub(super) fn cache(&self) -> BackboneCache {
        let root = self.cache_dir.clone().map_or_else(|| BackboneCache::default_root(environment), Ok);
        let cache = root.map_or_else(BackboneCache::without_root, BackboneCache::new);
        cache.with_sources(Sources::from_env(environment)).with_bundled(bundled_backbone())
    }

    /// The backbone asked for, else the default one.
    pub(super) fn load(&self) -> Result<Model> {
        self.load_from(&self.cache(), self.backbone.as_deref().unwrap_or(DEFAULT_BACKBONE))
    }

    /// Fetches (with a progress bar on a terminal) and verifies a backbone, then loads it.
    pub(super) fn load_from(&self, cache: &BackboneCache, name: &str) -> Result<Model> {
        let mut progress = Progress::bytes("fetching the backbone");
        let info = cache.resolve(name, &mut |source, done, total| progress.set(source, done, total))?;
        progress.finish();
        self.load_found(&info.name, &info.fingerprint, &info.folder)
    }

    /// Loads a verified backbone.
    pub(super) fn load_found(&self, name: &str, fingerprint: &Digest, folder: &Path) -> Result<Model> {
        let kernel = choose_kernel(&self.kernel, &self.precision, fingerprint.as_str())?;
        let encoder = Arc::new(Encoder::load_for(folder, &open_device(&self.device)?, kernel)?);
        let tokenizer = Arc::new(Tokenizer::load(folder)?);
        let config = encoder.config();
        tokenizer
            .check_fits(config.vocab_size, config.type_vocab_size, config.max_length)
            .map_err(|error| error.context(folder.display()))?;
        let embedded_tokens_max = embedded_tokens_max(folder, fingerprint)?;
        let (name, fingerprint, folder) = (name.to_owned(), fingerprint.clone(), folder.to_owned());
        Ok(Model { name, fingerprint, folder, embedded_tokens_max, encoder, tokenizer, threads: self.threads() })
    }

    /// The flag, else what the cgroup's quota and the affinity mask leave.
    fn threads(&self) -> usize {
        let quota = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(quota, usize::from)
    }
}

/// From the folder that the command runs in, else from one above the program; the first where it is in neither, for the message.
fn bundled_backbone() -> PathBuf {
    let here = PathBuf::from(BUNDLED_BACKBONE);
    let program = std::env::current_exe().unwrap_or_default();
    let above = program.ancestors().skip(1).take(FOLDERS_ABOVE_MAX).map(|folder| folder.join(BUNDLED_BACKBONE));
    std::iter::once(here.clone()).chain(above).find(|folder| folder.is_dir()).unwrap_or(here)
}

/// Backbones whose answers in bf16 were compared with those in f32 on ten data sets (`tests/acceptance/bf16_agrees.py`).
const BF16_CHECKED: [&str; 2] = [
    // sentence-transformers/all-MiniLM-L6-v2
    "sha256:843a1ab71ebc52c11094cfbef57c4a45525e2aa0a7bcda0cdaaef97bf2dd9b2f",
    // backbones/minilm-mtpf
    "sha256:c189d287bef67bc62d54ff69b8710a1366a2d09799858601422f89ed347987bf",
];

fn kernel_names() -> Vec<&'static str> {
    std::iter::once("auto").chain(Kernel::ALL.map(Kernel::name)).collect()
}

/// From `--kernel` and `--precision`.
fn choose_kernel(name: &str, precision: &str, fingerprint: &str) -> Result<Kernel> {
    let allows_bf16 = precision == "bf16" || (precision == "auto" && BF16_CHECKED.contains(&fingerprint));
    let kernel = Kernel::ALL.into_iter().find(|kernel| kernel.name() == name);
    if kernel.is_some_and(|kernel| precision != "auto" && kernel.is_bf16() != (precision == "bf16")) {
        return Err(Error::invalid(format!(
            "kernel {name:?} does not compute in the precision asked for, {precision:?}"
        )));
    }
    let kernel = kernel.unwrap_or_else(|| Kernel::best(allows_bf16));
    if precision == "bf16" && !kernel.is_bf16() {
        return Err(Error::invalid(
            "precision \"bf16\": this machine has no instructions for it; use --precision auto or f32",
        ));
    }
    Ok(kernel)
}

impl StoreArgs {
    pub(super) async fn registry(&self, backbones: Arc<Backbones>, metrics: Arc<Metrics>) -> Result<Arc<Registry>> {
        let config = RegistryConfig { adapter_memory: self.adapter_memory };
        Registry::open(AdapterStore::open(&self.adapters_dir)?, backbones, metrics, config).await
    }
}

/// A model with its registry and request path, for commands that answer without a server.
pub(super) async fn local_inference(model: &Model, store: &StoreArgs) -> Result<Inference> {
    let metrics = Arc::new(Metrics::new(ADAPTER_SERIES_MAX));
    let engine = Engine::start(&EngineConfig { threads: model.threads, prefix_cache_bytes: 0 })?;
    let backbones = Backbones::start(model.backbone()?, None, None, metrics.clone());
    let registry = store.registry(backbones, metrics.clone()).await?;
    let config = InferenceConfig {
        batch_tokens_max: BATCH_TOKENS,
        queue_tokens_max: queue_tokens(model.threads),
        request_timeout: LOCAL_TIMEOUT,
        tokenizer_threads: model.threads,
    };
    Ok(Inference::start(registry, engine, metrics, config))
}

/// Runs `future` on a runtime of its own.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(future)
}

/// The same, without a wait for blocking work that goes on: its result is nobody's any more, and what it writes is whole or not there.
pub(super) fn block_on_and_leave<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// The same without other threads, for a command that must leave the cores to what it measures.
pub(super) fn block_on_this_thread<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Tokens of the largest forward pass: a window of the longest usual encoder, or one text through several adapters.
pub(super) const BATCH_TOKENS: usize = 512;
/// Tokens in the queue and at work, for each thread that computes. A lone adapter may hold two thirds, which keeps every thread at
/// work and has four passes wait for it. Under overload a longer queue adds latency and no goodput (`cargo bench --bench overload`).
const QUEUE_TOKENS_A_THREAD: usize = 768;
/// Also with one thread a lone adapter may hold two of the largest passes.
const QUEUE_TOKENS_MIN: usize = 3 * BATCH_TOKENS;

/// Tokens in the queue and at work, where nobody says otherwise.
pub(super) fn queue_tokens(threads: usize) -> usize {
    (QUEUE_TOKENS_A_THREAD * threads).max(QUEUE_TOKENS_MIN)
}
/// Adapters with metric series of their own.
pub(super) const ADAPTER_SERIES_MAX: usize = 200;
/// A command on the terminal has no other caller to make room for.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(3600);

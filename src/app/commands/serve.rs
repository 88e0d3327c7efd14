//! `trunkline serve`: everything built bottom-up, served until a signal, drained.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use tracing::{error, info, warn};

use crate::app::backbones::{LocalBackbones, fits};
use crate::app::config::secret;
use crate::app::file_limit::make_room_for_connections;
use crate::app::shutdown::drain;
use crate::app::signals::Heard;
use crate::app::wiring::{
    ADAPTER_SERIES_MAX, BATCH_TOKENS, DEFAULT_BACKBONE, Model, ModelArgs, StoreArgs, block_on_and_leave, queue_tokens,
};
use crate::backbone::BackboneCache;
use crate::disk;
use crate::domain::{Error, ErrorKind, Result};
use crate::engine::{Engine, EngineConfig};
use crate::serving::jobs::{Jobs, JobsConfig};
use crate::serving::{BackboneJournal, Backbones, DatasetService, Health, Inference, InferenceConfig, Part, degrade};
use crate::telemetry::Metrics;
use crate::transport::{INPUTS_MAX, Server, Services, TransportConfig};

#[derive(Debug, Args)]
pub(in crate::app) struct ServeArgs {
    /// REST and gRPC, one port; port 0 takes a free one. An address or a name with a port, as localhost:8080
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR", value_parser = address)]
    pub(in crate::app) listen: SocketAddr,
    /// Moves the admin routes and the admin gRPC service to this address
    #[arg(long, value_name = "ADDR", value_parser = address)]
    admin_listen: Option<SocketAddr>,
    /// File with the admin key (or TRUNKLINE_ADMIN_KEY); without a key the admin routes answer on loopback only
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
    /// File with a key that inference routes demand (or TRUNKLINE_INFER_KEY)
    #[arg(long, value_name = "FILE")]
    infer_key_file: Option<PathBuf>,
    /// Without an inference key: serve everyone who reaches --listen, also from other machines
    #[arg(long, value_parser = BoolishValueParser::new())]
    allow_anonymous: bool,
    /// Answer /metrics without the inference key; they name adapters and labels
    #[arg(long, value_parser = BoolishValueParser::new())]
    metrics_public: bool,
    /// Jobs, datasets, checkpoints
    #[arg(long, default_value = "state", value_name = "DIR")]
    state_dir: PathBuf,
    /// Tokens of the largest forward pass; a longer sequence is cut into windows. Short texts of many callers share smaller passes
    #[arg(long, default_value_t = BATCH_TOKENS, value_name = "N")]
    max_batch_tokens: usize,
    /// Tokens in the queue and at work. Adapters share them: one that is asked alone may hold two thirds, more are refused with 429, and
    /// one with nothing queued is always admitted [default: 768 for each thread, 1536 at least]
    #[arg(long, value_name = "N")]
    max_queue_tokens: Option<usize>,
    /// Memory for texts' activations below their adapters' layers, kept for the next adapter asked about the same text, in bytes;
    /// 0 keeps none, since texts seldom come again (one of 32 tokens takes 49 kB)
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    prefix_cache: usize,
    /// A request without a deadline of its own gets this one, in milliseconds
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    request_timeout_ms: u64,
    /// Body of an inference request, in bytes
    #[arg(long, default_value_t = 2 << 20, value_name = "BYTES")]
    max_body_bytes: usize,
    /// Inputs of one request
    #[arg(long, default_value_t = INPUTS_MAX, value_name = "N")]
    max_inputs: usize,
    /// Adapter and dataset uploads, in bytes
    #[arg(long, default_value_t = 256 << 20, value_name = "BYTES")]
    max_upload_bytes: usize,
    /// Connections open at once; at the bound the client that is silent longest makes room for a new one
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_connections: usize,
    /// From a request's first byte (on a new connection: from its begin) to the end of its headers, in seconds
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = seconds())]
    header_timeout: u64,
    /// How long a connection is kept between two requests, in seconds; longer than the load balancer's own, which is often 60
    #[arg(long, default_value_t = 75, value_name = "SECONDS", value_parser = seconds())]
    keep_alive_timeout: u64,
    /// From the first to the last byte of a request's body, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = seconds())]
    body_timeout: u64,
    /// The same for an upload, for the time a client takes to read an answer, and between two messages of a stream, in seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = seconds())]
    transfer_timeout: u64,
    /// The least rate of a body and of reading an answer; a client may be --stall-timeout behind it
    #[arg(long, default_value_t = 500, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    min_bytes_per_second: u64,
    /// How far a client may be behind the least rate before its request is ended, in seconds
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = seconds())]
    stall_timeout: u64,
    /// Bytes of bodies, messages and answers in memory at once; 32 KiB of each connection come on top, and one upload of full size
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES")]
    max_inflight_bytes: usize,
    /// Training jobs waiting, paused or running; one more is refused
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_jobs: usize,
    /// Threads of a training job [default: as --threads]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    training_threads: Option<u16>,
    /// Adapters with metric series of their own; the rest share "other"
    #[arg(long, default_value_t = ADAPTER_SERIES_MAX, value_name = "N")]
    max_adapter_series: usize,
    /// After SIGTERM, SIGINT or SIGHUP: how long accepted requests may take, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    drain_timeout: u64,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    store: StoreArgs,
}

pub(in crate::app) fn run(args: ServeArgs, signals: &Heard) -> Result<()> {
    args.check()?;
    let transport = args.transport()?;
    transport.check()?;
    let journal = BackboneJournal::open(args.state_dir.join("backbones.json"));
    let (model, journal) = args.load(journal)?;
    make_room_for_connections(args.max_connections);
    block_on_and_leave(serve(args, transport, model, journal, signals))
}

async fn serve(
    args: ServeArgs,
    transport: TransportConfig,
    model: Model,
    journal: BackboneJournal,
    signals: &Heard,
) -> Result<()> {
    let health = Arc::new(Health::default());
    let services = args.services(&model, journal, &health).await?;
    let (inference, jobs, metrics) = (services.inference.clone(), services.jobs.clone(), services.metrics.clone());
    // The first probe warms the engine, so that ready means ready.
    let watchdog = Watchdog { inference: inference.clone(), health: health.clone(), metrics: services.metrics.clone() };
    watchdog.probe().await;
    let stop = signals.take_over();
    let server = Server::start(services, transport).await?;
    if let Err(error) = announce(&args.state_dir, &server) {
        degrade(&metrics, Part::State, &error);
    }
    let watching = tokio::spawn(watchdog.watch());
    let signal = stop.signalled().await?;
    info!(signal, drain_timeout_s = args.drain_timeout, "draining");
    let whole = drain(server, &inference, &jobs, &health, Duration::from_secs(args.drain_timeout)).await;
    watching.abort();
    if whole {
        info!("drained, every accepted request was answered")
    } else {
        warn!("drain deadline passed with requests unanswered")
    }
    Ok(())
}

impl ServeArgs {
    fn check(&self) -> Result<()> {
        for (flag, value) in [
            ("--max-inputs", self.max_inputs),
            ("--max-connections", self.max_connections),
            ("--max-jobs", self.max_jobs),
        ] {
            if value == 0 {
                return Err(Error::invalid(format!("{flag} 0: at least 1 is wanted")));
            }
        }
        if self.max_inflight_bytes < self.max_body_bytes {
            return Err(Error::invalid(format!(
                "--max-inflight-bytes {} is less than --max-body-bytes {}: a full body could never be read",
                self.max_inflight_bytes, self.max_body_bytes
            )));
        }
        if let Some(queue) = self.max_queue_tokens.filter(|&queue| queue < self.max_batch_tokens) {
            return Err(Error::invalid(format!(
                "--max-queue-tokens {queue} is less than --max-batch-tokens {}: no full batch could ever wait",
                self.max_batch_tokens
            )));
        }
        Ok(())
    }

    fn transport(&self) -> Result<TransportConfig> {
        Ok(TransportConfig {
            listen: self.listen,
            admin_listen: self.admin_listen,
            admin_key: key(self.admin_key_file.as_deref(), "TRUNKLINE_ADMIN_KEY")?,
            infer_key: key(self.infer_key_file.as_deref(), "TRUNKLINE_INFER_KEY")?,
            allow_anonymous: self.allow_anonymous,
            metrics_public: self.metrics_public,
            body_bytes_max: self.max_body_bytes,
            inputs_max: self.max_inputs,
            upload_bytes_max: self.max_upload_bytes,
            connections_max: self.max_connections,
            header_timeout: Duration::from_secs(self.header_timeout),
            keep_alive_timeout: Duration::from_secs(self.keep_alive_timeout),
            body_timeout: Duration::from_secs(self.body_timeout),
            transfer_timeout: Duration::from_secs(self.transfer_timeout),
            stall_timeout: Duration::from_secs(self.stall_timeout),
            bytes_per_second_min: self.min_bytes_per_second,
            inflight_bytes_max: self.max_inflight_bytes,
        })
    }

    /// The backbone asked for, else the one that was activated last, else the default one. If the second cannot be had the default one
    /// serves what it can, and the journal goes on naming the other.
    fn load(&self, journal: BackboneJournal) -> Result<(Model, BackboneJournal)> {
        let cache = self.backbones_cache();
        let last = journal.active().filter(|last| self.model.backbone.is_none() && *last != DEFAULT_BACKBONE);
        let (model, journal) = match last.map(|last| self.model.load_from(&cache, last)) {
            Some(Ok(model)) => (model, journal),
            Some(Err(error)) => {
                let error = error.context("the backbone that was activated last (--backbone takes another)");
                (self.model.load_from(&cache, DEFAULT_BACKBONE)?, journal.distrusted(error))
            }
            None => {
                let name = self.model.backbone.as_deref().unwrap_or(DEFAULT_BACKBONE);
                (self.model.load_from(&cache, name)?, journal)
            }
        };
        fits(self.max_batch_tokens, &model)?;
        Ok((model, journal))
    }

    /// The cache, and beside it what jobs left in the state folder.
    fn backbones_cache(&self) -> BackboneCache {
        self.model.cache().with_local(self.state_dir.join("backbones"))
    }

    async fn services(&self, model: &Model, journal: BackboneJournal, health: &Arc<Health>) -> Result<Services> {
        let metrics = Arc::new(Metrics::new(self.max_adapter_series));
        let (precision, kernel) = (model.encoder.precision(), model.encoder.kernel_name());
        info!(backbone = model.name, precision, kernel, "backbone loaded");
        let source = LocalBackbones {
            cache: self.backbones_cache(),
            model: self.model.clone(),
            batch_tokens_max: self.max_batch_tokens,
        };
        let backbones = Backbones::start(model.backbone()?, Some(Arc::new(source)), Some(journal), metrics.clone());
        let engine = Engine::start(&EngineConfig { threads: model.threads, prefix_cache_bytes: self.prefix_cache })?;
        let registry = self.store.registry(backbones, metrics.clone()).await?;
        let datasets = Arc::new(self.datasets(&metrics));
        let jobs = match Jobs::start(registry.clone(), datasets.clone(), metrics.clone(), self.jobs(model)).await {
            // Two servers on one state folder: a mistake of whoever started them, not damage.
            Err(error) if error.kind() == ErrorKind::Conflict => return Err(error),
            Err(error) => {
                degrade(&metrics, Part::Jobs, &error);
                Jobs::unavailable(error)
            }
            Ok(jobs) => jobs,
        };
        let inference = Inference::start(registry, engine, metrics.clone(), self.inference(model));
        Ok(Services { inference, datasets, jobs, health: health.clone(), metrics })
    }

    /// Those that can be read; if there can be none at all, a stand-in that says why.
    fn datasets(&self, metrics: &Metrics) -> DatasetService {
        let root = self.state_dir.join("datasets");
        let checked =
            DatasetService::open(root.clone()).and_then(|service| Ok((service.check(false, false)?, service)));
        let (damaged, service) = checked.unwrap_or_else(|error| {
            degrade(metrics, Part::Datasets, &error);
            (Vec::new(), DatasetService::unavailable(root, error))
        });
        for damage in damaged {
            degrade(metrics, Part::Datasets, &Error::unavailable(damage.why));
        }
        service
    }

    fn inference(&self, model: &Model) -> InferenceConfig {
        InferenceConfig {
            batch_tokens_max: self.max_batch_tokens,
            queue_tokens_max: self.max_queue_tokens.unwrap_or_else(|| queue_tokens(model.threads)),
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            tokenizer_threads: model.threads,
        }
    }

    fn jobs(&self, model: &Model) -> JobsConfig {
        JobsConfig {
            state_dir: self.state_dir.clone(),
            threads: self.training_threads.map_or(model.threads, usize::from),
            queue_max: self.max_jobs,
        }
    }
}

/// `127.0.0.1:8080`, `[::1]:8080`, or a name that this machine resolves: of its addresses the first of IPv4, since clients of
/// `localhost` come to both and most to that one.
fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wanted = "ADDRESS:PORT or NAME:PORT is wanted, as 127.0.0.1:8080 or localhost:8080";
    let Some((name, port)) = text.rsplit_once(':').filter(|(name, _)| !name.is_empty() && !name.contains(':')) else {
        return Err(wanted.to_owned());
    };
    let port: u16 = port.parse().map_err(|_| format!("the port {port:?} is not 0 to 65535; {wanted}"))?;
    if name.eq_ignore_ascii_case("localhost") {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let found: Vec<SocketAddr> =
        (name, port).to_socket_addrs().map_err(|e| format!("{name:?} cannot be resolved: {e}; {wanted}"))?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("{name:?} has no address; {wanted}"))
}

/// A time that is some and not for ever.
fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=SECONDS_MAX)
}

/// A day: longer than any client should be waited for.
const SECONDS_MAX: u64 = 24 * 3600;

/// A key from its file, else from the environment.
pub(super) fn key(file: Option<&Path>, variable: &str) -> Result<Option<String>> {
    let Some(path) = file else { return secret(variable) };
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::invalid(format!("key file {}: {e}", path.display())))?;
    match text.trim() {
        "" => Err(Error::invalid(format!("key file {} is empty", path.display()))),
        key => Ok(Some(key.to_owned())),
    }
}

/// Logs the bound addresses and writes `STATE_DIR/listen` for scripts.
fn announce(state_dir: &Path, server: &Server) -> Result<()> {
    let admin = server.admin_address.map_or_else(|| "same".to_owned(), |a| a.to_string());
    info!(address = %server.address, admin, "listening");
    let path = state_dir.join("listen");
    disk::replace(&path, format!("{}\n", server.address).as_bytes()).map_err(|e| disk::failed(&path, e))
}

/// Between two probes of the engine.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// A probe that takes longer means that the engine does not answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a tiny forward pass off the queue, for ever; `/readyz` says how the last one went.
struct Watchdog {
    inference: Inference,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Watchdog {
    async fn watch(self) {
        let mut ticks = tokio::time::interval(PROBE_EVERY);
        loop {
            ticks.tick().await;
            self.probe().await;
        }
    }

    async fn probe(&self) {
        let answer = self.inference.probe(PROBE_TIMEOUT).await;
        if let Err(error) = &answer {
            error!(%error, "the engine does not answer");
        }
        self.health.set_engine_answers(answer.is_ok());
        self.metrics.ready.set(f64::from(u8::from(self.health.is_ready())));
    }
}

//! The JSON report: everything that is needed to read the figures, and to measure them again. Its shape is stable: fields are added,
//! and `schema` grows when one changes its meaning.

use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::domain::{Error, Result};

use super::args::BenchArgs;
use super::machine::Machine;
use super::tally::Stage;
use super::target::{About, Target};

/// Of the shape below.
const SCHEMA: u32 = 1;

/// Every field, for `--help`.
pub(super) const SHAPE: &str = "\
Latencies count from the moment a request was due, not from when it was sent: a server that stalls cannot hide its stall. Counts are of
requests due in the measured time, speeds of answers that came in it.

The JSON report: object (trunkline.bench), schema (1), started_at (RFC 3339),
  client    version, machine: cpu, cores, features, os, arch
  server    url, is_local, version, backbone: name, fingerprint, precision, kernel
  workload  family, adapters, zipf, texts, text_count, words, inputs_per_request, deadline_ms, connections, warm_up_seconds, seed
  capacity_per_second (with --load)
  stages    a list, one for each load: loop (open: rate, share; closed: clients), measured_seconds,
            offered = accepted (200; of them late after the deadline) + refused (429) + expired (504) + failed (failures by kind),
            offered_per_second, answers_per_second, goodput_per_second (within the deadline), sequences_per_second,
            tokens_per_second, tokens_per_sequence,
            latency_ms, refusal_latency_ms, send_lag_ms (due to sent): mean, p50, p90, p95, p99, p99_9, max,
            server_ms (means of its own account): queue, tokenize, compute, total,
            connections_peak, warnings";

#[derive(Debug, Serialize)]
pub(super) struct Report {
    object: &'static str,
    schema: u32,
    /// RFC 3339.
    started_at: String,
    pub(super) client: ClientSide,
    pub(super) server: ServerSide,
    pub(super) workload: WorkloadSide,
    /// Answers a second of the closed loop that `--load` begins with.
    pub(super) capacity_per_second: Option<f64>,
    /// In the order they were measured.
    pub(super) stages: Vec<Stage>,
}

#[derive(Debug, Serialize)]
pub(super) struct ClientSide {
    pub(super) version: &'static str,
    pub(super) machine: Machine,
}

#[derive(Debug, Serialize)]
pub(super) struct ServerSide {
    pub(super) url: String,
    /// The server is on the client's machine and shares its cores.
    pub(super) is_local: bool,
    #[serde(flatten)]
    pub(super) about: About,
}

#[derive(Debug, Serialize)]
pub(super) struct WorkloadSide {
    pub(super) family: &'static str,
    /// The most popular first.
    pub(super) adapters: Vec<String>,
    pub(super) zipf: f64,
    /// A file, or "built-in".
    pub(super) texts: String,
    pub(super) text_count: usize,
    /// Of each text, if they were cut or joined.
    words: Option<u16>,
    pub(super) inputs_per_request: usize,
    pub(super) deadline_ms: Option<u128>,
    connections: u16,
    warm_up_seconds: f64,
    seed: u64,
}

impl Report {
    pub(super) fn open(args: &BenchArgs, target: &Target, text_count: usize) -> Self {
        let now = OffsetDateTime::from(SystemTime::now());
        Self {
            object: "trunkline.bench",
            schema: SCHEMA,
            started_at: now.format(&Rfc3339).expect("years of four digits"),
            client: ClientSide { version: env!("CARGO_PKG_VERSION"), machine: Machine::this() },
            workload: WorkloadSide {
                family: args.family.as_str(),
                adapters: target.adapters.iter().map(ToString::to_string).collect(),
                zipf: args.zipf,
                texts: args.texts.as_ref().map_or_else(|| "built-in".to_owned(), |path| path.display().to_string()),
                text_count,
                words: args.words,
                inputs_per_request: args.inputs_per_request(),
                deadline_ms: args.deadline().map(|deadline| deadline.as_millis()),
                connections: args.connections,
                warm_up_seconds: args.load_settings().warm_up.as_secs_f64(),
                seed: args.seed,
            },
            server: ServerSide { url: args.url.clone(), is_local: target.is_local, about: target.about.clone() },
            capacity_per_second: None,
            stages: Vec::new(),
        }
    }

    /// Keeps the closed loop that shares are of. Its answers a second are the capacity.
    pub(super) fn set_capacity(&mut self, closed: Stage) -> Result<f64> {
        let capacity = closed.answers_per_second;
        if capacity == 0.0 {
            return Err(Error::unavailable(format!(
                "no capacity to take shares of: of {} requests none was answered in the measured time ({} refused, {} expired, {} failed)",
                closed.offered, closed.refused, closed.expired, closed.failed
            )));
        }
        self.capacity_per_second = Some(capacity);
        self.stages.push(closed);
        Ok(capacity)
    }
}

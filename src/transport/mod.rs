//! The wire: REST and gRPC on one port, one table of errors. Leaves all decisions to `serving`.

mod account;
mod adapters;
mod aliases;
mod analyze;
mod api;
mod auth;
mod backbone;
mod call;
mod classify;
mod console;
mod datasets;
mod embed;
mod error;
mod extract;
mod grpc;
mod health;
mod http;
mod in_flight;
mod jobs;
mod middleware;
mod ner;
mod openapi;
pub mod proto;
mod rpc;
mod server;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use openapi::openapi_json;
pub use server::Server;

use crate::serving::jobs::Jobs;
use crate::serving::{DatasetService, Health, Inference};
use crate::telemetry::Metrics;

/// What the routes call.
#[derive(Clone)]
pub struct Services {
    pub inference: Inference,
    pub datasets: Arc<DatasetService>,
    pub jobs: Jobs,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
}

#[derive(Clone, Debug)]
pub struct TransportConfig {
    pub listen: SocketAddr,
    /// Moves the admin routes and the admin gRPC service here.
    pub admin_listen: Option<SocketAddr>,
    /// Demanded on admin routes; None: they answer on loopback only.
    pub admin_key: Option<String>,
    /// Demanded on inference routes, if given (the admin key does as well).
    pub infer_key: Option<String>,
    /// Bytes of an inference request's body.
    pub body_bytes_max: usize,
    /// Inputs of one request.
    pub inputs_max: usize,
    /// Bytes of an adapter or dataset upload.
    pub upload_bytes_max: usize,
    /// Connections open at once.
    pub connections_max: usize,
    /// From the first byte, and on a new connection from its begin, to the end of the headers.
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub keep_alive_timeout: Duration,
    /// From the first to the last byte of a body; our own pauses do not count.
    pub body_timeout: Duration,
    /// The same for an upload, for taking an answer, and between two messages of a stream.
    pub transfer_timeout: Duration,
    /// How far a body or the taking of an answer may be behind `bytes_per_second_min`.
    pub stall_timeout: Duration,
    /// The least rate of bodies and of taking answers.
    pub bytes_per_second_min: u64,
    /// Bytes of bodies, messages and answers at once.
    pub inflight_bytes_max: usize,
}

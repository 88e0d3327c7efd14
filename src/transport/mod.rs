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
    /// From the first byte to the end of the headers.
    pub header_timeout: Duration,
}

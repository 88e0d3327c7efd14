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
mod local;
mod middleware;
mod ner;
mod openapi;
pub mod proto;
mod rpc;
mod schema;
mod server;
mod strict;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use openapi::openapi_json;
pub use server::Server;

use crate::domain::{Error, Result};
use crate::serving::jobs::Jobs;
use crate::serving::{DatasetService, Health, Inference};
use crate::telemetry::Metrics;

/// Inputs of one request, where nothing else is said.
pub const INPUTS_MAX: usize = 512;

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
    /// Without an inference key: whether an address that others reach may serve everyone all the same.
    pub allow_anonymous: bool,
    /// Whether `/metrics` answers without the key that inference demands.
    pub metrics_public: bool,
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

impl TransportConfig {
    /// Without keys everyone who reaches an address may use what it serves: that is said, or it stays on this machine.
    pub fn check(&self) -> Result<()> {
        let is_open = |address: SocketAddr| !address.ip().to_canonical().is_loopback();
        let (flag, admin) = self.admin_listen.map_or(("--listen", self.listen), |address| ("--admin-listen", address));
        if self.admin_key.is_none() && is_open(admin) {
            return Err(Error::invalid(format!(
                "{flag} {admin} would open the admin routes to the network without a key: give a key with --admin-key-file or \
                 TRUNKLINE_ADMIN_KEY, or keep them on this machine with --admin-listen 127.0.0.1:8081"
            )));
        }
        if self.infer_key.is_none() && !self.allow_anonymous && is_open(self.listen) {
            return Err(Error::invalid(format!(
                "--listen {} would answer everyone who reaches it, without a key: give a key with --infer-key-file or \
                 TRUNKLINE_INFER_KEY, or stay on this machine with --listen 127.0.0.1:8080, or say that everyone is meant with \
                 --allow-anonymous",
                self.listen
            )));
        }
        Ok(())
    }
}

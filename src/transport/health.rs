//! Alive, ready, metrics; and gRPC's own health service, fed by the same state.

use std::sync::Arc;

use axum::Json as Answer;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthProtocol, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};
use utoipa::ToSchema;

use crate::domain::Error;
use crate::serving::{Health, HealthState};
use crate::telemetry::Metrics;
use crate::transport::call::Call;
use crate::transport::error::Failure;
use crate::transport::openapi::Failures;

/// The services whose health is reported; the empty name is the server's.
const SERVICES: [&str; 3] = ["", "trunkline.v1.Inference", "trunkline.v1.Admin"];

#[derive(Serialize, ToSchema)]
pub(super) struct HealthAnswer {
    #[schema(example = "ok")]
    status: &'static str,
}

/// The process answers
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = HealthAnswer)))]
pub(super) async fn live() -> Answer<HealthAnswer> {
    Answer(HealthAnswer { status: "ok" })
}

/// The encoder answers: a watchdog runs a tiny forward pass off the queue
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, body = HealthAnswer), Failures))]
pub(super) async fn ready(call: Call) -> Result<Answer<HealthAnswer>, Failure> {
    let health = &call.services().health;
    if health.is_ready() {
        return Ok(Answer(HealthAnswer { status: "ok" }));
    }
    let why = if health.is_draining() { "the server is draining" } else { "the encoder does not answer" };
    Err(Failure(Error::unavailable(why)))
}

/// Prometheus metrics
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, body = String, content_type = "text/plain; version=0.0.4"), Failures))]
pub(super) async fn metrics(call: Call) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], call.services().metrics.render())
}

/// The gRPC health service. It follows `health` until that is gone.
pub(super) fn grpc_service(health: &Arc<Health>, metrics: Arc<Metrics>) -> HealthServer<impl HealthProtocol> {
    let (reporter, server) = health_reporter();
    let mut changes = health.watch();
    changes.mark_changed();
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let state = *changes.borrow_and_update();
            report(&reporter, &metrics, state).await;
        }
    });
    server
}

async fn report(reporter: &HealthReporter, metrics: &Metrics, state: HealthState) {
    metrics.ready.set(f64::from(u8::from(state.is_ready())));
    let status = if state.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}

//! A server on the tiny encoder, listening on a free port, and the clients to ask it with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;

use trunkline::domain::{Alias, AliasTarget, Result};
use trunkline::serving::jobs::{Jobs, JobsConfig};
use trunkline::serving::{DatasetService, Health};
use trunkline::transport::{Server, Services, TransportConfig};

use crate::inference::world::{Kind, Settings, World};

/// `places` (NER) and `topics` (classification) behind both protocols; also what `default-ner` and `default-classify` mean.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) admin_address: Option<SocketAddr>,
    pub(crate) world: World,
    pub(crate) health: Arc<Health>,
    server: Server,
    http1: Client<HttpConnector, Full<Bytes>>,
    http2: Client<HttpConnector, Full<Bytes>>,
    _state: TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }

    /// The body of a success.
    #[track_caller]
    pub(crate) fn success(&self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text());
        self.json()
    }

    /// A problem of this status and code whose detail holds `detail`.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str, detail: &str) {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body = self.json();
        assert_eq!((self.status.as_u16(), body["status"].as_u64()), (status, Some(status.into())), "{body}");
        assert_eq!(body["code"], code, "{body}");
        assert!(body["detail"].as_str().unwrap().contains(detail), "{body} says nothing of {detail:?}");
        assert_eq!(body["request_id"], self.header("x-request-id"));
        assert!(body["type"].is_string() && body["title"].is_string(), "{body}");
    }
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut TransportConfig)) -> Self {
        Self::try_with(change).await.unwrap_or_else(|e| panic!("{e}"))
    }

    pub(crate) async fn try_with(change: impl FnOnce(&mut TransportConfig)) -> Result<Self> {
        let adapters = [("places", Kind::ner(1)), ("topics", Kind::classify(2))];
        let world = World::new(Settings::default(), &adapters).await;
        for (alias, adapter) in [("default-ner", "places"), ("default-classify", "topics")] {
            let target = AliasTarget { adapter: adapter.parse().unwrap(), weight: 1 };
            let alias = alias.parse().unwrap();
            world.registry().set_alias(&alias, Alias { targets: vec![target], shadow: None }).await?;
        }
        let state = TempDir::new().unwrap();
        let health = Arc::new(Health::default());
        health.set_engine_answers(true);
        let mut config = config();
        change(&mut config);
        let services = services(&world, &state, health.clone()).await?;
        let server = Server::start(services, config).await?;
        Ok(Self {
            address: server.address,
            admin_address: server.admin_address,
            world,
            health,
            server,
            http1: Client::builder(TokioExecutor::new()).build_http(),
            http2: Client::builder(TokioExecutor::new()).http2_only(true).build_http(),
            _state: state,
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[], body.to_string()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        ask(&self.http1, self.address, method, path, headers, body.into()).await
    }

    /// A gRPC call of these very bytes; the trailers are among the headers.
    pub(crate) async fn send_grpc(&self, method: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let all = [&[("content-type", "application/grpc"), ("te", "trailers")], headers].concat();
        ask(&self.http2, self.address, "POST", method, &all, body.into()).await
    }

    /// HTTP/2 without TLS, by prior knowledge.
    pub(crate) async fn send_h2c(&self, method: &str, path: &str, body: Value) -> Answer {
        ask(&self.http2, self.address, method, path, &[], body.to_string().into()).await
    }

    pub(crate) async fn send_admin(&self, method: &str, path: &str) -> Answer {
        let address = self.admin_address.expect("an admin listener");
        ask(&self.http1, address, method, path, &[], Bytes::new()).await
    }

    pub(crate) async fn grpc(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// The value of a series, 0 if it is not there.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.world.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    pub(crate) async fn shut_down(self, wait: Duration) -> bool {
        self.server.shut_down(Instant::now() + wait).await
    }
}

fn config() -> TransportConfig {
    TransportConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        admin_listen: None,
        admin_key: None,
        infer_key: None,
        allow_anonymous: true,
        metrics_public: false,
        body_bytes_max: 2 << 20,
        inputs_max: 512,
        upload_bytes_max: 64 << 20,
        connections_max: 64,
        header_timeout: Duration::from_secs(10),
        keep_alive_timeout: Duration::from_secs(75),
        body_timeout: Duration::from_secs(30),
        transfer_timeout: Duration::from_secs(600),
        stall_timeout: Duration::from_secs(15),
        bytes_per_second_min: 500,
        inflight_bytes_max: 64 << 20,
    }
}

async fn services(world: &World, state: &TempDir, health: Arc<Health>) -> Result<Services> {
    let datasets = Arc::new(DatasetService::open(state.path().join("datasets"))?);
    let config = JobsConfig { state_dir: state.path().to_owned(), threads: 1, queue_max: 4 };
    let registry = world.registry().clone();
    let metrics = world.metrics.clone();
    let jobs = Jobs::start(registry, datasets.clone(), metrics.clone(), config).await?;
    Ok(Services { inference: world.inference.clone(), datasets, jobs, health, metrics })
}

async fn ask(
    client: &Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.request(request.body(Full::new(body)).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let headers = parts.headers.into_iter().chain(trailers).filter_map(|(name, value)| Some((name?, value))).collect();
    Answer { status: parts.status, headers, body: body.to_bytes() }
}

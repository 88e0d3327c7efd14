//! HTTP/1.1 over connections that are kept. Knows how an answer reads, not when to ask.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

/// A request without an answer by then, counted from when it was due, has failed.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where requests go, and what each carries.
pub(super) struct Client {
    address: SocketAddr,
    headers: HeaderMap,
}

/// One connection; whoever holds it may send.
pub(super) struct Connection(SendRequest<Full<Bytes>>);

/// A request's three moments since its stage began, and its end.
pub(super) struct Exchange {
    pub(super) due: Duration,
    /// When a connection had it.
    pub(super) sent: Duration,
    pub(super) done: Duration,
    pub(super) outcome: Outcome,
}

impl Exchange {
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.outcome, Outcome::Accepted(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// 200.
    Accepted(Answer),
    /// 429.
    Refused,
    /// 504: its deadline passed.
    Expired,
    Failed(Failure),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) tokens: u64,
    pub(super) sequences: u64,
    pub(super) timing: Option<ServerTiming>,
}

/// The server's own account of a request, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(super) struct ServerTiming {
    pub(super) queue: f64,
    pub(super) tokenize: f64,
    pub(super) compute: f64,
    pub(super) total: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    /// No connection.
    Connect,
    /// The connection broke before the answer was whole.
    Disconnected,
    /// No answer within `ANSWER_TIMEOUT`.
    Timeout,
    /// No connection was free for `ANSWER_TIMEOUT`.
    NotSent,
    /// 200 with a body that says nothing of `usage`.
    Unreadable,
    Status(u16),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Disconnected => f.write_str("disconnected"),
            Self::Timeout => f.write_str("timeout"),
            Self::NotSent => f.write_str("not_sent"),
            Self::Unreadable => f.write_str("unreadable"),
            Self::Status(status) => write!(f, "http_{status}"),
        }
    }
}

impl Client {
    /// `host` as the URL has it; `key` for the inference routes.
    pub(super) fn new(address: SocketAddr, host: &str, key: Option<&str>) -> io::Result<Self> {
        let value = |text: &str| HeaderValue::from_str(text).map_err(io::Error::other);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, value(host)?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = key {
            headers.insert(AUTHORIZATION, value(&format!("Bearer {key}"))?);
        }
        Ok(Self { address, headers })
    }

    /// The same with a deadline on every request; to the millisecond.
    pub(super) fn with_deadline(&self, deadline: Option<Duration>) -> Self {
        let mut headers = self.headers.clone();
        if let Some(deadline) = deadline {
            let ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            headers.insert(HeaderName::from_static("x-request-timeout-ms"), ms.into());
        }
        Self { address: self.address, headers }
    }

    /// One question outside any load.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        let request = self.request(method, path, body);
        let mut sent = None;
        let reply = tokio::time::timeout(ANSWER_TIMEOUT, self.send(request, None, &mut sent));
        let (reply, _) = reply.await.unwrap_or((Err(Failure::Timeout), None));
        reply.map(|reply| (reply.status, reply.body))
    }

    /// Posts what was due at `due` after `began`, over `connection` if it still lives; gives the connection back for the next one.
    pub(super) async fn exchange(
        &self,
        path: &str,
        body: Bytes,
        (began, due): (Instant, Duration),
        connection: Option<Connection>,
    ) -> (Exchange, Option<Connection>) {
        let mut sent = None;
        let left = ANSWER_TIMEOUT.saturating_sub(began.elapsed().saturating_sub(due));
        let request = self.request(Method::POST, path, body);
        let reply = tokio::time::timeout(left, self.send(request, connection, &mut sent)).await;
        let done = began.elapsed();
        let (reply, connection) = reply.unwrap_or((Err(Failure::Timeout), None));
        let outcome = reply.map_or_else(Outcome::Failed, |reply| reply.outcome());
        (Exchange { due, sent: sent.map_or(done, |at| at - began), done, outcome }, connection)
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("our own paths");
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// A server may have closed a kept connection. What was not written yet goes over a new one; nothing is ever sent twice.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        kept: Option<Connection>,
        sent: &mut Option<Instant>,
    ) -> (Result<Reply, Failure>, Option<Connection>) {
        if let Some(Connection(mut kept)) = kept
            && kept.ready().await.is_ok()
        {
            *sent = Some(Instant::now());
            match kept.try_send_request(request).await {
                Ok(response) => return read(response, Connection(kept)).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return (Err(Failure::Disconnected), None),
                },
            }
        }
        let Ok(Connection(mut fresh)) = self.connect().await else { return (Err(Failure::Connect), None) };
        *sent = Some(Instant::now());
        match fresh.send_request(request).await {
            Ok(response) => read(response, Connection(fresh)).await,
            Err(_) => (Err(Failure::Disconnected), None),
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Ends with the last sender; its errors are what the senders are told.
        tokio::spawn(connection);
        Ok(Connection(sender))
    }
}

/// A whole response.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

async fn read(
    response: hyper::Response<hyper::body::Incoming>,
    connection: Connection,
) -> (Result<Reply, Failure>, Option<Connection>) {
    let (parts, body) = response.into_parts();
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(body) => {
            let reply = Reply { status: parts.status, headers: parts.headers, body: body.to_bytes() };
            (Ok(reply), Some(connection))
        }
        Err(_) => (Err(Failure::Disconnected), None),
    }
}

/// The part of an answer that is counted; the rest is skipped.
#[derive(Deserialize)]
struct Body {
    usage: Usage,
}

#[derive(Deserialize)]
struct Usage {
    sequences: u64,
    tokens: u64,
}

impl Reply {
    fn outcome(&self) -> Outcome {
        match self.status {
            StatusCode::OK => match serde_json::from_slice(&self.body) {
                Ok(Body { usage: Usage { sequences, tokens } }) => {
                    let header = self.headers.get("server-timing").and_then(|value| value.to_str().ok());
                    Outcome::Accepted(Answer { tokens, sequences, timing: header.map(server_timing) })
                }
                Err(_) => Outcome::Failed(Failure::Unreadable),
            },
            StatusCode::TOO_MANY_REQUESTS => Outcome::Refused,
            StatusCode::GATEWAY_TIMEOUT => Outcome::Expired,
            other => Outcome::Failed(Failure::Status(other.as_u16())),
        }
    }
}

/// `queue;dur=0.120, tokenize;dur=0.031, …`; what is not there is 0.
fn server_timing(header: &str) -> ServerTiming {
    let mut timing = ServerTiming::default();
    for entry in header.split(',') {
        let Some((phase, ms)) = entry.trim().split_once(";dur=") else { continue };
        let ms = ms.parse().unwrap_or(0.0);
        match phase {
            "queue" => timing.queue = ms,
            "tokenize" => timing.tokenize = ms,
            "compute" => timing.compute = ms,
            "total" => timing.total = ms,
            _ => (),
        }
    }
    timing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, body: &str) -> Outcome {
        let mut headers = HeaderMap::new();
        let timing = "queue;dur=0.120, tokenize;dur=0.03, compute;dur=2, other;dur=9, total;dur=2.5";
        headers.insert("server-timing", HeaderValue::from_static(timing));
        let body = Bytes::copy_from_slice(body.as_bytes());
        Reply { status: StatusCode::from_u16(status).unwrap(), headers, body }.outcome()
    }

    #[test]
    fn an_answer_is_counted_by_its_status_and_usage() {
        let timing = Some(ServerTiming { queue: 0.12, tokenize: 0.03, compute: 2.0, total: 2.5 });
        let usage = r#"{"results":[{"labels":[]}],"usage":{"sequences":1,"tokens":13}}"#;
        for (status, body, wanted) in [
            (200, usage, Outcome::Accepted(Answer { tokens: 13, sequences: 1, timing })),
            (200, "{}", Outcome::Failed(Failure::Unreadable)),
            (429, usage, Outcome::Refused),
            (504, "", Outcome::Expired),
            (500, usage, Outcome::Failed(Failure::Status(500))),
        ] {
            assert_eq!(outcome(status, body), wanted, "{status} {body}");
        }
    }
}

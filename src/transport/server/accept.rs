//! The accept loop and each connection's life: HTTP/1 and HTTP/2 (prior knowledge) on one port. Who may stay is `table`'s.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Uri, Version};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::transport::auth::Peer;
use crate::transport::middleware::{NoPlace, is_grpc};
use crate::transport::server::Phase;
use crate::transport::server::body::{AnswerBody, RequestBody};
use crate::transport::server::connection::{Connection, Order};
use crate::transport::server::exchange::Exchange;
use crate::transport::server::table::{Place, Table};

/// Between pings on a silent HTTP/2 connection, and until a missing answer ends it: a dead peer is gone within half a minute.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests at once on one HTTP/2 connection; more wait in the client, where waiting costs us nothing.
const STREAMS_MAX: u32 = 256;

/// What HTTP/1 keeps of a connection in each direction: a head at the most, or the answers that it has begun to write.
const HTTP1_BUFFER_BYTES_MAX: usize = 64 << 10;

/// What an HTTP/2 client may send on one connection before we have read it. Beside what is in flight, each connection may hold this much.
const CONNECTION_WINDOW_BYTES: u32 = 192 << 10;

/// The same for one body. It is the smaller part by far: `h2` ends a connection on which small frames wait unread, once they lack more
/// than half the connection's window of 256 bytes each. A stream of short messages whose client writes ahead must stay below that, so
/// that back-pressure holds it back and does not cut it: 30 bytes a message on one stream, 100 on four.
const STREAM_WINDOW_BYTES: u32 = 16 << 10;

/// What HTTP/2 keeps of one answer before the client's window takes it.
const SEND_BUFFER_BYTES_MAX: usize = 32 << 10;

/// A head in HTTP/2, unpacked.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;

/// Messages that are adapters or datasets; over REST the routes' extractors say so.
const GRPC_UPLOADS: [&str; 2] = ["/trunkline.v1.Admin/PublishAdapter", "/trunkline.v1.Admin/PutDataset"];

/// After a failed `accept` (file descriptors ran out): long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) router: Router,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) table: Arc<Table>,
}

impl Acceptor {
    pub(super) async fn run(self, listener: TcpListener) {
        let mut phase = self.phase.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.changed() => return,
            };
            match accepted {
                // Without a place, probes included, the connection is closed: its client tries another server, or later.
                Ok((stream, peer)) => {
                    if let Some(place) = self.table.admit() {
                        tokio::spawn(self.clone().serve(stream, peer, Arc::new(place)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(mut self, stream: TcpStream, peer: SocketAddr, place: Arc<Place>) {
        // Answers are small and written whole; waiting to fill a packet would only delay them.
        let _best_effort = stream.set_nodelay(true);
        let connection = place.connection.clone();
        let streams = Streams::default();
        let protocol = protocol(streams.clone());
        // A layer of its own for each connection would copy every route: 50 KiB.
        let router = self.router.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let exchange = Exchange::open(
                place.connection.clone(),
                request.version() == Version::HTTP_2,
                is_grpc(request.headers()),
            );
            if request.version() == Version::HTTP_2 {
                streams.began(exchange.clone());
            }
            answer(router.clone(), place.clone(), exchange, with_peer(request, peer))
        });
        let stream = TokioIo::new(Heard { stream, connection: connection.clone() });
        let mut http = pin!(protocol.serve_connection(stream, service));
        loop {
            tokio::select! {
                biased; // a request that has come is read before its connection may end
                ended = http.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, error, "a connection ended early");
                    }
                    return;
                }
                changed = self.phase.changed() => {
                    if changed.is_err() || *self.phase.borrow() == Phase::Over {
                        return;
                    }
                    http.as_mut().graceful_shutdown();
                }
                order = asked_to_end(&connection) => match order {
                    Order::Close => http.as_mut().graceful_shutdown(),
                    Order::Cut => return,
                }
            }
        }
    }
}

/// Once asked, gives the kernel's news one turn: a request may be there already that nobody has looked at.
async fn asked_to_end(connection: &Connection) -> Order {
    let order = connection.order().await;
    if order == Order::Close {
        tokio::task::yield_now().await;
    }
    order
}

fn with_peer(mut request: Request<Incoming>, peer: SocketAddr) -> Request<Incoming> {
    request.extensions_mut().insert(Peer(peer));
    request
}

/// A folder of pages, whose own address ends with a slash.
const PAGES: &str = "/docs";

/// `/v1/ner/` is `/v1/ner`: clients that join a base address and a path write either. No method of gRPC ends so.
fn without_trailing_slash<B>(mut request: Request<B>, is_grpc: bool) -> Request<B> {
    let uri = request.uri();
    let bare = uri.path().trim_end_matches('/');
    if is_grpc || bare.is_empty() || bare == PAGES || bare.len() == uri.path().len() {
        return request;
    }
    let asked = uri.query().map_or_else(|| bare.to_owned(), |query| format!("{bare}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = asked.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// One request: its bodies report to `exchange`.
async fn answer(
    router: Router,
    place: Arc<Place>,
    exchange: Arc<Exchange>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, std::convert::Infallible> {
    let is_http1 = request.version() < Version::HTTP_2;
    let request = without_trailing_slash(request, exchange.is_grpc);
    let mut request = request.map(|body| Body::new(RequestBody::new(body, exchange.clone())));
    request.extensions_mut().insert(exchange.clone());
    if GRPC_UPLOADS.contains(&request.uri().path()) {
        exchange.expect_upload();
    }
    let is_for_probes = place.is_for_probes();
    if is_for_probes && !is_probe(request.uri().path()) {
        request.extensions_mut().insert(NoPlace);
    }
    let mut response = router.oneshot(request).await?;
    if is_for_probes && is_http1 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.is_answered();
    Ok(response.map(|body| AnswerBody::new(body, exchange)))
}

/// What is answered when every connection is at work.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics") || path.starts_with("/grpc.health.v1.Health/")
}

/// Both versions of HTTP, with a timer: without one no timeout of theirs would run. How long a head may take is `rules`' business.
fn protocol(streams: Streams) -> auto::Builder<Streams> {
    let mut protocol = auto::Builder::new(streams);
    protocol.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HTTP1_BUFFER_BYTES_MAX);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX);
    protocol
}

/// Runs the streams of one HTTP/2 connection, so that one can be reset without the others: a proxy has many clients on a connection.
#[derive(Clone, Default)]
struct Streams {
    /// Of the request that was just read: hyper hands over its future next.
    latest: Arc<Mutex<Option<Arc<Exchange>>>>,
}

impl Streams {
    fn began(&self, exchange: Arc<Exchange>) {
        *self.latest.lock().expect("no holder panics") = Some(exchange);
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let exchange = self.latest.lock().expect("no holder panics").take();
        tokio::spawn(async move {
            let Some(exchange) = exchange else {
                stream.await;
                return;
            };
            tokio::select! {
                biased;
                // Dropping the stream resets it.
                () = exchange.is_cut() => (),
                _ = stream => (),
            }
        });
    }
}

/// A socket whose bytes are reported to its connection.
struct Heard {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > filled {
            self.connection.heard();
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

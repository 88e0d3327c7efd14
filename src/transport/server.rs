//! The accept loop: HTTP/1 and HTTP/2 (prior knowledge) on one port, every wait bounded. Leaves requests to the router.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Sleep, timeout};
use tower::ServiceExt as _;

use crate::domain::{Error, Result};
use crate::transport::api::Api;
use crate::transport::auth::Peer;
use crate::transport::{Services, TransportConfig, http};

/// Between pings on a silent HTTP/2 connection, and until a missing answer ends it: a dead peer is gone within half a minute.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests at once on one HTTP/2 connection; more wait in the client, where waiting costs us nothing.
const STREAMS_MAX: u32 = 256;

/// After a failed `accept` (file descriptors ran out): long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections the kernel holds for us until they are accepted. When they are more it drops the callers' packets, who try again after 1, 3
/// and 7 seconds: a burst must fit. The kernel lowers it to `net.core.somaxconn`, 4,096 by default.
const BACKLOG_MAX: u32 = 4096;

/// At the bound of connections: how long one that was asked to end may take before another one is asked too.
const ROOM_WAIT: Duration = Duration::from_millis(20);

/// Every HTTP/2 connection opens with these bytes.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// No new connections; those that are open finish what they have.
    Draining,
    /// Whatever is still open is cut.
    Over,
}

/// Listening sockets, bound and serving.
pub struct Server {
    /// As bound: port 0 has become a real one.
    pub address: SocketAddr,
    pub admin_address: Option<SocketAddr>,
    phase: watch::Sender<Phase>,
    connections: Arc<Semaphore>,
    connections_max: u32,
    crowded: Arc<Notify>,
}

impl Server {
    /// Binds and serves. Refuses an address that others reach without the key of what it serves, unless everyone is meant.
    pub async fn start(services: Services, config: TransportConfig) -> Result<Self> {
        config.check()?;
        let listener = bind("--listen", config.listen)?;
        let admin_listener = match config.admin_listen {
            Some(address) => Some(bind("--admin-listen", address)?),
            None => None,
        };
        let connections_max =
            u32::try_from(config.connections_max.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let server = Self {
            address: listener.local_addr()?,
            admin_address: admin_listener.as_ref().map(TcpListener::local_addr).transpose()?,
            phase: watch::Sender::new(Phase::Serving),
            connections: Arc::new(Semaphore::new(connections_max as usize)),
            connections_max,
            crowded: Arc::default(),
        };
        let api = Arc::new(Api::new(services, &config));
        let routers = http::routers(&api, admin_listener.is_some());
        server.accept_on(listener, routers.main, config.header_timeout);
        if let (Some(listener), Some(router)) = (admin_listener, routers.admin) {
            server.accept_on(listener, router, config.header_timeout);
        }
        Ok(server)
    }

    /// Stops accepting, ends idle connections, lets requests under way finish until `deadline`. True if all did.
    pub async fn shut_down(self, deadline: Instant) -> bool {
        self.phase.send_replace(Phase::Draining);
        let all_closed = self.connections.acquire_many(self.connections_max);
        let finished = tokio::time::timeout_at(deadline.into(), all_closed).await.is_ok();
        self.phase.send_replace(Phase::Over);
        finished
    }

    fn accept_on(&self, listener: TcpListener, router: Router, header_timeout: Duration) {
        let acceptor = Acceptor {
            router,
            protocol: protocol(header_timeout),
            header_timeout,
            phase: self.phase.subscribe(),
            connections: self.connections.clone(),
            crowded: self.crowded.clone(),
        };
        tokio::spawn(acceptor.run(listener));
    }
}

fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    listen(address).map_err(|e| Error::from(e).context(format!("{flag} {address}")))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted server takes its port back although connections of the old one linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG_MAX)
}

/// Both versions of HTTP, with a timer: without one no timeout of theirs would run.
fn protocol(header_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    protocol.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX);
    protocol
}

#[derive(Clone)]
struct Acceptor {
    router: Router,
    protocol: auto::Builder<TokioExecutor>,
    header_timeout: Duration,
    phase: watch::Receiver<Phase>,
    connections: Arc<Semaphore>,
    /// Asks one connection to end after the answer it is writing: the one that is open longest and was not asked yet.
    crowded: Arc<Notify>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        let mut phase = self.phase.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&listener) => accepted,
                _ = phase.changed() => return,
            };
            if let Some((stream, peer, permit)) = accepted {
                tokio::spawn(self.clone().serve(stream, peer, permit));
            }
        }
    }

    /// The next connection and room for it; further callers wait in the kernel's queue.
    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        match listener.accept().await {
            Ok((stream, peer)) => Some((stream, peer, self.room().await?)),
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    /// A place under the bound. If all are taken, old connections make room: clients that keep theirs open cannot lock out the others.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(free) = self.connections.clone().try_acquire_owned() {
            return Some(free);
        }
        loop {
            self.crowded.notify_one();
            if let Ok(freed) = timeout(ROOM_WAIT, self.connections.clone().acquire_owned()).await {
                return freed.ok();
            }
        }
    }

    async fn serve(mut self, stream: TcpStream, peer: SocketAddr, _permit: OwnedSemaphorePermit) {
        // Answers are small and written whole; waiting to fill a packet would only delay them.
        let _best_effort = stream.set_nodelay(true);
        // A layer of its own for each connection would copy every route: 50 KiB.
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            self.router.clone().oneshot(request)
        });
        let stream = TokioIo::new(FirstBytes::new(stream, self.header_timeout));
        let mut connection = pin!(self.protocol.serve_connection(stream, service));
        let mut crowded = pin!(asked_to_end(&self.crowded).fuse());
        loop {
            tokio::select! {
                biased; // a request that has come is read before its connection may end
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, error, "a connection ended early");
                    }
                    return;
                }
                changed = self.phase.changed() => {
                    if changed.is_err() || *self.phase.borrow() == Phase::Over {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut crowded => connection.as_mut().graceful_shutdown(),
            }
        }
    }
}

/// Once asked, gives the kernel's news one turn: a request may be there already that nobody has looked at.
async fn asked_to_end(crowded: &Notify) {
    crowded.notified().await;
    tokio::task::yield_now().await;
}

/// Bounds the wait for the bytes that tell HTTP/1 from HTTP/2; from there on hyper's own timers run.
struct FirstBytes {
    stream: TcpStream,
    /// How much of HTTP/2's preface has come, and until when the rest must. None once it is decided.
    undecided: Option<(usize, Pin<Box<Sleep>>)>,
}

impl FirstBytes {
    fn new(stream: TcpStream, timeout: Duration) -> Self {
        Self { stream, undecided: Some((0, Box::pin(tokio::time::sleep(timeout)))) }
    }
}

impl AsyncRead for FirstBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some((matched, timeout)) = &mut this.undecided else { return read };
        if read.is_pending() {
            ready!(timeout.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let new = &buffer.filled()[filled..];
        let wanted = &HTTP2_PREFACE[*matched..];
        *matched += new.len();
        if new.len() >= wanted.len() || !wanted.starts_with(new) {
            this.undecided = None;
        }
        read
    }
}

impl AsyncWrite for FirstBytes {
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

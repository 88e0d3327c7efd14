//! Listening sockets, from the bind to the last connection. `accept` is a connection's life, `table` and `rules` say who may stay, and
//! `exchange` what each request holds. Leaves requests to the router.

mod accept;
mod body;
mod connection;
mod exchange;
mod framing;
mod pace;
mod rules;
mod table;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use crate::domain::{Error, Result};
use crate::transport::api::Api;
use crate::transport::in_flight::Pool;
use crate::transport::server::accept::Acceptor;
use crate::transport::server::connection::Shared;
use crate::transport::server::rules::Limits;
use crate::transport::server::table::Table;
use crate::transport::{Services, TransportConfig, http};

pub(super) use exchange::Exchange;

/// Connections the kernel holds for us until they are accepted. When they are more it drops the callers' packets, who try again after 1, 3
/// and 7 seconds: a burst must fit. The kernel lowers it to `net.core.somaxconn`, 4,096 by default.
const BACKLOG_MAX: u32 = 4096;

/// What the kernel keeps of unread answers for each connection (it doubles the number). Left to itself it takes megabytes of a client
/// that reads nothing, and copying them is work that others wait for.
const SEND_BUFFER_BYTES: u32 = 128 << 10;

/// Beside one upload of full size: the piece that shows that it is too large, and the message around it.
const UPLOAD_OVERRUN_BYTES: usize = 1 << 20;

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
    table: Arc<Table>,
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
        let server = Self {
            address: listener.local_addr()?,
            admin_address: admin_listener.as_ref().map(TcpListener::local_addr).transpose()?,
            phase: watch::Sender::new(Phase::Serving),
            table: Table::new(shared(&services, &config)),
        };
        tokio::spawn(server.table.clone().watch(server.phase.subscribe()));
        let api = Arc::new(Api::new(services, &config));
        let routers = http::routers(&api, admin_listener.is_some());
        server.accept_on(listener, routers.main);
        if let (Some(listener), Some(router)) = (admin_listener, routers.admin) {
            server.accept_on(listener, router);
        }
        Ok(server)
    }

    /// Stops accepting, ends idle connections, lets requests under way finish until `deadline`. True if all did.
    pub async fn shut_down(self, deadline: Instant) -> bool {
        self.phase.send_replace(Phase::Draining);
        let finished = tokio::time::timeout_at(deadline.into(), self.table.all_closed()).await.is_ok();
        self.phase.send_replace(Phase::Over);
        finished
    }

    fn accept_on(&self, listener: TcpListener, router: Router) {
        let acceptor = Acceptor { router, phase: self.phase.subscribe(), table: self.table.clone() };
        tokio::spawn(acceptor.run(listener));
    }
}

fn shared(services: &Services, config: &TransportConfig) -> Shared {
    let metrics = services.metrics.clone();
    metrics.inflight_limit_bytes.set(config.inflight_bytes_max as i64);
    Shared {
        limits: Limits::new(config),
        inference: Arc::new(Pool::new(config.inflight_bytes_max)),
        uploads: Arc::new(Pool::new(config.upload_bytes_max + UPLOAD_OVERRUN_BYTES)),
        metrics,
    }
}

fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    listen(address).map_err(|e| Error::from(e).context(format!("{flag} {address}")))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted server takes its port back although connections of the old one linger.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG_MAX)
}

//! Sends a load and waits for its answers: when requests go out, and over how many connections.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::domain::{Error, Result};

use super::arrivals::Arrivals;
use super::client::{ANSWER_TIMEOUT, Client, Connection, Exchange, Failure, Outcome};
use super::tally::{Stage, Tally};
use super::workload::Workload;

/// Requests of one stage: what is kept of them takes 8 bytes each.
const REQUESTS_MAX: f64 = 10e6;
/// Arrivals between the thread that keeps the time and the one that sends; what does not fit waits, and is sent late.
const ARRIVALS_WAITING_MAX: usize = 1024;

/// A client of a closed loop that got no answer sends again after this; at once, its refusals would take the time that answers need.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "loop", rename_all = "lowercase")]
pub(super) enum Load {
    /// Each client sends when its last answer is there.
    Closed { clients: u16 },
    /// Poisson arrivals, `rate` a second; `share` of the measured capacity, if that is how it was asked for.
    Open { rate: f64, share: Option<f64> },
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { clients } => write!(f, "closed, {clients} clients"),
            Self::Open { rate, share: None } => write!(f, "open, {rate:.1}/s"),
            Self::Open { rate, share: Some(share) } => write!(f, "open, {rate:.1}/s ({share} x)"),
        }
    }
}

/// What all loads of a run share.
pub(super) struct LoadSettings {
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
    /// Open at once.
    pub(super) connections: usize,
    pub(super) seed: u64,
}

pub(super) struct Loader {
    pub(super) client: Client,
    pub(super) path: &'static str,
    pub(super) workload: Workload,
    pub(super) settings: LoadSettings,
}

impl Loader {
    /// Sends `load` for the warm-up and the measured time, then waits for every answer.
    pub(super) async fn run(&mut self, load: Load, deadline: Option<Duration>) -> Result<Stage> {
        let end = self.settings.warm_up + self.settings.measured;
        let mut tally = Tally::new(self.settings.warm_up..end, deadline);
        let flight = Flight::new(self.client.with_deadline(deadline), self.path);
        let peak = match load {
            Load::Closed { clients } => self.closed_loop(flight, clients, end, &mut tally).await?,
            Load::Open { rate, .. } => {
                check_requests(rate * end.as_secs_f64())?;
                self.open_loop(flight, rate, end, &mut tally).await
            }
        };
        Ok(tally.finish(load, peak, self.settings.connections))
    }

    async fn closed_loop(
        &mut self,
        mut flight: Flight,
        clients: u16,
        end: Duration,
        tally: &mut Tally,
    ) -> Result<usize> {
        for _ in 0..clients {
            flight.send_after(Duration::ZERO, self.workload.next_body());
        }
        let mut requests = 0.0;
        while let Some(exchange) = flight.landed().await {
            tally.record(&exchange);
            requests += 1.0;
            check_requests(requests)?;
            if flight.now() < end {
                let pause = if exchange.is_answered() { Duration::ZERO } else { RETRY_PAUSE };
                flight.send_after(pause, self.workload.next_body());
            }
        }
        Ok(flight.peak)
    }

    /// Counts what could not be sent within the client's patience as failed, so a stalled server ends the run all the same.
    async fn open_loop(&mut self, mut flight: Flight, rate: f64, end: Duration, tally: &mut Tally) -> usize {
        let schedule = Arrivals::new(self.settings.seed, rate).take_while(move |&due| due < end);
        let mut arrivals = Some(paced(schedule, flight.began));
        while arrivals.is_some() || !flight.is_empty() {
            let may_send = flight.len() < self.settings.connections;
            tokio::select! {
                biased;
                Some(exchange) = flight.landed() => tally.record(&exchange),
                arrival = next(&mut arrivals), if may_send && arrivals.is_some() => match arrival {
                    Some(due) if flight.now().saturating_sub(due) > ANSWER_TIMEOUT => tally.record(&not_sent(due, flight.now())),
                    Some(due) => flight.send(due, self.workload.next_body()),
                    None => arrivals = None,
                },
            }
        }
        flight.peak
    }
}

fn check_requests(count: f64) -> Result<()> {
    if count > REQUESTS_MAX {
        return Err(Error::invalid(format!(
            "about {count:.0} requests in one load; at most {REQUESTS_MAX:.0} are wanted (lower --rate, --load or --seconds)"
        )));
    }
    Ok(())
}

async fn next(arrivals: &mut Option<mpsc::Receiver<Duration>>) -> Option<Duration> {
    arrivals.as_mut()?.recv().await
}

fn not_sent(due: Duration, now: Duration) -> Exchange {
    Exchange { due, sent: now, done: now, outcome: Outcome::Failed(Failure::NotSent) }
}

/// Hands each moment of `schedule` over when it has come. A thread of its own, because the runtime's timer is only good to a
/// millisecond, which would bunch the arrivals and is more than a short text takes.
fn paced(schedule: impl Iterator<Item = Duration> + Send + 'static, began: Instant) -> mpsc::Receiver<Duration> {
    let (sender, receiver) = mpsc::channel(ARRIVALS_WAITING_MAX);
    std::thread::spawn(move || {
        for due in schedule {
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            if sender.blocking_send(due).is_err() {
                return; // the run was given up
            }
        }
    });
    receiver
}

/// The requests under way in one stage, and the connections that wait for the next one.
struct Flight {
    client: Arc<Client>,
    path: &'static str,
    began: Instant,
    tasks: JoinSet<(Exchange, Option<Connection>)>,
    /// Last in, first out: few connections stay busy and the rest idle.
    idle: Vec<Connection>,
    /// The most requests at once.
    peak: usize,
}

impl Flight {
    fn new(client: Client, path: &'static str) -> Self {
        let (tasks, idle) = (JoinSet::new(), Vec::new());
        Self { client: Arc::new(client), path, began: Instant::now(), tasks, idle, peak: 0 }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn len(&self) -> usize {
        self.tasks.len()
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    fn send(&mut self, due: Duration, body: hyper::body::Bytes) {
        let (client, path, began, connection) = (self.client.clone(), self.path, self.began, self.idle.pop());
        self.tasks.spawn(async move { client.exchange(path, body, (began, due), connection).await });
        self.peak = self.peak.max(self.tasks.len());
    }

    /// A request that is due when `pause` is over.
    fn send_after(&mut self, pause: Duration, body: hyper::body::Bytes) {
        let (client, path, began, connection) = (self.client.clone(), self.path, self.began, self.idle.pop());
        self.tasks.spawn(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            client.exchange(path, body, (began, began.elapsed()), connection).await
        });
        self.peak = self.peak.max(self.tasks.len());
    }

    /// The next exchange that ended; None if none is under way.
    async fn landed(&mut self) -> Option<Exchange> {
        let (exchange, connection) = self.tasks.join_next().await?.expect("no exchange panics or is aborted");
        self.idle.extend(connection);
        Some(exchange)
    }
}

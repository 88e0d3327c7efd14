//! One request and its answer on a connection: what it waits for, the bytes it holds, how it is ended. The bodies on both sides report here.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::domain::{Error, ErrorKind, Result};
use crate::telemetry::RejectReason;
use crate::transport::in_flight::Pool;
use crate::transport::server::connection::Connection;
use crate::transport::server::framing::Framing;
use crate::transport::server::pace::{Micros, Pace, SECOND, now};
use crate::transport::server::rules::{Reason, Wait};

/// How long a request that was ended may take to go before its connection is cut: the client may not take the reset or the error either.
const GOING_MAX: Micros = 2 * SECOND;

/// What the request's side waits for.
const OURS: u8 = 0;
const BODY: u8 = 1;
const MESSAGE: u8 = 2;

pub(in crate::transport) struct Exchange {
    connection: Arc<Connection>,
    pub(super) is_grpc: bool,
    is_upload: AtomicBool,
    /// Messages of a stream come and go one by one.
    is_stream: AtomicBool,
    framing: Mutex<Framing>,
    /// Bytes taken and not given back.
    held: AtomicUsize,
    request: Side,
    request_waits: AtomicU8,
    request_is_over: AtomicBool,
    pub(super) request_waker: AtomicWaker,
    answer: Side,
    /// Bytes of the answer that were handed on and not taken.
    untaken: AtomicUsize,
    /// Of an answer without an end in sight: its begin, or when its last piece was taken. 0: it is not such a one.
    quiet_since: AtomicU64,
    fault: OnceLock<Error>,
    ended_at: AtomicU64,
    ended: Notify,
}

/// One direction: when it began, and how its client keeps up.
#[derive(Default)]
struct Side {
    since: AtomicU64,
    pace: Pace,
}

impl Side {
    fn begin(&self, now: Micros) {
        self.since.store(now, Relaxed);
        self.pace.restart(now);
    }

    fn excuse(&self, ours: Micros) {
        self.since.fetch_add(ours, Relaxed);
        self.pace.excuse(ours);
    }
}

impl Exchange {
    pub(super) fn open(connection: Arc<Connection>, is_http2: bool, is_grpc: bool) -> Arc<Self> {
        let exchange = Arc::new(Self {
            connection: connection.clone(),
            is_grpc,
            is_upload: AtomicBool::new(false),
            is_stream: AtomicBool::new(false),
            framing: Mutex::default(),
            held: AtomicUsize::new(0),
            request: Side::default(),
            request_waits: AtomicU8::new(OURS),
            request_is_over: AtomicBool::new(false),
            request_waker: AtomicWaker::new(),
            answer: Side::default(),
            untaken: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(0),
            fault: OnceLock::new(),
            ended_at: AtomicU64::new(0),
            ended: Notify::new(),
        });
        connection.begins(&exchange, is_http2);
        exchange
    }

    // ---- for handlers

    /// An adapter or dataset comes: it has a bound of its own and more time. Said before its body is read.
    pub(in crate::transport) fn expect_upload(&self) {
        self.is_upload.store(true, Relaxed);
    }

    /// Messages will be taken one by one ([`Exchange::message`]). Said before the first is read.
    pub(in crate::transport) fn expect_messages(&self) {
        self.is_stream.store(true, Relaxed);
    }

    /// The bytes of the next message, held until its work is done. Asked for once a message, in the order they came.
    pub(in crate::transport) fn message(self: &Arc<Self>) -> MessageBytes {
        MessageBytes { bytes: self.framing().take(), exchange: self.clone() }
    }

    /// Gives bytes back that the handler has dropped before the exchange is over.
    pub(in crate::transport) fn release(&self, bytes: usize) {
        let held = self.held.fetch_update(Relaxed, Relaxed, |held| Some(held.saturating_sub(bytes))).unwrap_or(0);
        self.give_back(bytes.min(held));
    }

    // ---- for the bodies

    pub(super) fn pool(&self) -> &Arc<Pool> {
        let shared = &self.connection.shared;
        if self.is_upload() { &shared.uploads } else { &shared.inference }
    }

    pub(super) fn is_upload(&self) -> bool {
        self.is_upload.load(Relaxed)
    }

    /// Takes bytes that were read; false: there is no room.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let fits = if self.is_upload() { self.pool().take(bytes) } else { self.connection.take(bytes) };
        if fits {
            self.held.fetch_add(bytes, Relaxed);
        }
        fits
    }

    /// Takes bytes of an answer, which exist already.
    pub(super) fn take_anyway(&self, bytes: usize) {
        self.held.fetch_add(bytes, Relaxed);
        if self.is_upload() {
            self.pool().take_anyway(bytes);
        } else {
            self.connection.take_anyway(bytes);
        }
    }

    /// Takes bytes that a body unpacked to; `unavailable` where there is no room.
    pub(in crate::transport) fn take_unpacked(&self, bytes: usize) -> Result<()> {
        if self.take(bytes) { Ok(()) } else { Err(self.refuse().clone()) }
    }

    fn give_back(&self, bytes: usize) {
        if self.is_upload() {
            self.pool().give_back(bytes);
        } else {
            self.connection.give_back(bytes);
        }
    }

    pub(super) fn request_begins(&self, now: Micros) {
        self.request.begin(now);
    }

    /// Between two reads of the body we had it for `ours`.
    pub(super) fn excuse_request(&self, ours: Micros) {
        self.request.excuse(ours);
    }

    /// A piece of the body came.
    pub(super) fn heard(&self, bytes: &[u8], now: Micros) {
        if self.is_stream.load(Relaxed) {
            let mut framing = self.framing();
            if framing.is_between_messages() {
                self.request.begin(now);
            }
            framing.feed(bytes);
        }
        self.request.pace.advance(bytes.len(), now, self.connection.shared.limits.bytes_per_second);
        self.request_is_ours();
    }

    /// Nothing of the body is there.
    pub(super) fn request_waits(&self, now: Micros) {
        if !self.is_stream.load(Relaxed) || !self.framing().is_between_messages() {
            self.request_waits.store(BODY, Relaxed);
        } else if self.request_waits.swap(MESSAGE, Relaxed) != MESSAGE {
            self.request.since.store(now, Relaxed);
        }
    }

    pub(super) fn request_is_ours(&self) {
        self.request_waits.store(OURS, Relaxed);
    }

    pub(super) fn request_is_over(&self) {
        self.request_is_ours();
        self.request_is_over.store(true, Relaxed);
    }

    /// The handler is done. What it read it has dropped, unless it still reads.
    pub(super) fn is_answered(&self) {
        if self.request_is_over.load(Relaxed) {
            self.release(usize::MAX);
        }
    }

    /// The answer is a stream.
    pub(super) fn answer_streams(&self) {
        self.quiet_since.store(now().max(1), Relaxed);
    }

    /// A piece of the answer is on its way to the client.
    pub(super) fn hand_on(&self, bytes: usize) {
        if self.untaken.fetch_add(bytes, Relaxed) == 0 {
            self.answer.begin(now());
        }
    }

    /// The connection has written a piece, or dropped it.
    pub(super) fn is_taken(&self, bytes: usize) {
        let now = now();
        self.answer.pace.advance(bytes, now, self.connection.shared.limits.bytes_per_second);
        if self.quiet_since.load(Relaxed) != 0 {
            self.quiet_since.store(now.max(1), Relaxed);
        }
        self.untaken.fetch_sub(bytes, Relaxed);
    }

    /// Why the body is not read on.
    pub(super) fn fault(&self) -> Option<&Error> {
        self.fault.get()
    }

    /// The body found no room for too long.
    pub(super) fn refuse(&self) -> &Error {
        self.connection.shared.metrics.rejected.inc(RejectReason::BytesFull);
        self.fault.get_or_init(|| no_room(self.pool().bytes_max(), self.is_upload()))
    }

    // ---- for the table

    pub(super) fn wait(&self, now: Micros) -> Wait {
        let (since, quiet_since) = (self.request.since.load(Relaxed), self.quiet_since.load(Relaxed));
        if self.untaken.load(Relaxed) > 0 {
            // A stream has no total time: it may always have something on its way.
            let since = if quiet_since == 0 { self.answer.since.load(Relaxed) } else { now };
            return Wait::Reader { since, lag: self.answer.pace.lag(now) };
        }
        match self.request_waits.load(Relaxed) {
            BODY => Wait::Body { since, lag: self.request.pace.lag(now), is_upload: self.is_upload() },
            MESSAGE if self.held.load(Relaxed) == 0 => Wait::Message(since),
            OURS if quiet_since != 0 && self.held.load(Relaxed) == 0 => Wait::Event(quiet_since),
            _ => Wait::Ours,
        }
    }

    /// Bytes of `pool` that would come back.
    pub(super) fn held_of(&self, pool: &Arc<Pool>) -> usize {
        if Arc::ptr_eq(self.pool(), pool) { self.held.load(Relaxed) } else { 0 }
    }

    /// Ends it. True: it was told before and does not go, or cannot go without its connection.
    pub(super) fn end(&self, reason: Reason, now: Micros) -> bool {
        let ended_at = self.ended_at.load(Relaxed);
        if ended_at != 0 {
            return now.saturating_sub(ended_at) >= GOING_MAX;
        }
        self.ended_at.store(now.max(1), Relaxed);
        let is_of_answer = matches!(self.wait(now), Wait::Reader { .. });
        if is_of_answer && !self.connection.is_http2() {
            return true;
        }
        self.connection.shared.metrics.connections_cut.inc(reason.counted());
        if is_of_answer {
            self.ended.notify_one();
            return false;
        }
        let _the_first_stands = self.fault.set(self.failure(reason));
        self.request_waker.wake();
        false
    }

    /// Whether [`Exchange::end`] was called.
    pub(super) fn is_ended(&self) -> bool {
        self.ended_at.load(Relaxed) != 0
    }

    /// Returns when the answer is to be dropped.
    pub(super) async fn is_cut(&self) {
        self.ended.notified().await;
    }

    fn failure(&self, reason: Reason) -> Error {
        let limits = &self.connection.shared.limits;
        let seconds = |bound: Micros| bound as f64 / SECOND as f64;
        match reason {
            Reason::BodyTimeout => {
                let bound = if self.is_upload() { limits.transfer } else { limits.body };
                Error::invalid(format!("the body took longer than the limit of {} s", seconds(bound)))
            }
            Reason::StreamIdle => Error::invalid(format!("no message came for {} s", seconds(limits.transfer))),
            Reason::Bytes => no_room(self.pool().bytes_max(), self.is_upload()),
            _ => Error::invalid(format!(
                "the body came too slowly: it is {} s behind the least rate of {} bytes/s",
                seconds(limits.stall),
                limits.bytes_per_second
            )),
        }
    }

    fn framing(&self) -> MutexGuard<'_, Framing> {
        self.framing.lock().expect("no holder panics")
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.give_back(self.held.load(Relaxed));
        self.connection.ends();
    }
}

/// A message of a stream at work: dropped, its bytes are free for others.
pub(in crate::transport) struct MessageBytes {
    exchange: Arc<Exchange>,
    bytes: usize,
}

impl Drop for MessageBytes {
    fn drop(&mut self) {
        self.exchange.release(self.bytes);
    }
}

fn no_room(bytes_max: usize, is_upload: bool) -> Error {
    let what = if is_upload { "uploads" } else { "bodies and answers (--max-inflight-bytes)" };
    Error::new(
        ErrorKind::Overloaded,
        format!("the {what} in flight fill their limit of {bytes_max} bytes; try again shortly"),
    )
}

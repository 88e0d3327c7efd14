//! The two bodies of an exchange: a request's is paid for as it is read, an answer's is known to be taken when its bytes are dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::futures::OwnedNotified;
use tokio::time::Sleep;

use crate::domain::Error;
use crate::transport::error;
use crate::transport::in_flight::Waiting;
use crate::transport::server::exchange::Exchange;
use crate::transport::server::pace::{Micros, now};

/// How long a body waits for room before its request is refused: longer than it takes to cut those who make no progress.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(3);

/// An upload waits for another one to be done.
const UPLOAD_ROOM_WAIT_MAX: Duration = Duration::from_secs(30);

/// Of an answer at once: what a client takes is known to one piece. Small enough that a client at the least rate takes one within the
/// time that it may be late.
const PIECE_BYTES_MAX: usize = 8 << 10;

/// Whose time passes while a body is read.
enum Turn {
    /// Nobody has asked for the body.
    Unread,
    /// A piece is with its reader since then.
    Ours(Micros),
    Client,
}

/// What a client sends.
pub(super) struct RequestBody {
    body: Incoming,
    exchange: Arc<Exchange>,
    /// When the last piece was handed out: from there on it was ours.
    turn: Turn,
    /// A piece that is not paid for.
    unpaid: Option<(Bytes, Option<Room>)>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, exchange: Arc<Exchange>) -> Self {
        Self { body, exchange, turn: Turn::Unread, unpaid: None }
    }

    /// Hands out the piece that was read as soon as there is room for it.
    fn poll_paid(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some((bytes, room)) = &mut self.unpaid else { return Poll::Ready(None) };
        let is_paid = match room {
            None if self.exchange.take(bytes.len()) => true,
            None => ready!(room.insert(Room::new(&self.exchange)).poll(&self.exchange, bytes.len(), context)),
            Some(room) => ready!(room.poll(&self.exchange, bytes.len(), context)),
        };
        let unpaid = self.unpaid.take();
        self.turn = Turn::Ours(now());
        Poll::Ready(Some(match unpaid {
            Some((bytes, _room)) if is_paid => Ok(Frame::data(bytes)),
            _ => Err(failure(&self.exchange, self.exchange.refuse())),
        }))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let now = now();
        match std::mem::replace(&mut self.turn, Turn::Client) {
            Turn::Unread => self.exchange.request_begins(now),
            Turn::Ours(since) => self.exchange.excuse_request(now.saturating_sub(since)),
            Turn::Client => (),
        }
        self.exchange.request_waker.register(context.waker());
        if let Some(fault) = self.exchange.fault() {
            return Poll::Ready(Some(Err(failure(&self.exchange, fault))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.exchange.request_waits(now);
            return Poll::Pending;
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            end => {
                self.exchange.request_is_over();
                return Poll::Ready(end.map(|end| end.map_err(axum::Error::new)));
            }
        };
        match frame.into_data() {
            Ok(bytes) => {
                self.exchange.heard(&bytes, now);
                self.unpaid = Some((bytes, None));
                self.poll_paid(context)
            }
            Err(trailers) => Poll::Ready(Some(Ok(trailers))),
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.unpaid.is_some() { self.poll_paid(context) } else { self.poll_read(context) }
    }

    fn is_end_stream(&self) -> bool {
        self.unpaid.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.exchange.request_is_over();
    }
}

/// A failure in the words of the protocol that reads the body: tonic looks for a status.
fn failure(exchange: &Exchange, error: &Error) -> axum::Error {
    if exchange.is_grpc { axum::Error::new(error::status(error)) } else { axum::Error::new(error.clone()) }
}

/// A wait for room among the bytes in flight.
struct Room {
    waiting: Waiting,
    freed: Pin<Box<OwnedNotified>>,
    over: Pin<Box<Sleep>>,
}

impl Room {
    fn new(exchange: &Exchange) -> Self {
        let waiting = Waiting::new(exchange.pool().clone());
        let bound = if exchange.is_upload() { UPLOAD_ROOM_WAIT_MAX } else { ROOM_WAIT_MAX };
        Self { freed: Box::pin(waiting.freed()), over: Box::pin(tokio::time::sleep(bound)), waiting }
    }

    /// Whether `bytes` found room in time.
    fn poll(&mut self, exchange: &Exchange, bytes: usize, context: &mut Context<'_>) -> Poll<bool> {
        loop {
            if exchange.take(bytes) {
                return Poll::Ready(true);
            }
            if self.over.as_mut().poll(context).is_ready() {
                return Poll::Ready(false);
            }
            ready!(self.freed.as_mut().poll(context));
            self.freed = Box::pin(self.waiting.freed());
        }
    }
}

/// What we answer.
pub(super) struct AnswerBody {
    body: Body,
    exchange: Arc<Exchange>,
    /// The rest of the last frame.
    rest: Bytes,
    /// Each piece counts while it exists. An answer of known length is counted whole: its pieces share one allocation.
    counts_pieces: bool,
}

impl AnswerBody {
    pub(super) fn new(body: Body, exchange: Arc<Exchange>) -> Self {
        let whole = body.size_hint().exact();
        match whole {
            Some(bytes) => exchange.take_anyway(bytes as usize),
            None => exchange.answer_streams(),
        }
        Self { body, exchange, rest: Bytes::new(), counts_pieces: whole.is_none() }
    }

    fn next_piece(&mut self) -> Bytes {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE_BYTES_MAX));
        self.exchange.hand_on(bytes.len());
        if self.counts_pieces {
            self.exchange.take_anyway(bytes.len());
        }
        Bytes::from_owner(Piece { bytes, exchange: self.exchange.clone(), counts: self.counts_pieces })
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => self.rest = bytes,
                Ok(empty) => return Poll::Ready(Some(Ok(Frame::data(empty)))),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut sum = SizeHint::new();
        sum.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            sum.set_upper(upper + rest);
        }
        sum
    }
}

/// Bytes of an answer. The connection drops them when the kernel has them, or when it ends.
struct Piece {
    bytes: Bytes,
    exchange: Arc<Exchange>,
    counts: bool,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.exchange.is_taken(self.bytes.len());
        if self.counts {
            self.exchange.release(self.bytes.len());
        }
    }
}

//! The account of one request: its id, its adapter, where its time went and how it ended. Counted once, whatever happens to it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::domain::{Error, ErrorKind};
use crate::serving::Timings;
use crate::telemetry::Metrics;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Bytes of a caller's request id that we echo and log.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Failures through no fault of the caller: what the alerts count.
const FAULTS: [ErrorKind; 3] = [ErrorKind::Internal, ErrorKind::Unavailable, ErrorKind::DeadlineExceeded];

/// The code of a request whose client left before its answer.
pub(super) const CANCELLED: &str = "cancelled";

/// Shared by the middleware, which opens and closes it, and the handler, which fills it in.
pub(super) struct Account {
    metrics: Arc<Metrics>,
    /// The route's template, `unmatched`, or a gRPC method's path.
    route: String,
    /// Ours: `req_…`.
    pub(super) id: String,
    /// The caller's, or ours.
    pub(super) request_id: String,
    started: Instant,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// Asked for, then the one that answered; empty for none.
    adapter: String,
    timings: Timings,
    failure: Option<Error>,
    closed: bool,
    /// A handler of ours has the request; until then tonic answers by itself.
    handled: bool,
    /// A stream whose items are counted one by one is not counted again.
    by_items: bool,
    /// It lasts as long as its caller likes, so its duration says nothing about the server.
    open_ended: bool,
}

impl Account {
    pub(super) fn open(metrics: Arc<Metrics>, route: String, headers: &HeaderMap) -> Arc<Self> {
        let id = new_id();
        let request_id = callers_id(headers).unwrap_or(&id).to_owned();
        Arc::new(Self { metrics, route, id, request_id, started: Instant::now(), entries: Mutex::default() })
    }

    /// One message of a stream: an account of its own under the stream's route and request id. It waits behind the stream's
    /// other messages for as long as its caller sends faster than they are answered, so it is open-ended, too.
    pub(super) fn open_item(&self) -> Arc<Self> {
        self.entries().by_items = true;
        let entries = Entries { open_ended: true, ..Entries::default() };
        Arc::new(Self {
            metrics: self.metrics.clone(),
            route: self.route.clone(),
            id: new_id(),
            request_id: self.request_id.clone(),
            started: Instant::now(),
            entries: Mutex::new(entries),
        })
    }

    pub(super) fn route(&self) -> &str {
        &self.route
    }

    pub(super) fn set_adapter(&self, name: &str) {
        name.clone_into(&mut self.entries().adapter);
    }

    /// Keeps the request out of the latency histogram: a stream, a download or an upload.
    pub(super) fn set_open_ended(&self) {
        self.entries().open_ended = true;
    }

    pub(super) fn set_timings(&self, timings: Timings) {
        self.entries().timings = timings;
    }

    pub(super) fn set_handled(&self) {
        self.entries().handled = true;
    }

    pub(super) fn is_handled(&self) -> bool {
        self.entries().handled
    }

    pub(super) fn set_failure(&self, error: &Error) {
        self.entries().failure = Some(error.clone());
    }

    /// The failure's code, if a handler named one.
    pub(super) fn failure_code(&self) -> Option<&'static str> {
        self.entries().failure.as_ref().map(|error| error.kind().code())
    }

    /// `queue;dur=0.120, …`, in milliseconds.
    pub(super) fn server_timing(&self) -> HeaderValue {
        let timings = self.entries().timings;
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let text = format!(
            "queue;dur={:.3}, tokenize;dur={:.3}, compute;dur={:.3}, total;dur={:.3}",
            ms(timings.queue),
            ms(timings.tokenize),
            ms(timings.compute),
            ms(self.started.elapsed()),
        );
        HeaderValue::try_from(text).expect("digits and ASCII words are a header value")
    }

    pub(super) fn request_id_header(&self) -> HeaderValue {
        HeaderValue::try_from(&self.request_id).expect("checked to be visible ASCII")
    }

    /// Counts the request under `code`; later calls change nothing.
    pub(super) fn close(&self, code: &str) {
        let mut entries = self.entries();
        let again = std::mem::replace(&mut entries.closed, true);
        if again || (entries.by_items && matches!(code, "ok" | CANCELLED)) {
            return;
        }
        let adapter = match entries.adapter.as_str() {
            "" => String::new(),
            name => self.metrics.adapter_label(name),
        };
        let elapsed = self.started.elapsed();
        self.count(&adapter, code);
        if !entries.open_ended {
            self.metrics.request_duration.with_label_values(&[&self.route]).observe(elapsed.as_secs_f64());
        }
        self.log(code, &adapter, elapsed, entries.failure.as_ref());
    }

    /// With the first answer of a kind come the series of failures beside it, at 0: a failure that begins a series is not a rise,
    /// and no alert would see it.
    fn count(&self, adapter: &str, code: &str) {
        let answers = |code: &str| self.metrics.requests.with_label_values(&[&self.route, adapter, code]);
        let counter = answers(code);
        if counter.get() == 0 {
            FAULTS.iter().for_each(|fault| drop(answers(fault.code())));
        }
        counter.inc();
    }

    /// A bug is an operator's business, everything else is debugging. Messages may quote the request, so they stay out.
    fn log(&self, code: &str, adapter: &str, elapsed: Duration, failure: Option<&Error>) {
        let (route, request_id, id) = (&self.route, &self.request_id, &self.id);
        let duration_ms = elapsed.as_millis() as u64;
        match failure {
            Some(error) if error.kind() == ErrorKind::Internal => {
                let cause = causes(error);
                tracing::error!(route, request_id, id, adapter, duration_ms, %error, cause, "request failed");
            }
            _ => tracing::debug!(route, request_id, id, adapter, code, duration_ms, "request answered"),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().expect("no holder panics")
    }
}

/// Closes the account as cancelled when it is dropped first: the client has gone.
pub(super) struct OpenAccount(pub(super) Arc<Account>);

impl Drop for OpenAccount {
    fn drop(&mut self) {
        self.0.close(CANCELLED);
    }
}

fn new_id() -> String {
    format!("req_{}", Uuid::now_v7().simple())
}

fn callers_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let fits = !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_graphic());
    fits.then_some(id)
}

/// The chain below an error, on one line.
fn causes(error: &Error) -> String {
    let chain = std::iter::successors(std::error::Error::source(error), |e| e.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

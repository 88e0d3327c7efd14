//! What a handler knows of its request beside the body: the services, the account, the deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};

use crate::domain::{AdapterIdentity, AdapterRef, Error, Result};
use crate::serving::{Caller, Inference, Timings};
use crate::transport::Services;
use crate::transport::account::Account;
use crate::transport::api::Api;
use crate::transport::error::Failure;
use crate::transport::server::Exchange;

const TIMEOUT_HEADER: &str = "x-request-timeout-ms";
const GRPC_TIMEOUT_HEADER: &str = "grpc-timeout";

#[derive(Clone)]
pub(super) struct Call {
    pub(super) api: Arc<Api>,
    pub(super) account: Arc<Account>,
    pub(super) deadline: Option<Instant>,
    pub(super) caller: Caller,
    /// What the request holds of the bytes in flight.
    pub(super) exchange: Option<Arc<Exchange>>,
}

impl Call {
    /// From what the middleware left in `extensions`.
    pub(super) fn new(api: Arc<Api>, headers: &HeaderMap, extensions: &Extensions) -> Result<Self> {
        let account = extensions.get::<Arc<Account>>().cloned();
        let account = account.ok_or_else(|| Error::internal("a request came past the middleware"))?;
        account.set_handled();
        let deadline = timeout(headers)?.and_then(|timeout| Instant::now().checked_add(timeout));
        let exchange = extensions.get::<Arc<Exchange>>().cloned();
        Ok(Self { api, account, deadline, exchange, caller: Caller::single() })
    }

    /// The call of a stream, whose messages are one caller together.
    pub(super) fn of_stream(self) -> Self {
        Self { caller: Caller::stream(), ..self }
    }

    /// One message of this stream, as a request of its own.
    pub(super) fn item(&self, timeout_ms: Option<u32>) -> Self {
        let timeout = timeout_ms.map(|ms| Duration::from_millis(ms.into()));
        let own = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let deadline = own.into_iter().chain(self.deadline).min();
        let (api, exchange) = (self.api.clone(), self.exchange.clone());
        Self { api, account: self.account.open_item(), deadline, exchange, caller: self.caller }
    }

    pub(super) fn services(&self) -> &Services {
        &self.api.services
    }

    pub(super) fn inference(&self) -> &Inference {
        &self.api.services.inference
    }

    /// The adapter as the caller wrote it; a failure is counted under it.
    pub(super) fn asked(&self, adapter: Option<&str>) -> Result<Option<AdapterRef>> {
        let Some(adapter) = adapter else { return Ok(None) };
        let reference: AdapterRef = adapter.parse().map_err(|e: Error| e.context("adapter"))?;
        self.account.set_adapter(reference.name.as_str());
        Ok(Some(reference))
    }

    pub(super) fn answered(&self, adapter: Option<&AdapterIdentity>, timings: Timings) {
        if let Some(adapter) = adapter {
            self.account.set_adapter(adapter.name.as_str());
        }
        self.account.set_timings(timings);
    }
}

impl FromRequestParts<Arc<Api>> for Call {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        Ok(Self::new(api.clone(), &parts.headers, &parts.extensions)?)
    }
}

/// The caller's deadline: of the two headers the shorter.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let read = |name: &str, parse: fn(&str) -> Option<Duration>, wanted: &str| -> Result<Option<Duration>> {
        let Some(value) = headers.get(name) else { return Ok(None) };
        let parsed = value.to_str().ok().and_then(parse);
        let fault = || Error::invalid(format!("header {name}: {value:?} is not {wanted}"));
        parsed.map(Some).ok_or_else(fault)
    };
    let ours = read(TIMEOUT_HEADER, milliseconds, "a whole number of milliseconds from 1")?;
    let grpc = read(GRPC_TIMEOUT_HEADER, grpc_timeout, "1 to 8 digits and one of H, M, S, m, u, n")?;
    Ok(ours.into_iter().chain(grpc).min())
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.parse().ok().filter(|&ms| ms > 0).map(Duration::from_millis)
}

/// As the gRPC protocol writes it: `100m` is 100 milliseconds.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_comes_from_either_header_and_the_shorter_holds() {
        let check = |ours: Option<&str>, grpc: Option<&str>, wanted: Option<Option<u64>>| {
            let mut headers = HeaderMap::new();
            ours.map(|v| headers.insert(TIMEOUT_HEADER, v.parse().unwrap()));
            grpc.map(|v| headers.insert(GRPC_TIMEOUT_HEADER, v.parse().unwrap()));
            let got = timeout(&headers).ok().map(|t| t.map(|t| t.as_millis() as u64));
            assert_eq!(got, wanted, "{ours:?} {grpc:?}");
        };
        check(None, None, Some(None));
        check(Some("250"), None, Some(Some(250)));
        check(None, Some("2S"), Some(Some(2000)));
        check(Some("250"), Some("100m"), Some(Some(100)));
        check(None, Some("99999999H"), Some(Some(99_999_999 * 3_600_000)));
        for bad in ["0", "-1", "1.5", "soon", "", "18446744073709551616"] {
            check(Some(bad), None, None);
        }
        for bad in ["S", "100", "123456789S", "1x", "é"] {
            check(None, Some(bad), None);
        }
    }
}

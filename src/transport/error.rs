//! The one table of failures, and how a failure looks on each wire. Which failure it is, the layers below have said.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use utoipa::ToSchema;

use crate::domain::{Error, ErrorKind};
use crate::transport::extract::Taken;

/// For `unavailable` and `overloaded` failures that name no time of their own.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// Bytes of the two headers that carry a gRPC status. Clients take 8 KiB of headers (grpcio, and those built on it) and drop a longer
/// status whole; the rest is for the other headers.
const GRPC_STATUS_BYTES_MAX: usize = 6 * 1024;

/// Bytes around the list of violations in the details: the type's name and lengths.
const VIOLATIONS_FRAME_BYTES: usize = 80;
/// Bytes around one violation: a tag and a length each for it and for its text.
const VIOLATION_FRAME_BYTES: usize = 8;

/// Whose `reason` google.rpc.ErrorInfo carries.
const ERROR_DOMAIN: &str = "trunkline";

/// What clients see of a bug; the log has the rest.
const INTERNAL_DETAIL: &str = "the server failed to answer; its log has the cause under this request id";

/// HTTP status, gRPC code and title of each failure.
pub(super) fn row(kind: ErrorKind) -> (StatusCode, Code, &'static str) {
    use ErrorKind as K;
    match kind {
        K::InvalidRequest => (StatusCode::BAD_REQUEST, Code::InvalidArgument, "Invalid request"),
        K::Unauthenticated => (StatusCode::UNAUTHORIZED, Code::Unauthenticated, "Key wanted"),
        K::PermissionDenied => (StatusCode::FORBIDDEN, Code::PermissionDenied, "Permission denied"),
        K::AdapterNotFound => (StatusCode::NOT_FOUND, Code::NotFound, "Adapter not found"),
        K::NotFound => (StatusCode::NOT_FOUND, Code::NotFound, "Not found"),
        K::Conflict => (StatusCode::CONFLICT, Code::FailedPrecondition, "Conflict"),
        K::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Code::InvalidArgument, "Payload too large"),
        K::UnsupportedEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Unimplemented, "Unsupported encoding"),
        K::Unprocessable => (StatusCode::UNPROCESSABLE_ENTITY, Code::InvalidArgument, "Unprocessable"),
        K::Overloaded => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, "Overloaded"),
        K::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "Internal error"),
        K::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "Unavailable"),
        K::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, "Deadline exceeded"),
    }
}

/// A failure on its way out of a handler. `middleware` writes the answer: it knows the request id and the protocol.
pub(super) struct Failure(pub(super) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = row(self.0.kind()).0.into_response();
        response.extensions_mut().insert(self.0);
        response
    }
}

/// RFC 9457 `application/problem+json`.
#[derive(Serialize, ToSchema)]
pub(super) struct Problem {
    /// `urn:trunkline:error:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:trunkline:error:adapter_not_found")]
    kind: String,
    #[schema(example = "Adapter not found")]
    title: &'static str,
    #[schema(example = 404)]
    status: u16,
    /// What was got and what is wanted.
    #[schema(example = "no adapter \"peple-places\"; the nearest: people-places")]
    detail: String,
    /// One of the contract's closed list.
    #[schema(example = "adapter_not_found")]
    code: &'static str,
    request_id: String,
    /// Everything that validation found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    problems: Vec<String>,
    /// Data that is refused: the doctor's whole report, as an accepted upload is answered with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::datasets::DoctorReport>)]
    report: Option<serde_json::Value>,
}

/// The HTTP answer. `status` differs from the table's only where HTTP has a finer one (405).
pub(super) fn problem(error: &Error, status: StatusCode, request_id: &str) -> Response {
    let body = Problem {
        kind: format!("urn:trunkline:error:{}", error.kind().code()),
        title: row(error.kind()).2,
        status: status.as_u16(),
        detail: detail(error).to_owned(),
        code: error.kind().code(),
        request_id: request_id.to_owned(),
        problems: error.problems().to_vec(),
        report: error.report().cloned(),
    };
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = retry_after(error).map(whole_seconds) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    let taken = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Taken>());
    if let Some(taken) = taken.and_then(|taken| HeaderValue::from_str(&taken.0).ok()) {
        headers.insert(ACCEPT_ENCODING, taken);
    }
    if error.kind() == ErrorKind::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The failure behind an error answer that no handler of ours wrote: an unknown path or method, a malformed path.
pub(super) fn of_bare_response(response: &Response, method: &str, path: &str) -> Error {
    match response.status() {
        StatusCode::NOT_FOUND => Error::not_found(format!("no route {path:?}; GET /openapi.json lists them all")),
        // The router adds the header `allow` on the way out, above our middleware.
        StatusCode::METHOD_NOT_ALLOWED => {
            Error::invalid(format!("{path} does not take {method}; the header allow names what it takes"))
        }
        status if status.is_client_error() => {
            Error::invalid(format!("the request to {path:?} is malformed ({status})"))
        }
        _ => Error::internal("a handler failed without an error of its own"),
    }
}

/// The failure behind tonic's own status for a message that it could not read; None for other ends, as a caller that left.
///
/// tonic calls bytes that are no message `Internal`, as protocol buffers' own libraries do. They are the caller's, so is the fault.
pub(super) fn of_unread_message(status: &Status) -> Option<Error> {
    let why = || format!("the message cannot be read: {}", status.message());
    match status.code() {
        Code::Internal | Code::InvalidArgument => Some(Error::invalid(why())),
        Code::OutOfRange | Code::ResourceExhausted => Some(Error::too_large("the message is larger than the limit")),
        Code::Unimplemented => Some(Error::unsupported_encoding(why())),
        _ => None,
    }
}

/// The gRPC answer, with google.rpc details: as many problems as its headers have room for.
pub(super) fn status(error: &Error) -> Status {
    let bare = status_with(error, &[]);
    let room = GRPC_STATUS_BYTES_MAX.saturating_sub(header_bytes(&bare)) / 4 * 3; // base64 makes four bytes of three
    match fitting(error, room.saturating_sub(VIOLATIONS_FRAME_BYTES)) {
        problems if problems.is_empty() => bare,
        problems => status_with(error, &problems),
    }
}

/// The same as a message, for an item of a stream; it has room for all problems.
pub(super) fn status_message(error: &Error) -> tonic_types::Status {
    let status = status_with(error, error.problems());
    prost::Message::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

fn status_with(error: &Error, problems: &[String]) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(error.kind().code(), ERROR_DOMAIN, HashMap::new());
    if let Some(delay) = retry_after(error) {
        details.set_retry_info(Some(delay));
    }
    if !problems.is_empty() {
        details.set_bad_request(problems.iter().map(|problem| FieldViolation::new("", problem)).collect::<Vec<_>>());
    }
    Status::with_error_details(row(error.kind()).1, detail(error), details)
}

/// What a status takes of its headers: the message percent-encoded, the details in base64.
fn header_bytes(status: &Status) -> usize {
    let mut headers = HeaderMap::new();
    // A status whose message is no header value is sent without it: then there is room.
    let _ = status.add_header(&mut headers);
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// The first problems that `bytes` have room for; if some are left out, the last line says how many.
fn fitting(error: &Error, bytes: usize) -> Vec<String> {
    let cost = |line: &str| line.len() + VIOLATION_FRAME_BYTES;
    let (all, more) = (error.problems(), |shown: usize| format!("… and {} more", error.problems_count() - shown));
    if all.iter().map(|line| cost(line)).sum::<usize>() <= bytes {
        return all.to_vec();
    }
    let mut left = bytes.saturating_sub(cost(&more(0)));
    let fits = |line: &&String| {
        let next = left.checked_sub(cost(line));
        left = next.unwrap_or(0);
        next.is_some()
    };
    let mut shown: Vec<String> = all[..all.len() - 1].iter().take_while(fits).cloned().collect();
    shown.push(more(shown.len()));
    shown
}

/// The contract's code for a gRPC answer that no handler of ours wrote.
pub(super) fn code_of(grpc: Code) -> &'static str {
    let kind = match grpc {
        Code::Ok => return "ok",
        Code::Cancelled => return "cancelled",
        Code::InvalidArgument => ErrorKind::InvalidRequest,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::NotFound | Code::Unimplemented => ErrorKind::NotFound,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => ErrorKind::Conflict,
        Code::OutOfRange => ErrorKind::PayloadTooLarge,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Internal | Code::Unknown | Code::DataLoss => ErrorKind::Internal,
    };
    kind.code()
}

pub(super) fn detail(error: &Error) -> &str {
    if error.kind() == ErrorKind::Internal { INTERNAL_DETAIL } else { error.message() }
}

fn retry_after(error: &Error) -> Option<Duration> {
    let may_retry = matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::Unavailable);
    may_retry.then(|| error.retry_after().unwrap_or(RETRY_AFTER_DEFAULT))
}

/// Rounded up, so that a client that obeys is not refused again for a fraction.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_say_what_the_contract_says() {
        let table = [
            ("invalid_request", 400, Code::InvalidArgument),
            ("unauthenticated", 401, Code::Unauthenticated),
            ("permission_denied", 403, Code::PermissionDenied),
            ("adapter_not_found", 404, Code::NotFound),
            ("not_found", 404, Code::NotFound),
            ("conflict", 409, Code::FailedPrecondition),
            ("payload_too_large", 413, Code::InvalidArgument),
            ("unsupported_encoding", 415, Code::Unimplemented),
            ("unprocessable", 422, Code::InvalidArgument),
            ("overloaded", 429, Code::ResourceExhausted),
            ("internal", 500, Code::Internal),
            ("unavailable", 503, Code::Unavailable),
            ("deadline_exceeded", 504, Code::DeadlineExceeded),
        ];
        for (kind, (code, http, grpc)) in ErrorKind::ALL.into_iter().zip(table) {
            assert_eq!((kind.code(), row(kind).0.as_u16(), row(kind).1), (code, http, grpc));
        }
    }

    #[test]
    fn a_retry_time_is_rounded_up_and_only_there_where_a_retry_helps() {
        let header = |error: &Error| {
            let response = problem(error, row(error.kind()).0, "r");
            response.headers().get(RETRY_AFTER).map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(header(&Error::overloaded("full", Duration::from_millis(1200))).as_deref(), Some("2"));
        assert_eq!(header(&Error::overloaded("full", Duration::from_secs(3))).as_deref(), Some("3"));
        assert_eq!(header(&Error::unavailable("draining")).as_deref(), Some("1"));
        assert_eq!(header(&Error::conflict("no")), None);
    }

    #[test]
    fn a_status_carries_code_delay_and_problems() {
        let error = Error::unprocessable("bad").with_problems(vec!["row 1".to_owned(), "row 2".to_owned()]);
        let details = status(&error).get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "unprocessable");
        assert_eq!(details.bad_request().unwrap().field_violations.len(), 2);
        let details = status(&Error::overloaded("full", Duration::from_secs(2))).get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(2)));
        assert_eq!(status_message(&error).message, "bad");
    }

    #[test]
    fn a_status_fits_the_headers_that_clients_take() {
        let problem = |at: usize, unit: &str| format!("row {at}: {}", unit.repeat(1000));
        for (unit, shown_min) in [("x", 8), ("é", 3), ("🦀 ", 3), ("\n", 3)] {
            for count in [1, 5, 2000] {
                let problems = (0..count).map(|at| problem(at, unit)).collect::<Vec<_>>();
                let error = Error::unprocessable(unit.repeat(100_000)).with_problems(problems);
                let status = status(&error);
                assert!(header_bytes(&status) <= GRPC_STATUS_BYTES_MAX, "{unit} × {count}: {}", header_bytes(&status));
                let shown = status.get_error_details().bad_request().unwrap().field_violations.clone();
                assert!(shown.len() >= count.min(shown_min), "{unit} × {count}: {} of them", shown.len());
                assert_eq!(shown.len() < count, shown.last().unwrap().description.starts_with("… and "));
                assert_eq!(status_message(&error).details.len(), 2, "an item of a stream has all of it");
            }
        }
    }

    #[test]
    fn the_message_of_a_bug_stays_in_the_log() {
        let error = Error::internal("index 7 of \"Anna\"");
        assert!(!status(&error).message().contains("Anna"));
    }
}

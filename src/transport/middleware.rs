//! The stack around every route, outermost first: the account, then the panic net. Keys and body limits sit lower, with their group of routes.

use std::any::Any;
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::domain::Error;
use crate::transport::account::{Account, OpenAccount, REQUEST_ID, SERVER_TIMING};
use crate::transport::api::Api;
use crate::transport::error::{self, Failure};
use crate::transport::proto;

/// The `route` label of everything that no route takes, so that a scan of the address space adds one series.
const UNMATCHED: &str = "unmatched";

const GRPC_STATUS: &str = "grpc-status";

/// Opens the account, lets the request through, writes failures as its protocol wants them, and closes the account when the last byte is out.
pub(super) async fn account(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let account = Account::open(api.services.metrics.clone(), route_of(&request), request.headers());
    let open = OpenAccount(account.clone());
    let asked = Asked::of(&request);
    request.extensions_mut().insert(account.clone());
    let answer = if request.extensions().get::<NoPlace>().is_some() { no_place() } else { next.run(request).await };
    let mut response = write_failure(answer, &asked, &account);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, account.request_id_header());
    headers.insert(SERVER_TIMING, account.server_timing());
    close_with_last_byte(response, open)
}

/// Marks a request on a connection that has a place for probes alone.
#[derive(Clone, Copy)]
pub(super) struct NoPlace;

fn no_place() -> Response {
    let error = Error::unavailable("every connection is at work (--max-connections); only probes are answered on more");
    Failure(error).into_response()
}

/// A panic becomes `internal`. The panic's own words went to the panic hook; they may quote a text.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    Failure(Error::internal("a handler panicked")).into_response()
}

/// What is left of a request once its handler has it.
struct Asked {
    grpc: bool,
    method: String,
    path: String,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        Self { grpc: is_grpc(request.headers()), method, path }
    }
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.starts_with("application/grpc"))
}

/// The matched template, or for gRPC the method's path; never a caller's text.
fn route_of(request: &Request) -> String {
    let path = request.uri().path();
    if GRPC_METHODS.contains(path) {
        return path.to_owned();
    }
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    matched.filter(|_| !is_grpc(request.headers())).unwrap_or(UNMATCHED).to_owned()
}

static GRPC_METHODS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let sets =
        [proto::DESCRIPTOR, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET];
    sets.into_iter().flat_map(methods).collect()
});

/// `/package.Service/Method` of each method.
fn methods(set: &[u8]) -> Vec<String> {
    let set = FileDescriptorSet::decode(set).expect("descriptors are compiled in");
    let mut methods = Vec::new();
    for file in set.file {
        for service in &file.service {
            let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| path(method.name())));
        }
    }
    methods
}

/// Gives an error response its body, and its account the failure.
fn write_failure(mut response: Response, asked: &Asked, account: &Account) -> Response {
    if is_oversized_message(&response) {
        response.extensions_mut().insert(Error::too_large("the message is larger than the limit"));
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
    }
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let named = response.extensions_mut().remove::<Error>();
    let failure = named.unwrap_or_else(|| error::of_bare_response(&response, &asked.method, &asked.path));
    account.set_failure(&failure);
    if asked.grpc {
        return error::status(&failure).into_http();
    }
    error::problem(&failure, status, &account.request_id)
}

/// tonic's own refusal of a large message, which has a code that is not in our table.
fn is_oversized_message(response: &Response) -> bool {
    let status = response.headers().get(GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()));
    status == Some(Code::OutOfRange)
}

/// A body of known length is as good as sent; a stream is over when its last frame is.
fn close_with_last_byte(response: Response, open: OpenAccount) -> Response {
    let code = code_of(&open.0, response.status(), response.headers());
    let is_stream = response.body().size_hint().exact().is_none() && !response.body().is_end_stream();
    if !is_stream || code != "ok" {
        open.0.close(code);
        return response;
    }
    response.map(|body| Body::new(AccountedBody { body, open }))
}

/// What a handler said, else what the headers (or trailers) say.
fn code_of(account: &Account, status: StatusCode, headers: &HeaderMap) -> &'static str {
    let grpc = headers.get(GRPC_STATUS).map(|value| error::code_of(Code::from_bytes(value.as_bytes())));
    account.failure_code().or(grpc).unwrap_or(if status.is_server_error() { "internal" } else { "ok" })
}

/// Closes the account at the end of the stream; dropped earlier, the request was cancelled.
struct AccountedBody {
    body: Body,
    open: OpenAccount,
}

impl HttpBody for AccountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let account = &self.open.0;
        match &frame {
            None => account.close(account.failure_code().unwrap_or("ok")),
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    account.close(code_of(account, StatusCode::OK, trailers));
                }
            }
            Some(Err(_)) => account.close("internal"),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

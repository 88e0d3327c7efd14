//! The stack around every route, outermost first: the account, then the panic net. Keys and body limits sit lower, with their group of routes.

use std::any::Any;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tonic::{Code, Status};

use crate::domain::Error;
use crate::transport::account::{Account, OpenAccount, REQUEST_ID, SERVER_TIMING};
use crate::transport::api::Api;
use crate::transport::error::{self, Failure};
use crate::transport::proto;

/// The `route` label of everything that no route takes, so that a scan of the address space adds one series.
const UNMATCHED: &str = "unmatched";

const GRPC_STATUS: &str = "grpc-status";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// Routes whose requests bring an adapter or a dataset: they take as long as the caller's line needs for it.
const UPLOADS: [(Method, &str); 4] = [
    (Method::PUT, "/v1/admin/adapters/{name}"),
    (Method::PUT, "/v1/admin/datasets/{name}"),
    (Method::POST, "/trunkline.v1.Admin/PublishAdapter"),
    (Method::POST, "/trunkline.v1.Admin/PutDataset"),
];

/// Opens the account, lets the request through, writes failures as its protocol wants them, and closes the account when the last byte is out.
pub(super) async fn account(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let route = route_of(&request);
    let open_ended = is_open_ended(request.method(), &route);
    let account = Account::open(api.services.metrics.clone(), route, request.headers());
    if open_ended {
        account.set_open_ended();
    }
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
    if GRPC_METHODS.contains_key(path) {
        return path.to_owned();
    }
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    matched.filter(|_| !is_grpc(request.headers())).unwrap_or(UNMATCHED).to_owned()
}

/// Uploads, and gRPC methods that stream. A stream of REST shows in its answer.
fn is_open_ended(method: &Method, route: &str) -> bool {
    let is_upload = UPLOADS.iter().any(|(by, to)| by == method && *to == route);
    is_upload || GRPC_METHODS.get(route).is_some_and(|streams| *streams)
}

/// `/package.Service/Method` of each method, and whether either side of it streams.
static GRPC_METHODS: LazyLock<HashMap<String, bool>> = LazyLock::new(|| {
    let sets =
        [proto::DESCRIPTOR, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET];
    sets.into_iter().flat_map(methods).collect()
});

fn methods(set: &[u8]) -> Vec<(String, bool)> {
    let set = FileDescriptorSet::decode(set).expect("descriptors are compiled in");
    let mut methods = Vec::new();
    for file in set.file {
        for service in &file.service {
            let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
            let streams = |method: &MethodDescriptorProto| method.client_streaming() || method.server_streaming();
            methods.extend(service.method.iter().map(|method| (path(method.name()), streams(method))));
        }
    }
    methods
}

/// Gives an error response its body, and its account the failure.
fn write_failure(mut response: Response, asked: &Asked, account: &Account) -> Response {
    if let Some(failure) = unread_message(&response, account) {
        *response.status_mut() = error::row(failure.kind()).0;
        response.extensions_mut().insert(failure);
    }
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let named = response.extensions_mut().remove::<Error>();
    let failure = named.unwrap_or_else(|| error::of_bare_response(&response, &asked.method, &asked.path));
    account.set_failure(&failure);
    if asked.grpc {
        let mut answer = error::status(&failure).into_http();
        // With an unknown encoding goes the list of those that are known.
        if let Some(known) = response.headers_mut().remove(GRPC_ACCEPT_ENCODING) {
            answer.headers_mut().insert(GRPC_ACCEPT_ENCODING, known);
        }
        return answer;
    }
    error::problem(&failure, status, &account.request_id)
}

/// tonic's own refusal of a message that it could not read, before any handler of ours had it.
fn unread_message(response: &Response, account: &Account) -> Option<Error> {
    if account.is_handled() || !GRPC_METHODS.contains_key(account.route()) {
        return None;
    }
    let status = Status::from_header_map(response.headers())?;
    error::of_unread_message(&status)
}

/// A body of known length is as good as sent; a stream is over when its last frame is.
fn close_with_last_byte(response: Response, open: OpenAccount) -> Response {
    let code = code_of(&open.0, response.status(), response.headers());
    let is_stream = response.body().size_hint().exact().is_none() && !response.body().is_end_stream();
    if !is_stream || code != "ok" {
        open.0.close(code);
        return response;
    }
    if !is_grpc(response.headers()) {
        // Events or a download: they last as long as there are any, or as the caller reads.
        open.0.set_open_ended();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_uploads_are_open_ended_and_calls_are_not() {
        let check = |method: Method, route: &str, wanted: bool| {
            assert_eq!(is_open_ended(&method, route), wanted, "{method} {route}");
        };
        for stream in ["NerStream", "ClassifyStream"] {
            check(Method::POST, &format!("/trunkline.v1.Inference/{stream}"), true);
        }
        check(Method::POST, "/trunkline.v1.Admin/WatchJob", true);
        check(Method::POST, "/grpc.health.v1.Health/Watch", true);
        check(Method::POST, "/trunkline.v1.Admin/PublishAdapter", true);
        check(Method::PUT, "/v1/admin/datasets/{name}", true);
        check(Method::GET, "/v1/admin/datasets/{name}", false);
        check(Method::DELETE, "/v1/admin/adapters/{name}", false);
        check(Method::POST, "/trunkline.v1.Inference/Ner", false);
        check(Method::POST, "/v1/ner", false);
        check(Method::GET, UNMATCHED, false);
    }

    #[test]
    fn every_upload_over_grpc_is_a_method_that_exists() {
        let over_grpc = UPLOADS.iter().map(|(_, route)| *route).filter(|route| route.starts_with("/trunkline."));
        over_grpc.for_each(|route| assert!(GRPC_METHODS.contains_key(route), "{route}"));
    }
}

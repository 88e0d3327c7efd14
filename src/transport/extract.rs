//! Bodies and query strings to values, with errors that name the field.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::domain::{Error, Result};
use crate::transport::api::Api;
use crate::transport::error::Failure;
use crate::transport::server::Exchange;

/// Read and thrown away past the limit, so that the sender comes to read our answer instead of a reset.
const OVERRUN_BYTES_MAX: usize = 8 << 20;

/// JavaScript writes a string cut within an emoji like this, and its users wonder.
const LONE_SURROGATE: &str =
    " (an escape \\ud800 to \\udfff without its other half is a lone surrogate, not a character)";

/// The body of an inference or admin request.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        let bytes = json_body(request, api).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// JSON that the handler reads itself.
pub(super) struct JsonBytes(pub(super) Bytes);

impl FromRequest<Arc<Api>> for JsonBytes {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        Ok(Self(json_body(request, api).await?))
    }
}

/// An adapter or dataset, as it came.
pub(super) struct Upload(pub(super) Bytes);

impl FromRequest<Arc<Api>> for Upload {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        Ok(Self(read_upload(request, api).await?))
    }
}

/// A query string; an unknown parameter is an error.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Failure> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Failure(Error::invalid(format!("query: {}", rejection.body_text())))),
        }
    }
}

async fn json_body(request: Request, api: &Api) -> Result<Bytes> {
    demand_json(request.headers())?;
    read(request, api.body_bytes_max).await
}

/// A form from a foreign page has a content type of its own: JSON under it is refused, not guessed.
fn demand_json(headers: &HeaderMap) -> Result<()> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Error::invalid(format!("content-type {text:?}: application/json is wanted")))
}

/// All of an adapter or dataset.
pub(super) async fn read_upload(request: Request, api: &Api) -> Result<Bytes> {
    if let Some(exchange) = exchange(&request) {
        exchange.expect_upload();
    }
    read(request, api.upload_bytes_max).await
}

fn exchange(request: &Request) -> Option<Arc<Exchange>> {
    request.extensions().get().cloned()
}

/// All of a body, at most `bytes_max` of it. What is thrown away is not in flight.
async fn read(request: Request, bytes_max: usize) -> Result<Bytes> {
    let (exchange, mut body) = (exchange(&request), request.into_body());
    let too_large = || Error::too_large(format!("the body is larger than the limit of {bytes_max} bytes"));
    if body.size_hint().lower() > (bytes_max + OVERRUN_BYTES_MAX) as u64 {
        return Err(too_large());
    }
    let (mut bytes, mut overrun) = (Vec::new(), 0);
    while let Some(data) = next_piece(&mut body).await? {
        if overrun == 0 && bytes.len() + data.len() <= bytes_max {
            bytes.extend_from_slice(&data);
            continue;
        }
        if let Some(exchange) = &exchange {
            exchange.release(bytes.len() + data.len());
        }
        bytes = Vec::new();
        overrun += data.len();
        if overrun > OVERRUN_BYTES_MAX {
            break;
        }
    }
    if overrun > 0 { Err(too_large()) } else { Ok(bytes.into()) }
}

async fn next_piece(body: &mut Body) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// The server ends a body that comes too slowly or finds no room, and says so; anything else is the client's end.
fn broken(source: axum::Error) -> Error {
    let causes = std::iter::successors(std::error::Error::source(&source), |cause| cause.source());
    let ours = causes.filter_map(|cause| cause.downcast_ref::<Error>()).next().cloned();
    ours.unwrap_or_else(|| Error::invalid("the body broke off before its end").with_source(source))
}

/// JSON in UTF-8; the message names the field and where it is.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    if let Err(fault) = std::str::from_utf8(bytes) {
        return Err(Error::invalid(format!("the body is not UTF-8 from byte {} on", fault.valid_up_to())));
    }
    if bytes.is_empty() {
        return Err(Error::invalid("the body is empty; a JSON object is wanted"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|fault| {
        let path = fault.path().to_string();
        let inner = fault.into_inner();
        let what = if inner.is_data() { "" } else { "not JSON: " };
        let why = if inner.to_string().contains("hex escape") { LONE_SURROGATE } else { "" };
        let at = if path == "." { String::new() } else { format!("{path}: ") };
        Error::invalid(format!("{at}{what}{inner}{why}"))
    })?;
    json.end().map_err(|fault| Error::invalid(format!("not JSON: {fault}")))?;
    Ok(value)
}

/// A word of a closed list, from a protocol that has only strings.
pub(super) fn word<T: DeserializeOwned>(field: &str, word: Option<String>) -> Result<Option<T>> {
    let read =
        |word: String| T::deserialize(serde::de::value::StringDeserializer::<serde::de::value::Error>::new(word));
    word.map(read).transpose().map_err(|fault| Error::invalid(format!("{field}: {fault}")))
}

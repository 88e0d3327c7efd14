//! Bodies and query strings to values, with errors that name the field.

use std::fmt;
use std::io::Read as _;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::domain::{Error, Result};
use crate::transport::api::Api;
use crate::transport::error::Failure;
use crate::transport::server::Exchange;
use crate::transport::strict::Strict;

/// Read and thrown away past the limit, so that the sender comes to read our answer instead of a reset.
const OVERRUN_BYTES_MAX: usize = 8 << 20;

/// What a dataset may be compressed with.
const DATASET_ENCODINGS: [&str; 3] = ["gzip", "x-gzip", "zstd"];

/// What JSON may be compressed with.
const JSON_ENCODINGS: [&str; 2] = ["gzip", "x-gzip"];

/// Some editors and .NET's writers begin a file of UTF-8 with it; RFC 8259 lets readers pass over it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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

/// A dataset, as it came.
pub(super) struct Upload(pub(super) Bytes);

impl FromRequest<Arc<Api>> for Upload {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        demand_encoding(request.headers(), &DATASET_ENCODINGS)?;
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
    let is_packed = demand_encoding(request.headers(), &JSON_ENCODINGS)?;
    let exchange = exchange(&request);
    let body = read(request, api.body_bytes_max).await?;
    if !is_packed {
        return Ok(body);
    }
    let unpacked = unpacked(&body, api.body_bytes_max)?;
    exchange.map_or(Ok(()), |exchange| exchange.take_unpacked(unpacked.len()))?;
    Ok(unpacked.into())
}

/// What a body in gzip stands for, at most `bytes_max` of it: a bomb ends there.
fn unpacked(body: &[u8], bytes_max: usize) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    let mut reader = MultiGzDecoder::new(body).take(bytes_max as u64 + 1);
    reader
        .read_to_end(&mut unpacked)
        .map_err(|e| Error::invalid(format!("the body is not gzip, as content-encoding says: {e}")))?;
    if unpacked.len() > bytes_max {
        return Err(Error::too_large(format!("the body unpacks to more than the limit of {bytes_max} bytes")));
    }
    Ok(unpacked)
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

/// What a refused body may be encoded with, for the header `accept-encoding` of the refusal (RFC 9110, 15.5.16).
#[derive(Debug)]
pub(super) struct Taken(pub(super) String);

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "taken: {}", self.0)
    }
}

impl std::error::Error for Taken {}

/// Refuses a `content-encoding` that is none of `taken`; whether there is one.
pub(super) fn demand_encoding(headers: &HeaderMap, taken: &[&str]) -> Result<bool> {
    let values = headers.get_all(CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("\u{fffd}"));
    let codings = values.flat_map(|value| value.split(',')).map(|coding| coding.trim().to_ascii_lowercase());
    let mut applied = codings.filter(|coding| !matches!(coding.as_str(), "" | "identity"));
    let wanted =
        || if taken.is_empty() { "no encoding is".to_owned() } else { format!("one of {} is", taken.join(", ")) };
    let got = match (applied.next(), applied.next()) {
        (None, _) => return Ok(false),
        (Some(coding), None) if taken.contains(&coding.as_str()) => return Ok(true),
        (Some(coding), None) => format!("content-encoding {coding:?}:"),
        (Some(_), Some(_)) => "content-encoding: several at once;".to_owned(),
    };
    let list = if taken.is_empty() { "identity".to_owned() } else { taken.join(", ") };
    Err(Error::unsupported_encoding(format!("{got} {} taken here", wanted())).with_source(Taken(list)))
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
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Strict(&mut json)).map_err(|fault| {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        inner: Option<Inner>,
        list: Option<Vec<Inner>>,
        any: Option<Value>,
        map: Option<BTreeMap<String, Inner>>,
        unit: Option<Unit>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        count: Option<u32>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Unit {
        Char,
    }

    /// What the refusal says; empty where it is none.
    fn refusal(json: &str) -> String {
        parse::<Outer>(json.as_bytes()).err().map(|error| error.message().to_owned()).unwrap_or_default()
    }

    #[test]
    fn an_object_is_an_object_at_every_depth() {
        for (json, wanted) in [
            ("[]", "invalid type: sequence, expected an object"),
            ("[null, null, null, null, null]", "invalid type: sequence, expected an object"),
            (r#"{"inner": [3]}"#, "inner: invalid type: sequence, expected an object"),
            (r#"{"list": [{}, [3]]}"#, "list[1]: invalid type: sequence, expected an object"),
            (r#"{"map": {"a": [3]}}"#, "map.a: invalid type: sequence, expected an object"),
            (r#""text""#, "invalid type: string \"text\", expected an object"),
            (r#"{"unit": {"char": null}}"#, "unit: invalid type: map, expected a string"),
            (r#"{"unit": ["char"]}"#, "unit: invalid type: sequence, expected a string"),
        ] {
            let got = refusal(json);
            assert!(got.starts_with(wanted), "{json}: {got}");
        }
        let good = r#"{"inner": {"count": 3}, "list": [{"count": null}, {}], "any": [1, [2]], "map": {"a": {}}, "unit": "char"}"#;
        assert_eq!(refusal(good), "");
    }

    #[test]
    fn a_field_is_there_once() {
        for json in [
            r#"{"inner": null, "inner": null}"#,
            r#"{"inner": {"count": 1, "count": 1}}"#,
            r#"{"any": {"x": 1, "\u0078": 2}}"#,
            r#"{"any": [{"a": {"x": 1, "x": 2}}]}"#,
            r#"{"map": {"x": {}, "x": {}}}"#,
        ] {
            let got = refusal(json);
            assert!(got.contains("is there twice"), "{json}: {got}");
        }
    }

    #[test]
    fn numbers_and_depth_have_bounds() {
        for (json, wanted) in [
            (r#"{"inner": {"count": 4294967296}}"#, "inner.count: invalid value: integer `4294967296`, expected u32"),
            (r#"{"inner": {"count": -1}}"#, "inner.count: invalid value: integer `-1`, expected u32"),
            (r#"{"inner": {"count": 1.5}}"#, "inner.count: invalid type: floating point `1.5`, expected u32"),
            (r#"{"inner": {"count": -1.0}}"#, "inner.count: invalid value: integer `-1`, expected u32"),
            (r#"{"inner": {"count": 1e300}}"#, "inner.count: invalid type: floating point `1e+300`, expected u32"),
            (r#"{"any": 1e400}"#, "any: not JSON: number out of range"),
        ] {
            let got = refusal(json);
            assert!(got.starts_with(wanted), "{json}: {got}");
        }
        assert_eq!(refusal(r#"{"inner": {"count": 1.0}, "list": [{"count": 42e2}]}"#), "", "to JSON 1.0 is 1");
        let deep = format!("{{\"any\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(refusal(&deep).contains("recursion limit"), "{}", refusal(&deep));
    }

    #[test]
    fn a_byte_order_mark_before_json_is_passed_over() {
        assert_eq!(refusal("\u{feff}{\"unit\": \"char\"}"), "");
        assert!(refusal("\u{feff}\u{feff}{}").contains("not JSON"));
        assert!(refusal("{}\u{feff}").contains("not JSON"));
    }

    #[test]
    fn a_packed_body_is_unpacked_as_far_as_a_body_may_go() {
        use std::io::Write as _;
        let packed = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(unpacked(&packed(b"{}"), 2).unwrap(), b"{}");
        let too_large = unpacked(&packed(&vec![b' '; 1 << 20]), 1000).unwrap_err();
        assert!(too_large.message().contains("unpacks to more than the limit of 1000 bytes"), "{too_large}");
        for broken in [&b"{}"[..], &packed(b"{\"inputs\": 1}")[..12], b""] {
            assert!(unpacked(broken, 1000).unwrap_err().message().contains("is not gzip"), "{broken:?}");
        }
    }

    #[test]
    fn a_content_encoding_is_taken_or_named() {
        let check = |values: &[&str], taken: &[&str], wanted: &str| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            let got = demand_encoding(&headers, taken).err().map(|error| error.message().to_owned());
            assert_eq!(got.as_deref().unwrap_or(""), wanted, "{values:?}");
        };
        check(&[], &[], "");
        check(&["identity"], &[], "");
        check(&[""], &[], "");
        check(&["gzip"], &[], "content-encoding \"gzip\": no encoding is taken here");
        check(&["GZip"], &DATASET_ENCODINGS, "");
        check(&["br"], &DATASET_ENCODINGS, "content-encoding \"br\": one of gzip, x-gzip, zstd is taken here");
        let several = "content-encoding: several at once; one of gzip, x-gzip, zstd is taken here";
        check(&["gzip, zstd"], &DATASET_ENCODINGS, several);
        check(&["gzip", "gzip"], &DATASET_ENCODINGS, several);
        check(&["identity, zstd"], &DATASET_ENCODINGS, "");
    }
}

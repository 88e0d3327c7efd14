//! What all gRPC methods share: a call around each, streams of many, and the small messages.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use prost_types::value::Kind as ValueKind;
use tonic::{Request, Response, Status};

use crate::domain::{Error, Result};
use crate::transport::account::OpenAccount;
use crate::transport::api::Api;
use crate::transport::call::Call;
use crate::transport::error::status;
use crate::transport::proto;
use crate::transport::proto::input::Kind as InputKind;
use crate::transport::server::Exchange;
use crate::transport::wire;
use crate::transport::wire::{InputItem, Inputs, TextPair};

/// Messages of one stream in work at once. While as many are, the next is not read: that is the back-pressure.
const STREAM_IN_FLIGHT_MAX: usize = 64;

/// One request, one answer.
pub(super) async fn unary<Q, A, F>(
    api: &Arc<Api>,
    request: Request<Q>,
    answer: impl FnOnce(Call, Q) -> F,
) -> Result<Response<A>, Status>
where
    F: Future<Output = Result<A>>,
{
    let (call, message) = open(api, request)?;
    let account = call.account.clone();
    answer(call, message).await.map(Response::new).map_err(|error| {
        account.set_failure(&error);
        status(&error)
    })
}

/// The call around a request, and its message.
pub(super) fn open<Q>(api: &Arc<Api>, request: Request<Q>) -> Result<(Call, Q), Status> {
    let call = Call::new(api.clone(), request.metadata().as_ref(), request.extensions());
    Ok((call.map_err(|error| status(&error))?, request.into_inner()))
}

/// An answer to each message, in the order they are ready. Ends with the caller's stream, or after what was read when the server drains.
pub(super) fn each<Q, A, F>(
    call: Call,
    messages: impl Stream<Item = Result<Q, Status>> + Send + 'static,
    answer: impl Fn(Call, Q) -> F + Clone + Send + 'static,
) -> BoxStream<'static, Result<A, Status>>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Future<Output = A> + Send,
{
    let mut health = call.services().health.watch();
    let draining = async move {
        let _draining_or_gone = health.wait_for(|state| state.is_draining()).await;
    };
    if let Some(exchange) = &call.exchange {
        exchange.expect_messages();
    }
    let one = move |message| {
        let (call, answer) = (call.clone(), answer.clone());
        let held = call.exchange.as_ref().map(Exchange::message);
        async move {
            let answered = answer(call, message?).await;
            drop(held); // the message's bytes are in flight until its answer exists
            Ok(answered)
        }
    };
    messages.take_until(Box::pin(draining)).map(one).buffer_unordered(STREAM_IN_FLIGHT_MAX).boxed()
}

/// One message of a stream, counted as a request of its own.
pub(super) async fn item<A, F>(call: &Call, timeout_ms: Option<u32>, answer: impl FnOnce(Call) -> F) -> Result<A>
where
    F: Future<Output = Result<A>>,
{
    let call = call.item(timeout_ms);
    let open = OpenAccount(call.account.clone());
    let outcome = answer(call).await;
    if let Err(error) = &outcome {
        open.0.set_failure(error);
    }
    open.0.close(open.0.failure_code().unwrap_or("ok"));
    outcome
}

pub(super) fn inputs(inputs: Vec<proto::Input>) -> Result<Inputs> {
    let item = |(at, input): (usize, proto::Input)| match input.kind {
        Some(InputKind::Text(text)) => Ok(InputItem::Text(text)),
        Some(InputKind::Words(words)) => Ok(InputItem::Words(words.words)),
        Some(InputKind::Pair(proto::TextPair { text, text_pair })) => Ok(InputItem::Pair(TextPair { text, text_pair })),
        None => Err(Error::invalid(format!("inputs[{at}]: nothing is set; text, words or pair is wanted"))),
    };
    inputs.into_iter().enumerate().map(item).collect::<Result<_>>().map(Inputs)
}

/// A list that may be absent.
pub(super) fn values(list: Option<proto::StringList>) -> Option<Vec<String>> {
    list.map(|list| list.values)
}

pub(super) fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

impl From<wire::AdapterIdentity> for proto::AdapterIdentity {
    fn from(identity: wire::AdapterIdentity) -> Self {
        let backbone = Some(identity.backbone.into());
        Self { name: identity.name, version: identity.version, digest: identity.digest, backbone }
    }
}

impl From<wire::BackboneIdentity> for proto::BackboneIdentity {
    fn from(identity: wire::BackboneIdentity) -> Self {
        Self { name: identity.name, fingerprint: identity.fingerprint }
    }
}

impl From<wire::Usage> for proto::Usage {
    fn from(usage: wire::Usage) -> Self {
        Self { sequences: usage.sequences as u64, tokens: usage.tokens as u64 }
    }
}

/// JSON as a protobuf value.
pub(super) fn to_value(json: serde_json::Value) -> prost_types::Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => ValueKind::NullValue(0),
        Json::Bool(value) => ValueKind::BoolValue(value),
        Json::Number(number) => ValueKind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => ValueKind::StringValue(text),
        Json::Array(items) => {
            ValueKind::ListValue(prost_types::ListValue { values: items.into_iter().map(to_value).collect() })
        }
        Json::Object(fields) => ValueKind::StructValue(to_struct(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

pub(super) fn to_struct(fields: serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
    prost_types::Struct { fields: fields.into_iter().map(|(name, value)| (name, to_value(value))).collect() }
}

/// A protobuf value as JSON. Its numbers are doubles; a whole one becomes an integer again.
pub(super) fn to_json(value: prost_types::Value) -> serde_json::Value {
    match value.kind {
        None | Some(ValueKind::NullValue(_)) => serde_json::Value::Null,
        Some(ValueKind::BoolValue(value)) => value.into(),
        Some(ValueKind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 2f64.powi(53) => {
            if number < 0.0 { (number as i64).into() } else { (number as u64).into() }
        }
        Some(ValueKind::NumberValue(number)) => number.into(),
        Some(ValueKind::StringValue(text)) => text.into(),
        Some(ValueKind::ListValue(list)) => list.values.into_iter().map(to_json).collect(),
        Some(ValueKind::StructValue(fields)) => struct_to_json(fields),
    }
}

pub(super) fn struct_to_json(fields: prost_types::Struct) -> serde_json::Value {
    serde_json::Value::Object(fields.fields.into_iter().map(|(name, value)| (name, to_json(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_survives_the_way_through_protobuf() {
        let json = serde_json::json!({
            "kind": "fine_tune", "seed": 42, "below": -3, "rate": 0.001, "none": null, "yes": true, "layers": [4, 5],
        });
        assert_eq!(to_json(to_value(json.clone())), json);
    }
}

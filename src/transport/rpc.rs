//! What all gRPC methods share: a call around each, streams of many, and the small messages.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{Stream, StreamExt as _};
use prost_types::value::Kind as ValueKind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::domain::{Error, Result};
use crate::transport::account::{Account, OpenAccount};
use crate::transport::api::Api;
use crate::transport::call::Call;
use crate::transport::error::{of_unread_message, status};
use crate::transport::proto;
use crate::transport::proto::input::Kind as InputKind;
use crate::transport::server::Exchange;
use crate::transport::wire;
use crate::transport::wire::{InputItem, Inputs, TextPair};

/// Messages of one stream at work, and answers that were not read yet. While there are as many, the next message is not read: that is
/// the back-pressure.
const STREAM_IN_FLIGHT_MAX: usize = 64;

/// How long a stream whose answers all wait for its reader is kept.
const ANSWERS_UNREAD_MAX: Duration = Duration::from_secs(30);

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
///
/// A task of its own does the work, whether or not answers are read: what a message takes of the queue is given back when it is computed.
/// A message is read only when there is a place for its answer.
pub(super) fn each<Q, A, F>(
    call: Call,
    messages: impl Stream<Item = Result<Q, Status>> + Send + 'static,
    answer: impl Fn(Call, Q) -> F + Send + 'static,
) -> BoxStream<'static, Result<A, Status>>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let call = call.of_stream();
    let mut health = call.services().health.watch();
    let draining = async move {
        let _draining_or_gone = health.wait_for(|state| state.is_draining()).await;
    };
    let (account, exchange) = (call.account.clone(), call.exchange.clone());
    if let Some(exchange) = &exchange {
        exchange.expect_messages();
    }
    let with_bytes = move |message: Result<Q, Status>| {
        let message = message.map_err(|status| unreadable(&account, status))?;
        Ok((message, exchange.as_ref().map(Exchange::message)))
    };
    let messages = messages.take_until(Box::pin(draining)).map(with_bytes).boxed();
    let (answers, taken) = mpsc::channel(STREAM_IN_FLIGHT_MAX);
    let one = move |(message, bytes)| {
        let answering = answer(call.clone(), message);
        async move {
            let answer = answering.await;
            // The message's bytes are in flight until its answer exists.
            drop(bytes);
            answer
        }
    };
    tokio::spawn(work_off(messages, answers, ANSWERS_UNREAD_MAX, one));
    ReceiverStream::new(taken).boxed()
}

/// Reads messages while there are places for answers, and answers them. Ends a stream whose places have all been taken by answers that
/// nobody read for `unread_max`.
async fn work_off<Q, A, F>(
    mut messages: BoxStream<'static, Result<Q, Status>>,
    answers: mpsc::Sender<Result<A, Status>>,
    unread_max: Duration,
    answer: impl Fn(Q) -> F,
) where
    F: Future<Output = A>,
{
    let mut working = FuturesUnordered::new();
    let mut place = None;
    let mut is_open = true;
    let mut failure = None;
    while is_open || !working.is_empty() {
        tokio::select! {
            biased;
            () = answers.closed() => return,
            Some(()) = working.next() => {}
            reserved = answers.clone().reserve_owned(), if is_open && place.is_none() => place = reserved.ok(),
            message = messages.next(), if is_open && place.is_some() => match (message, place.take()) {
                (Some(Ok(message)), Some(place)) => {
                    let answering = answer(message);
                    working.push(async move { drop(place.send(Ok(answering.await))) });
                }
                (Some(Err(status)), _) => {
                    is_open = false;
                    failure = Some(status);
                }
                (None, _) | (_, None) => is_open = false,
            },
            () = tokio::time::sleep(unread_max), if is_open && place.is_none() && working.is_empty() => {
                is_open = false;
                failure = Some(unread(unread_max));
            }
        }
    }
    if let Some(failure) = failure {
        // Whoever reads no answers does not read this either; the stream ends with the drop of its sender.
        let _unread = tokio::time::timeout(unread_max, answers.send(Err(failure))).await;
    }
}

fn unread(unread_max: Duration) -> Status {
    let seconds = unread_max.as_secs();
    status(&Error::deadline_exceeded(format!(
        "{STREAM_IN_FLIGHT_MAX} answers of this stream have waited for {seconds} s; answers must be read while messages are sent"
    )))
}

/// The status of a stream that ends because its next message could not be read; counted as what it is.
fn unreadable(account: &Account, message: Status) -> Status {
    let Some(failure) = of_unread_message(&message) else { return message };
    account.set_failure(&failure);
    status(&failure)
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A stream of `messages` numbers that counts what is answered.
    fn counted(messages: usize, unread_max: Duration) -> (mpsc::Receiver<Result<usize, Status>>, Arc<AtomicUsize>) {
        let (answers, taken) = mpsc::channel(STREAM_IN_FLIGHT_MAX);
        let done = Arc::new(AtomicUsize::new(0));
        let counter = done.clone();
        let answer = move |message| {
            let counter = counter.clone();
            async move {
                tokio::task::yield_now().await;
                counter.fetch_add(1, Ordering::SeqCst);
                message
            }
        };
        let messages = futures_util::stream::iter((0..messages).map(Ok)).boxed();
        tokio::spawn(work_off(messages, answers, unread_max, answer));
        (taken, done)
    }

    async fn until(done: &AtomicUsize, count: usize) {
        while done.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn work_is_done_unread_as_far_as_there_are_places_for_answers() {
        let (mut taken, done) = counted(200, ANSWERS_UNREAD_MAX);
        until(&done, STREAM_IN_FLIGHT_MAX).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(done.load(Ordering::SeqCst), STREAM_IN_FLIGHT_MAX);
        for _ in 0..10 {
            taken.recv().await.unwrap().unwrap();
        }
        until(&done, STREAM_IN_FLIGHT_MAX + 10).await;
        let mut rest = 0;
        while let Some(answer) = taken.recv().await {
            answer.unwrap();
            rest += 1;
        }
        assert_eq!(rest, 190);
    }

    #[tokio::test]
    async fn a_stream_whose_answers_nobody_reads_is_ended() {
        let (mut taken, done) = counted(200, Duration::from_millis(20));
        let ended = async {
            while !taken.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
        assert_eq!(done.load(Ordering::SeqCst), STREAM_IN_FLIGHT_MAX, "no more messages were read");
        let mut answers = 0;
        while taken.recv().await.is_some() {
            answers += 1;
        }
        assert_eq!(answers, STREAM_IN_FLIGHT_MAX);
    }

    #[test]
    fn json_survives_the_way_through_protobuf() {
        let json = serde_json::json!({
            "kind": "fine_tune", "seed": 42, "below": -3, "rate": 0.001, "none": null, "yes": true, "layers": [4, 5],
        });
        assert_eq!(to_json(to_value(json.clone())), json);
    }
}

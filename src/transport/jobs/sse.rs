//! A job's events as server-sent events.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;

use crate::domain::{Error, JobId, Result};
use crate::transport::call::Call;
use crate::transport::jobs::{follow, wire};

/// Comments between events, well within the idle limits of proxies.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Events after `Last-Event-ID`, else after `after`. A browser that comes back after the last event is told by 204 not to try again.
pub(super) async fn stream(call: Call, id: JobId, headers: &HeaderMap, after: u64) -> Result<Response> {
    let seen = last_event_id(headers)?;
    let job = call.services().jobs.get(&id).await?;
    if let Some(seen) = seen
        && job.status.is_final()
        && call.services().jobs.events(&id, seen, 1).await?.is_empty()
    {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let account = call.account.clone();
    let events = follow(&call, id, seen.unwrap_or(after)).map(move |event| match event {
        Ok(event) => message(event),
        Err(error) => {
            account.set_failure(&error);
            Err(axum::Error::new(error))
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_INTERVAL)).into_response())
}

fn message(event: crate::serving::jobs::JobEvent) -> Result<Event, axum::Error> {
    let id = event.id.to_string();
    Event::default().id(id).json_data(wire::Event::from(event))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| text.parse().ok());
    id.map(Some).ok_or_else(|| Error::invalid(format!("header last-event-id: {value:?} is not an event's number")))
}

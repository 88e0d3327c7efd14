//! `/v1/admin/jobs`.

use axum::Json as Answer;
use axum::extract::Path;
use axum::http::header::{ACCEPT, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::domain::{JobId, Result};
use crate::serving::jobs::{JobView, parse_spec};
use crate::transport::call::Call;
use crate::transport::error::Failure;
use crate::transport::extract::{Json, Query};
use crate::transport::jobs::wire::{Checkpoint, Event, EventsQuery, Job, JobSpec, JobsQuery};
use crate::transport::jobs::{PAGE_JOBS, PAGE_JOBS_DEFAULT, page, sse, within};
use crate::transport::openapi::Failures;
use crate::transport::wire::List;

/// Queues a training job
#[utoipa::path(
    post, path = "/v1/admin/jobs", operation_id = "create_job", tag = "admin", request_body = JobSpec,
    responses((status = 201, body = Job), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn create(call: Call, Json(spec): Json<serde_json::Value>) -> Result<Response, Failure> {
    let job = call.services().jobs.submit_until(parse_spec(spec)?, call.deadline).await?;
    let location = [(LOCATION, format!("/v1/admin/jobs/{}", job.id))];
    Ok((StatusCode::CREATED, location, Answer(Job::from(job))).into_response())
}

/// Jobs, newest first
#[utoipa::path(
    get, path = "/v1/admin/jobs", operation_id = "list_jobs", tag = "admin", params(JobsQuery),
    responses((status = 200, body = List<Job>), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn list(
    call: Call,
    Query(query): Query<JobsQuery>,
) -> Result<Answer<List<Job>>, Failure> {
    let limit = within("limit", query.limit, PAGE_JOBS_DEFAULT, PAGE_JOBS)?;
    let (jobs, has_more) = call.services().jobs.list(query.after.map(JobId), limit).await?;
    Ok(Answer(List::page(jobs.into_iter().map(Into::into).collect(), has_more)))
}

/// One job
#[utoipa::path(
    get, path = "/v1/admin/jobs/{id}", operation_id = "get_job", tag = "admin", params(("id" = String, Path)),
    responses((status = 200, body = Job), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn get(call: Call, Path(id): Path<String>) -> Result<Answer<Job>, Failure> {
    view(call.services().jobs.get(&JobId(id)).await)
}

/// Ends a job
#[utoipa::path(
    post, path = "/v1/admin/jobs/{id}/cancel", operation_id = "cancel_job", tag = "admin", params(("id" = String, Path)),
    responses((status = 200, body = Job), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn cancel(call: Call, Path(id): Path<String>) -> Result<Answer<Job>, Failure> {
    view(call.services().jobs.cancel(&JobId(id)).await)
}

/// Stops a job at its next step, with a checkpoint
#[utoipa::path(
    post, path = "/v1/admin/jobs/{id}/pause", operation_id = "pause_job", tag = "admin", params(("id" = String, Path)),
    responses((status = 200, body = Job), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn pause(call: Call, Path(id): Path<String>) -> Result<Answer<Job>, Failure> {
    view(call.services().jobs.pause(&JobId(id)).await)
}

/// Goes on with a paused job
#[utoipa::path(
    post, path = "/v1/admin/jobs/{id}/resume", operation_id = "resume_job", tag = "admin", params(("id" = String, Path)),
    responses((status = 200, body = Job), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn resume(call: Call, Path(id): Path<String>) -> Result<Answer<Job>, Failure> {
    view(call.services().jobs.resume(&JobId(id)).await)
}

/// A job's events as a list, or with `accept: text/event-stream` as a stream that ends with the job
#[utoipa::path(
    get, path = "/v1/admin/jobs/{id}/events", operation_id = "list_job_events", tag = "admin",
    params(("id" = String, Path), EventsQuery, ("last-event-id" = Option<u64>, Header, description = "Of a stream: the last event seen")),
    responses((status = 200, content((List<Event> = "application/json"), (Event = "text/event-stream"))), (status = 204, description = "Of a stream that is resumed after the job's last event"), Failures),
    security(("key" = [])),
)]
pub(in crate::transport) async fn events(
    call: Call,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (id, after) = (JobId(id), query.after.unwrap_or_default());
    if wants_stream(&headers) {
        return Ok(sse::stream(call, id, &headers, after).await?);
    }
    let (events, has_more) = page(&call.services().jobs, &id, after, query.limit).await?;
    let events: Vec<Event> = events.into_iter().map(Into::into).collect();
    Ok(Answer(List::page(events, has_more)).into_response())
}

/// A job's checkpoints
#[utoipa::path(
    get, path = "/v1/admin/jobs/{id}/checkpoints", operation_id = "list_checkpoints", tag = "admin", params(("id" = String, Path)),
    responses((status = 200, body = List<Checkpoint>), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn checkpoints(
    call: Call,
    Path(id): Path<String>,
) -> Result<Answer<List<Checkpoint>>, Failure> {
    let checkpoints = call.services().jobs.checkpoints(&JobId(id)).await?;
    Ok(Answer(List::all(checkpoints.into_iter().map(Into::into).collect())))
}

/// A job's evaluation report: `validation`, `test`, `gate`
#[utoipa::path(
    get, path = "/v1/admin/jobs/{id}/report", operation_id = "get_report", tag = "admin", params(("id" = String, Path)),
    responses((status = 200, body = serde_json::Value), Failures), security(("key" = [])),
)]
pub(in crate::transport) async fn report(
    call: Call,
    Path(id): Path<String>,
) -> Result<Answer<serde_json::Value>, Failure> {
    Ok(Answer(call.services().jobs.report(&JobId(id)).await?))
}

fn view(job: Result<JobView>) -> Result<Answer<Job>, Failure> {
    Ok(Answer(job?.into()))
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

//! Jobs over gRPC.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::Status;

use crate::domain::{JobId, Result};
use crate::serving::jobs::{CheckpointView, JobEvent, JobView, parse_spec, spec_to_json};
use crate::transport::call::Call;
use crate::transport::error::status;
use crate::transport::jobs::{PAGE_JOBS, PAGE_JOBS_DEFAULT, follow, page, within};
use crate::transport::proto;
use crate::transport::rpc::{struct_to_json, timestamp, to_struct, to_value};

pub(in crate::transport) async fn create(call: Call, request: proto::CreateJobRequest) -> Result<proto::Job> {
    let spec = parse_spec(struct_to_json(request.spec.unwrap_or_default()))?;
    Ok(call.services().jobs.submit_until(spec, call.deadline).await?.into())
}

pub(in crate::transport) async fn list(call: Call, request: proto::ListJobsRequest) -> Result<proto::ListJobsResponse> {
    let limit = within("limit", request.limit, PAGE_JOBS_DEFAULT, PAGE_JOBS)?;
    let (jobs, has_more) = call.services().jobs.list(request.after.map(JobId), limit).await?;
    Ok(proto::ListJobsResponse { jobs: jobs.into_iter().map(Into::into).collect(), has_more })
}

pub(in crate::transport) async fn get(call: Call, request: proto::JobRequest) -> Result<proto::Job> {
    Ok(call.services().jobs.get(&JobId(request.id)).await?.into())
}

pub(in crate::transport) async fn cancel(call: Call, request: proto::JobRequest) -> Result<proto::Job> {
    Ok(call.services().jobs.cancel(&JobId(request.id)).await?.into())
}

pub(in crate::transport) async fn pause(call: Call, request: proto::JobRequest) -> Result<proto::Job> {
    Ok(call.services().jobs.pause(&JobId(request.id)).await?.into())
}

pub(in crate::transport) async fn resume(call: Call, request: proto::JobRequest) -> Result<proto::Job> {
    Ok(call.services().jobs.resume(&JobId(request.id)).await?.into())
}

pub(in crate::transport) async fn events(
    call: Call,
    request: proto::ListJobEventsRequest,
) -> Result<proto::ListJobEventsResponse> {
    let (events, has_more) = page(&call.services().jobs, &JobId(request.id), request.after, request.limit).await?;
    Ok(proto::ListJobEventsResponse { events: events.into_iter().map(Into::into).collect(), has_more })
}

/// An unknown job fails the call; a failure on the way ends the stream with its status.
pub(in crate::transport) async fn watch(
    call: Call,
    request: proto::WatchJobRequest,
) -> Result<BoxStream<'static, Result<proto::JobEvent, Status>>> {
    let id = JobId(request.id);
    call.services().jobs.get(&id).await?;
    let account = call.account.clone();
    let fail = move |error| {
        account.set_failure(&error);
        status(&error)
    };
    Ok(follow(&call, id, request.after).map(move |event| event.map(Into::into).map_err(&fail)).boxed())
}

pub(in crate::transport) async fn checkpoints(
    call: Call,
    request: proto::JobRequest,
) -> Result<proto::ListCheckpointsResponse> {
    let checkpoints = call.services().jobs.checkpoints(&JobId(request.id)).await?;
    Ok(proto::ListCheckpointsResponse { checkpoints: checkpoints.into_iter().map(Into::into).collect() })
}

pub(in crate::transport) async fn report(call: Call, request: proto::JobRequest) -> Result<proto::GetReportResponse> {
    let report = call.services().jobs.report(&JobId(request.id)).await?;
    Ok(proto::GetReportResponse { report: Some(to_value(report)) })
}

impl From<JobView> for proto::Job {
    fn from(view: JobView) -> Self {
        let serde_json::Value::Object(spec) = spec_to_json(&view.spec) else { unreachable!("a spec is an object") };
        let result = |published: crate::serving::PublishedVersion| proto::JobResult {
            adapter: published.name.to_string(),
            version: published.version,
            digest: published.digest.to_string(),
        };
        Self {
            id: view.id.to_string(),
            kind: view.spec.kind().to_owned(),
            status: view.status.to_string(),
            created_at: Some(timestamp(view.created_at)),
            started_at: view.started_at.map(timestamp),
            finished_at: view.finished_at.map(timestamp),
            estimated_finish: view.estimated_finish.map(timestamp),
            progress: Some(proto::JobProgress { step: view.step, steps: view.steps, epoch: view.epoch }),
            metrics: view.metrics.into_iter().collect(),
            spec: Some(to_struct(spec)),
            result: view.result.map(result),
            error: view.error.map(|(code, message)| proto::JobFailure { code, message }),
        }
    }
}

impl From<JobEvent> for proto::JobEvent {
    fn from(event: JobEvent) -> Self {
        Self {
            id: event.id,
            created_at: Some(timestamp(event.created_at)),
            level: event.level.to_owned(),
            r#type: event.kind.to_owned(),
            message: event.message,
            data: Some(to_value(event.data)),
        }
    }
}

impl From<CheckpointView> for proto::Checkpoint {
    fn from(view: CheckpointView) -> Self {
        Self { step: view.step, created_at: Some(timestamp(view.created_at)), bytes: view.bytes }
    }
}

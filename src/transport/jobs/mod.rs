//! Training jobs: create, look, steer, and watch their events as they come.

mod grpc;
pub(super) mod http;
mod sse;
mod wire;

pub(super) use grpc::{cancel, checkpoints, create, events, get, list, pause, report, resume, watch};

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};

use crate::domain::{Error, JobId, Result};
use crate::serving::jobs::{JobEvent, Jobs};
use crate::transport::call::Call;

/// Jobs of one page: each comes with its spec and figures.
const PAGE_JOBS: RangeInclusive<u32> = 1..=100;
const PAGE_JOBS_DEFAULT: u32 = 20;

/// Events of one page, and of one read of a stream.
const PAGE_EVENTS: RangeInclusive<u32> = 1..=1000;
const PAGE_EVENTS_DEFAULT: u32 = 1000;

/// One page of events, and whether more are there already.
async fn page(jobs: &Jobs, id: &JobId, after: u64, limit: Option<u32>) -> Result<(Vec<JobEvent>, bool)> {
    let limit = within("limit", limit, PAGE_EVENTS_DEFAULT, PAGE_EVENTS)?;
    let mut events = jobs.events(id, after, limit + 1).await?;
    let has_more = events.len() > limit;
    events.truncate(limit);
    Ok((events, has_more))
}

fn within(field: &str, value: Option<u32>, or: u32, range: RangeInclusive<u32>) -> Result<usize> {
    let value = value.unwrap_or(or);
    if !range.contains(&value) {
        return Err(Error::invalid(format!("{field}: {value} is not {} to {}", range.start(), range.end())));
    }
    Ok(value as usize)
}

/// A job's events above `after`, as they come. Ends with the job, and when the server drains.
fn follow(call: &Call, id: JobId, after: u64) -> BoxStream<'static, Result<JobEvent>> {
    let mut health = call.services().health.watch();
    let draining = async move {
        let _draining_or_gone = health.wait_for(|state| state.is_draining()).await;
    };
    let reader = Reader { jobs: call.services().jobs.clone(), id, after, read: VecDeque::new() };
    stream::try_unfold(reader, Reader::next).take_until(Box::pin(draining)).boxed()
}

struct Reader {
    jobs: Jobs,
    id: JobId,
    after: u64,
    read: VecDeque<JobEvent>,
}

impl Reader {
    async fn next(mut self) -> Result<Option<(JobEvent, Self)>> {
        if self.read.is_empty() && self.jobs.wait_for_events(&self.id, self.after).await? {
            self.read = self.jobs.events(&self.id, self.after, PAGE_EVENTS_DEFAULT as usize).await?.into();
        }
        let Some(event) = self.read.pop_front() else { return Ok(None) };
        self.after = event.id;
        Ok(Some((event, self)))
    }
}

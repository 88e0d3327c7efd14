//! Jobs on a fake trainer: what callers see, whatever they ask and whenever the server dies.

mod checks;
mod crashes;
mod fakes;
mod pre_finetune;
mod runs;

use std::time::Duration;

use crate::domain::{JobId, JobState};
use crate::serving::jobs::{JobEvent, JobView, Jobs};

/// Only a test that would hang waits that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The job once it is in `wanted`.
async fn reaches(jobs: &Jobs, id: &JobId, wanted: JobState) -> JobView {
    let arrival = async {
        loop {
            let seen = events(jobs, id).await.last().map_or(0, |event| event.id);
            let job = jobs.get(id).await.unwrap();
            if job.status == wanted {
                return job;
            }
            assert!(!job.status.is_final(), "{wanted} was wanted, it is {}: {:?}", job.status, job.error);
            jobs.wait_for_events(id, seen).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, arrival).await.expect("the job moves")
}

async fn events(jobs: &Jobs, id: &JobId) -> Vec<JobEvent> {
    jobs.events(id, 0, usize::MAX).await.unwrap()
}

/// The states a job went through, as its events tell them.
async fn states(jobs: &Jobs, id: &JobId) -> String {
    let events = events(jobs, id).await;
    let states =
        events.iter().filter(|event| event.kind == "state").map(|event| event.data["status"].as_str().unwrap());
    states.collect::<Vec<_>>().join(" ")
}

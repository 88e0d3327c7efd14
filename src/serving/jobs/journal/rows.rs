//! Rows of the journal as the values they stand for.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Row;
use serde_json::{Value, json};

use crate::domain::{Digest, Error, JobId, JobState, Result};
use crate::serving::PublishedVersion;
use crate::serving::jobs::progress::{Pace, estimated_finish};
use crate::serving::jobs::record::{SPEC_VERSION, parse_spec};
use crate::serving::jobs::{JobEvent, JobView};

/// What a caller wants of a job under way; the runner heeds it at the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serving::jobs) enum Wish {
    Pause,
    Cancel,
}

impl Wish {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Cancel => "cancel",
        }
    }
}

/// A publication that has begun. Its version, once there, is told by both: equal jobs make equal digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serving::jobs) struct Intent {
    pub(in crate::serving::jobs) digest: Digest,
    /// The adapter's newest version before; 0 if it had none.
    pub(in crate::serving::jobs) after: u32,
}

/// A job with what only the runner cares for.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serving::jobs) struct Job {
    pub(in crate::serving::jobs) view: JobView,
    pub(in crate::serving::jobs) wish: Option<Wish>,
    /// The gate is passed, and this is what is being published.
    pub(in crate::serving::jobs) intent: Option<Intent>,
    /// Runs cut short since the last checkpoint.
    pub(in crate::serving::jobs) interruptions: u32,
}

pub(super) fn job(row: &Row<'_>) -> Result<Job> {
    let id: String = row.get("id")?;
    read_job(row, &id).map_err(|error| Error::internal(format!("job journal, job {id}: {error}")).with_source(error))
}

fn read_job(row: &Row<'_>, id: &str) -> Result<Job> {
    let status: JobState = row.get::<_, String>("state")?.parse()?;
    let steps = row.get::<_, i64>("steps")? as u64;
    let step = row.get::<_, i64>("step")? as u64;
    let view = JobView {
        id: JobId(id.to_owned()),
        spec: spec(row)?,
        status,
        created_at: time(row.get("created_at")?),
        started_at: row.get::<_, Option<i64>>("started_at")?.map(time),
        finished_at: row.get::<_, Option<i64>>("finished_at")?.map(time),
        estimated_finish: if status == JobState::Running { pace(row)?.and_then(estimated_finish) } else { None },
        step,
        steps,
        epoch: row.get("epoch")?,
        metrics: metrics(&row.get::<_, String>("metrics")?)?,
        result: row.get::<_, Option<String>>("result")?.map(|text| result_from_json(&text)).transpose()?,
        error: row.get::<_, Option<String>>("error_code")?.zip(row.get("error_message")?),
    };
    let wish = row.get::<_, Option<String>>("wish")?;
    Ok(Job {
        view,
        wish: [Wish::Pause, Wish::Cancel].into_iter().find(|known| wish.as_deref() == Some(known.as_str())),
        intent: intent(row)?,
        interruptions: row.get("interruptions")?,
    })
}

fn spec(row: &Row<'_>) -> Result<crate::domain::JobSpec> {
    let version: u32 = row.get("spec_version")?;
    if version != SPEC_VERSION {
        return Err(Error::internal(format!("its spec has version {version}; version {SPEC_VERSION} is known")));
    }
    parse_spec(value(&row.get::<_, String>("spec")?)?)
}

fn intent(row: &Row<'_>) -> Result<Option<Intent>> {
    let digest = row.get::<_, Option<String>>("intent_digest")?;
    let Some((digest, after)) = digest.zip(row.get("intent_after")?) else { return Ok(None) };
    Ok(Some(Intent { digest: digest.parse()?, after }))
}

fn pace(row: &Row<'_>) -> Result<Option<Pace>> {
    let started = row.get::<_, Option<i64>>("run_started_at")?;
    let latest = row.get::<_, Option<i64>>("progress_at")?;
    let (Some(started), Some(latest)) = (started, latest) else { return Ok(None) };
    Ok(Some(Pace {
        started: time(started),
        first_step: row.get::<_, i64>("run_first_step")? as u64,
        latest: time(latest),
        step: row.get::<_, i64>("step")? as u64,
        steps: row.get::<_, i64>("steps")? as u64,
    }))
}

pub(super) fn event(row: &Row<'_>) -> Result<JobEvent> {
    let level: String = row.get("level")?;
    let kind: String = row.get("kind")?;
    Ok(JobEvent {
        id: row.get::<_, i64>("id")? as u64,
        created_at: time(row.get("created_at")?),
        level: known(&["info", "warn", "error"], &level)?,
        kind: known(&["message", "metrics", "state"], &kind)?,
        message: row.get("message")?,
        data: value(&row.get::<_, String>("data")?)?,
    })
}

fn known(words: &[&'static str], word: &str) -> Result<&'static str> {
    let found = words.iter().find(|known| **known == word);
    found.copied().ok_or_else(|| Error::internal(format!("job journal: an event says {word:?}, none of {words:?}")))
}

fn value(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| Error::internal(format!("not JSON: {error}")).with_source(error))
}

pub(super) fn metrics(text: &str) -> Result<Vec<(String, f64)>> {
    let Value::Object(fields) = value(text)? else { return Ok(Vec::new()) };
    Ok(fields.into_iter().filter_map(|(name, figure)| Some((name, figure.as_f64()?))).collect())
}

pub(super) fn result_to_json(result: &PublishedVersion) -> Value {
    json!({
        "adapter": result.name.as_str(),
        "version": result.version,
        "digest": result.digest.as_str(),
        "active": result.active,
    })
}

fn result_from_json(text: &str) -> Result<PublishedVersion> {
    let value = value(text)?;
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    Ok(PublishedVersion {
        name: text("adapter").parse()?,
        version: value["version"].as_u64().and_then(|version| u32::try_from(version).ok()).unwrap_or_default(),
        digest: Digest::from_str(text("digest"))?,
        active: value["active"].as_bool().unwrap_or_default(),
    })
}

pub(super) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis.max(0) as u64)
}

/// Milliseconds since 1970, as the journal keeps times.
pub(super) fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

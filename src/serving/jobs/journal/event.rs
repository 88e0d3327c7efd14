//! What is written into the journal: events, progress, and how a job ends.

use serde_json::{Value, json};

use crate::domain::{Error, JobState};
use crate::serving::PublishedVersion;

/// An event that has no number yet.
#[derive(Clone, Debug)]
pub(in crate::serving::jobs) struct NewEvent {
    pub(super) level: &'static str,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) data: Value,
}

impl NewEvent {
    pub(in crate::serving::jobs) fn message(message: impl Into<String>) -> Self {
        Self { level: "info", kind: "message", message: message.into(), data: json!({}) }
    }

    pub(in crate::serving::jobs) fn warning(message: impl Into<String>) -> Self {
        Self { level: "warn", ..Self::message(message) }
    }

    pub(in crate::serving::jobs) fn metrics(message: impl Into<String>, data: Value) -> Self {
        Self { kind: "metrics", data, ..Self::message(message) }
    }

    pub(in crate::serving::jobs) fn state(state: JobState, message: impl Into<String>) -> Self {
        Self { kind: "state", data: json!({ "status": state.as_str() }), ..Self::message(message) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serving::jobs) struct Progress {
    pub(in crate::serving::jobs) step: u64,
    pub(in crate::serving::jobs) steps: u64,
    pub(in crate::serving::jobs) epoch: u32,
}

/// How a job ends.
#[derive(Clone, Debug)]
pub(in crate::serving::jobs) enum Ending {
    /// None: nothing was to be published.
    Succeeded(Option<PublishedVersion>),
    /// The gate's figures.
    Rejected(String),
    Failed(Error),
    Cancelled,
}

impl Ending {
    pub(in crate::serving::jobs) fn state(&self) -> JobState {
        match self {
            Self::Succeeded(_) => JobState::Succeeded,
            Self::Rejected(_) => JobState::Rejected,
            Self::Failed(_) => JobState::Failed,
            Self::Cancelled => JobState::Cancelled,
        }
    }

    pub(super) fn result(&self) -> Option<&PublishedVersion> {
        match self {
            Self::Succeeded(result) => result.as_ref(),
            _ => None,
        }
    }

    /// `code` and message.
    pub(super) fn error(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Rejected(figures) => Some(("gate_not_met", figures.clone())),
            Self::Failed(error) => Some((error.kind().code(), error.to_string())),
            Self::Succeeded(_) | Self::Cancelled => None,
        }
    }

    pub(super) fn event(&self) -> NewEvent {
        let (level, message) = match self {
            Self::Succeeded(Some(version)) => ("info", published(version)),
            Self::Succeeded(None) => ("info", "succeeded; nothing was to be published".to_owned()),
            Self::Rejected(figures) => ("warn", format!("rejected: {figures}")),
            Self::Failed(error) => ("error", format!("failed: {error}")),
            Self::Cancelled => ("info", "cancelled".to_owned()),
        };
        NewEvent { level, ..NewEvent::state(self.state(), message) }
    }
}

fn published(version: &PublishedVersion) -> String {
    let PublishedVersion { name, version, active, .. } = version;
    format!("succeeded: {name}@{version} is {}", if *active { "active" } else { "staged" })
}

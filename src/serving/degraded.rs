//! What is out of order while the server answers: a damaged file or a full disk costs the routes that need it, not inference. Each part's
//! owner answers `unavailable` with the reason; here it is told to the operator.

use tracing::error;

use crate::domain::Error;
use crate::telemetry::Metrics;

/// What can be out of order alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Versions that cannot be read, or a store that cannot be written.
    Adapters,
    Aliases,
    /// Which were resident and active; and switching them.
    Backbones,
    Datasets,
    Jobs,
    /// The address file in the state folder.
    State,
}

impl Part {
    /// As in `trunkline_degraded{part}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Adapters => "adapters",
            Self::Aliases => "aliases",
            Self::Backbones => "backbones",
            Self::Datasets => "datasets",
            Self::Jobs => "jobs",
            Self::State => "state",
        }
    }
}

/// Says loudly that `part` is out of order.
pub fn degrade(metrics: &Metrics, part: Part, why: &Error) {
    let part = part.as_str();
    metrics.degraded.with_label_values(&[part]).set(1);
    error!(part, %why, "out of order; inference goes on without it");
}

//! How we log, count and plot. Layers say what happened; names, labels and buckets are here.

mod labels;
mod logging;
mod metrics;
mod plot;

pub use labels::{CounterBy, CutReason, ExpiredStage, LabelValue, LoadOutcome, Phase, RejectReason};
pub use logging::{LogFormat, init_logging};
pub use metrics::Metrics;
pub use plot::{Line, Plot};
/// One series, for those who hold on to theirs.
pub use prometheus::IntGauge;

//! How we log and count. Layers say what happened; names, labels and buckets are here.

mod logging;
mod metrics;

pub use logging::{LogFormat, init_logging};
pub use metrics::Metrics;
/// One series, for those who hold on to theirs.
pub use prometheus::IntGauge;

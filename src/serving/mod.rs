//! Requests and jobs become work for engine and trainer: scheduling, admission, the registry of live adapters, datasets, jobs. Leaves wires to `transport`.

mod admission;
mod backbones;
mod batcher;
mod datasets;
mod degraded;
mod flow;
mod health;
mod inference;
pub mod jobs;
mod long_work;
mod registry;
mod scheduler;
mod turns;

pub use backbones::{Backbone, BackboneJournal, BackboneSource, Backbones, FoundBackbone, WriteWeights};
pub use datasets::{DatasetInfo, DatasetService, SplitInfo, Upload, refusal};
pub use degraded::{Part, degrade};
pub use flow::Caller;
pub use health::{Health, HealthState};
pub use inference::{
    AnalyzeRequest, AnalyzeTarget, Answer, EmbedAnswer, EmbedRequest, Inference, InferenceConfig, InferenceRequest,
    Predictions, Task, Timings,
};
pub use registry::{
    AdapterView, BackboneView, Lease, PublishedVersion, Registry, RegistryConfig, VersionState, VersionView,
};

/// After a burst of requests.
pub use crate::engine::give_back_memory;

/// For uploads that come as a form.
pub use crate::adapter::archive_of;
/// What the wire says of datasets.
pub use crate::training::dataset::{
    AskedOptions, DatasetFamily, DoctorReport, Finding, PreviewRow, ReadOptions, Sample,
};

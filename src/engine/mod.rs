//! The device: batches in, outputs out. The handle is async, the threads behind it are synchronous. Leaves scheduling to `serving`.

mod agreement;
mod backbone;
mod batch;
mod forward;
mod isolate;
mod plan;
mod prefix;
mod resident;
mod worker;

pub use crate::model::kernels::give_back_memory;
pub use agreement::{LOGITS_APART_MAX, Sample};
pub use backbone::ResidentBackbone;
pub use batch::{Batch, BatchOutput, BatchSequence, Output, Through, Work};
pub use resident::ResidentAdapter;
pub use worker::{Engine, EngineConfig, Slot};

//! The network: pure functions of tensors. Knows no files of adapters, no requests, no training loop.

mod architecture;
mod concepts;
mod config;
mod device;
mod encoder;
mod head;
mod inference;
pub mod kernels;
mod layers;
mod loading;
mod lora;
mod packing;
mod task_head;
mod trainable;
mod weights;

pub use architecture::Architecture;
pub use concepts::ConceptHead;
pub use config::{Activation, Biases, EncoderConfig, LayerAttention};
pub use device::open_device;
pub use encoder::{Encoder, Mode, Packed};
pub use head::{Head, HeadKind};
pub use layers::{Sink, Slot};
pub use lora::{Delta, Linear, LoraWeights, SegmentAdapters, Site};
pub use task_head::TaskHead;
pub use trainable::{Traced, TrainableEncoder};

/// A failed tensor operation is a bug of ours or a lost device, never the caller's doing.
impl From<candle_core::Error> for crate::domain::Error {
    fn from(source: candle_core::Error) -> Self {
        Self::internal(format!("tensor operation failed: {source}")).with_source(source)
    }
}

//! The network's layers on tensors: on the CPU our kernels, each with its own gradient; elsewhere, and as the kernels'
//! reference in tests, plain tensor operations (`plain`). Every path is differentiable: where a library's fused operation
//! has no gradient, it is not used.

mod activation;
mod attention;
mod block;
mod dense;
mod dropout;
mod embeddings;
mod function;
#[cfg(test)]
mod gradients;
mod linear;
mod norm;
mod plain;
mod pooling;
mod rotary;
mod trained;

use std::sync::Arc;

use crate::model::{Mode, SegmentAdapters};

pub(super) use activation::{activate, activate_gated};
pub(super) use block::{Block, BlockShape};
pub(super) use dense::dense;
pub(super) use dropout::{Place, dropout};
pub(super) use embeddings::Embeddings;
pub(super) use linear::Linear;
pub(super) use norm::Norm;
pub(super) use plain::layer_norm;
pub(super) use pooling::{first_rows, mean_rows};
pub(super) use rotary::Rotary;
pub(super) use trained::{Master, TrainedLinear, TrainedNorm};
pub use trained::{Sink, Slot};

/// What all layers of one forward pass share.
pub(super) struct Pass<'a> {
    /// Sequence `i` is tokens `bounds[i]..bounds[i + 1]`.
    pub(super) bounds: Arc<[usize]>,
    pub(super) adapters: &'a SegmentAdapters<'a>,
    pub(super) mode: Mode,
    /// Where gradients of trained base weights go.
    pub(super) sink: Option<&'a Arc<Sink>>,
}

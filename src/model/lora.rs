//! LoRA (Hu et al. 2021): `y = W·x + scale·B·A·x`, and which tokens of a packed batch use which adapter.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use crate::domain::{Error, Result};
use crate::model::packing::PackedLora;

/// A linear of one encoder layer, by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Linear {
    Query,
    Key,
    Value,
    /// ModernBERT's fused query, key and value.
    Qkv,
    AttentionOutput,
    /// ModernBERT: gate and up projection in one.
    Intermediate,
    Output,
}

/// Where a delta applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    pub layer: usize,
    pub linear: Linear,
}

/// One low-rank update.
#[derive(Clone, Debug)]
pub struct Delta {
    /// (rank, in)
    pub a: Tensor,
    /// (out, rank)
    pub b: Tensor,
    /// alpha / rank, or alpha / √rank (rsLoRA).
    pub scale: f64,
}

/// An adapter's updates; an empty one changes nothing.
#[derive(Clone, Debug, Default)]
pub struct LoraWeights {
    deltas: BTreeMap<Site, Delta>,
    bias_deltas: BTreeMap<Site, Tensor>,
    /// The same in the form of one encoder's kernels; see [`Encoder::prepare`](crate::model::Encoder::prepare).
    pub(super) packed: Option<Arc<PackedLora>>,
}

impl LoraWeights {
    /// `bias_deltas`, (out) each: what the adapter's own biases add to the base's.
    pub fn new(deltas: BTreeMap<Site, Delta>, bias_deltas: BTreeMap<Site, Tensor>) -> Self {
        Self { deltas, bias_deltas, packed: None }
    }

    pub fn deltas(&self) -> &BTreeMap<Site, Delta> {
        &self.deltas
    }

    pub fn bias_deltas(&self) -> &BTreeMap<Site, Tensor> {
        &self.bias_deltas
    }

    /// Of the packed form, if there is one.
    pub fn packed_bytes(&self) -> usize {
        self.packed.as_ref().map_or(0, |packed| packed.bytes())
    }

    /// Whether a gradient is wanted for any of it.
    pub(super) fn is_tracked(&self) -> bool {
        let of_delta = |delta: &Delta| delta.a.track_op() || delta.b.track_op();
        self.deltas.values().any(of_delta) || self.bias_deltas.values().any(Tensor::track_op)
    }

    /// The lowest layer it changes; below it every adapter's activations are the base's.
    pub fn lowest_layer(&self) -> Option<usize> {
        self.deltas.keys().chain(self.bias_deltas.keys()).map(|site| site.layer).min()
    }
}

/// Token ranges of a packed batch, ascending, and the adapter of each. Tokens of no range run the base model.
#[derive(Clone, Default)]
pub struct SegmentAdapters<'a>(pub Vec<(Range<usize>, &'a LoraWeights)>);

impl SegmentAdapters<'_> {
    /// Whether the ranges ascend, do not overlap and lie within `tokens`.
    pub(super) fn check(&self, tokens: usize) -> Result<()> {
        let mut end = 0;
        for (rows, _) in &self.0 {
            if rows.start < end || rows.end < rows.start || tokens < rows.end {
                return Err(Error::internal(format!("adapter segment {rows:?} after {end}, of {tokens} tokens")));
            }
            end = rows.end;
        }
        Ok(())
    }
}

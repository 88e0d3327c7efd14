//! LoRA (Hu et al. 2021): `y = W·x + scale·B·A·x`, and which tokens of a packed batch use which adapter.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Of the linear between the embeddings and the first layer.
    projection: Option<Delta>,
    /// Of both; outlives them.
    sites: BTreeSet<Site>,
    /// In the form of one encoder's kernels, and then in no other; see [`Encoder::prepare`](crate::model::Encoder::prepare).
    pub(super) packed: Option<Arc<PackedLora>>,
}

impl LoraWeights {
    /// `bias_deltas`, (out) each: what the adapter's own biases add to the base's.
    pub fn new(deltas: BTreeMap<Site, Delta>, bias_deltas: BTreeMap<Site, Tensor>) -> Self {
        let sites = deltas.keys().chain(bias_deltas.keys()).copied().collect();
        Self { deltas, bias_deltas, projection: None, sites, packed: None }
    }

    /// The same with an update of the linear between the embeddings and the first layer (ELECTRA's `embeddings_project`).
    #[must_use]
    pub fn with_projection(self, projection: Option<Delta>) -> Self {
        Self { projection, ..self }
    }

    pub fn projection(&self) -> Option<&Delta> {
        self.projection.as_ref()
    }

    /// The same for serving alone: without its tensors, which take twice the memory of what kernels read.
    pub(super) fn into_packed(self, packed: PackedLora) -> Self {
        let (sites, projection) = (self.sites, self.projection);
        Self { sites, projection, packed: Some(Arc::new(packed)), ..Self::default() }
    }

    /// What it changes.
    pub fn sites(&self) -> &BTreeSet<Site> {
        &self.sites
    }

    pub fn deltas(&self) -> &BTreeMap<Site, Delta> {
        &self.deltas
    }

    pub fn bias_deltas(&self) -> &BTreeMap<Site, Tensor> {
        &self.bias_deltas
    }

    /// Bytes of the weights, in the form they have.
    pub fn bytes(&self) -> usize {
        let deltas = self.deltas.values().chain(&self.projection).flat_map(|delta| [&delta.a, &delta.b]);
        let tensors: usize = deltas.chain(self.bias_deltas.values()).map(tensor_bytes).sum();
        tensors + self.packed.as_ref().map_or(0, |packed| packed.bytes())
    }

    /// Whether a gradient is wanted for any of it.
    pub(super) fn is_tracked(&self) -> bool {
        let of_delta = |delta: &Delta| delta.a.track_op() || delta.b.track_op();
        self.deltas.values().any(of_delta) || self.bias_deltas.values().any(Tensor::track_op)
    }

    /// The lowest layer it changes; below it every adapter's activations are the base's.
    pub fn lowest_layer(&self) -> Option<usize> {
        self.projection.as_ref().map(|_| 0).or_else(|| self.sites.first().map(|site| site.layer))
    }
}

pub(super) fn tensor_bytes(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
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

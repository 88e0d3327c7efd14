//! What one forward pass is asked for, and what it answers.

use std::sync::Arc;

use crate::domain::{EmbedParameters, Matrix, Result};
use crate::engine::{ResidentAdapter, ResidentBackbone};
use crate::model::Encoder;

/// One sequence and what is wanted of it.
#[derive(Clone)]
pub struct BatchSequence {
    pub ids: Arc<[u32]>,
    /// As many as `ids`.
    pub type_ids: Arc<[u32]>,
    pub work: Work,
}

#[derive(Clone)]
pub enum Work {
    /// The adapter's logits.
    Head(Arc<ResidentAdapter>),
    /// A pooled hidden state.
    Embed(Through, EmbedParameters),
    /// A name, as the adapter's head compares with it: a unit vector.
    Name(Arc<ResidentAdapter>),
    /// The adapter's logits against names, a [`Work::Name`] a row.
    Compare(Arc<ResidentAdapter>, Arc<Matrix>),
}

/// Whose layers a text runs through.
#[derive(Clone)]
pub enum Through {
    /// The backbone's own.
    Base(Arc<ResidentBackbone>),
    /// An adapter's, on the backbone it was made for.
    Adapter(Arc<ResidentAdapter>),
}

impl Work {
    /// Whose layers the sequence runs through; None: the base model's alone.
    pub fn adapter(&self) -> Option<&Arc<ResidentAdapter>> {
        match self {
            Self::Head(adapter) | Self::Name(adapter) | Self::Compare(adapter, _) => Some(adapter),
            Self::Embed(Through::Adapter(adapter), _) => Some(adapter),
            Self::Embed(Through::Base(_), _) => None,
        }
    }

    /// What computes it: the backbone's network, or for some adapters the same in f32.
    pub fn encoder(&self) -> &Arc<Encoder> {
        match self.adapter() {
            Some(adapter) => adapter.encoder(),
            None => self.backbone().encoder(),
        }
    }

    /// Which backbone it belongs to.
    pub fn backbone(&self) -> &Arc<ResidentBackbone> {
        match self {
            Self::Embed(Through::Base(backbone), _) => backbone,
            Self::Embed(Through::Adapter(adapter), _) => &adapter.backbone,
            Self::Head(adapter) | Self::Name(adapter) | Self::Compare(adapter, _) => &adapter.backbone,
        }
    }

    /// Below it the sequence runs through the base alone; `layers`, all of the encoder's, if no adapter changes one.
    pub(super) fn first_own_layer(&self, layers: usize) -> usize {
        self.adapter().and_then(|adapter| adapter.lora.lowest_layer()).map_or(layers, |layer| layer.min(layers))
    }

    /// For messages: `adapter people@3` (one that is not published yet has no version), or the base model.
    pub(super) fn describe(&self) -> String {
        match self.adapter().map(|adapter| &adapter.identity) {
            Some(identity) if identity.version == 0 => format!("adapter {}", identity.name),
            Some(identity) => format!("adapter {}@{}", identity.name, identity.version),
            None => "base model".to_owned(),
        }
    }
}

/// Sequences of any mix of adapters and backbones, in any order; the engine sorts, packs and puts answers back in order.
#[derive(Clone, Default)]
pub struct Batch {
    pub sequences: Vec<BatchSequence>,
}

/// One answer a sequence, in the batch's order. A sequence that fails, fails alone.
#[derive(Clone, Debug)]
pub struct BatchOutput {
    pub outputs: Vec<Result<Output>>,
    /// Tokens that shared a prefix with an equal sequence and were computed once.
    pub prefix_tokens_saved: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// One row a token (token head) or one row in all (sequence head).
    Logits(Matrix),
    Embedding(Vec<f32>),
}

//! Heads: hidden states to logits, equal to the reference library's classes for each architecture.

use candle_core::Tensor;

use crate::domain::Result;
use crate::model::{Encoder, Mode};

/// What a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// One row of logits a token.
    Token,
    /// One row of logits a sequence.
    Sequence,
}

/// A task's head.
#[derive(Clone, Debug)]
pub struct Head {
    kind: HeadKind,
    // the model layer adds weights: classifier, and for sequence heads the dense layer or pooler before it
}

impl Head {
    pub fn kind(&self) -> HeadKind {
        self.kind
    }

    /// Logits: `hidden` (tokens, hidden) of this head's own segment; `bounds` are the segment's, from 0.
    /// (tokens, labels) for a token head, (sequences, labels) for a sequence head.
    pub fn forward(&self, encoder: &Encoder, hidden: &Tensor, bounds: &[usize], mode: Mode) -> Result<Tensor> {
        let _ = (encoder, hidden, bounds, mode);
        todo!()
    }
}

//! Heads: hidden states to logits, equal to the reference library's classes for each architecture.

use std::collections::HashMap;

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
    /// The tensors an adapter must bring for such a head, with their shapes: `classifier.weight` and so on, named below
    /// [`Architecture::task_prefix`](crate::model::Architecture::task_prefix)'s level. What the backbone's own file carries (a pooler) is not among them.
    pub fn required(kind: HeadKind, encoder: &Encoder, pooling: &str, labels: usize) -> Vec<(String, Vec<usize>)> {
        let _ = (kind, encoder, pooling, labels);
        todo!()
    }

    /// From an adapter's tensors; what it does not bring comes from the backbone's file. `pooling` is `cls` (the
    /// architecture's own) or `mean`. `unprocessable`, naming every missing tensor and every wrong shape.
    pub fn from_tensors(
        kind: HeadKind,
        encoder: &Encoder,
        pooling: &str,
        labels: usize,
        tensors: &HashMap<String, Tensor>,
    ) -> Result<Self> {
        let _ = (kind, encoder, pooling, labels, tensors);
        todo!()
    }

    /// The adapter's own tensors by name: what training updates and files keep.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        todo!()
    }

    pub fn labels(&self) -> usize {
        todo!()
    }

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

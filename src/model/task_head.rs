//! The head of an adapter, whichever of the two kinds it is.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::domain::{Error, HeadForm, Result};
use crate::model::{ConceptHead, Encoder, Head, HeadKind, Mode};

/// Rows of its own, or names that are given with each request.
#[derive(Clone, Debug)]
pub enum TaskHead {
    Labels(Head),
    Concepts(ConceptHead),
}

impl TaskHead {
    /// Whether it is a classifier alone, without a layer of its own before it.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Labels(head) if head.is_plain())
    }

    pub fn kind(&self) -> HeadKind {
        match self {
            Self::Labels(head) => head.kind(),
            Self::Concepts(head) => head.kind(),
        }
    }

    pub fn form(&self) -> HeadForm {
        match self {
            Self::Labels(_) => HeadForm::Labels,
            Self::Concepts(head) => head.form(),
        }
    }

    /// Rows of its own; none where names are given.
    pub fn labels(&self) -> usize {
        match self {
            Self::Labels(head) => head.labels(),
            Self::Concepts(_) => 0,
        }
    }

    /// The head that compares with names, if it is one.
    pub fn concepts(&self) -> Option<&ConceptHead> {
        match self {
            Self::Labels(_) => None,
            Self::Concepts(head) => Some(head),
        }
    }

    /// The adapter's own tensors by name, sorted: what training updates and files keep.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        match self {
            Self::Labels(head) => head.tensors(),
            Self::Concepts(head) => head.tensors(),
        }
    }

    /// The same kind of head with these tensors; all of [`TaskHead::tensors`] must be there.
    pub fn with_tensors(&self, encoder: &Encoder, pooling: &str, tensors: &HashMap<String, Tensor>) -> Result<Self> {
        Ok(match self {
            Self::Labels(head) => {
                Self::Labels(Head::from_tensors(head.kind(), encoder, pooling, head.labels(), tensors)?)
            }
            Self::Concepts(head) => Self::Concepts(ConceptHead::from_tensors(head.kind(), encoder, tensors)?),
        })
    }

    /// Bytes of the adapter's own tensors; the backbone's are counted with the backbone.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Labels(head) => head.bytes(),
            Self::Concepts(head) => head.bytes(),
        }
    }

    /// [`Head::forward`]; `conflict` for a head that has no rows of its own.
    pub fn forward(&self, hidden: &Tensor, bounds: &[usize], mode: Mode) -> Result<Tensor> {
        match self {
            Self::Labels(head) => head.forward(hidden, bounds, mode),
            Self::Concepts(_) => Err(needs_names()),
        }
    }
}

/// What is said of a head without labels that is asked for some.
fn needs_names() -> Error {
    Error::conflict("this adapter's head has no labels of its own: it compares with names, and needs candidate_labels")
}

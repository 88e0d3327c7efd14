//! What a caller may choose for one request. Defaults are the contract's.

use crate::domain::{CandidateLabels, HypothesisTemplate};

/// How token tags become entities; the words of Hugging Face's pipelines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    None,
    Simple,
    #[default]
    First,
    Average,
    Max,
}

/// In what unit offsets are counted on the wire. Inside, ranges are always UTF-8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetUnit {
    #[default]
    Char,
    Byte,
    Utf16,
}

/// What happens to a text of more tokens than the encoder or adapter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongText {
    /// Overlapping windows; nothing goes unread.
    Window,
    Truncate,
    /// Refuse with `unprocessable`.
    Error,
}

/// From logits to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Softmax,
    Sigmoid,
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    #[default]
    Mean,
    Cls,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NerParameters {
    /// By default the one that training measures: a word is what its first token says.
    pub aggregation: Aggregation,
    /// Entities scored lower are left out.
    pub threshold: f32,
    pub ignore_labels: Vec<String>,
    /// Only these entity types, if given.
    pub labels: Option<Vec<String>>,
    pub offset_unit: OffsetUnit,
    pub long_text: LongText,
    /// Tokens that neighbouring windows share.
    pub stride: usize,
    /// The entity types, for an adapter that compares with names.
    pub candidate_labels: Option<CandidateLabels>,
}

impl Default for NerParameters {
    fn default() -> Self {
        Self {
            aggregation: Aggregation::First,
            threshold: 0.0,
            ignore_labels: vec!["O".to_owned()],
            labels: None,
            offset_unit: OffsetUnit::Char,
            long_text: LongText::Window,
            stride: 64,
            candidate_labels: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ClassifyParameters {
    pub top_k: Option<usize>,
    /// None: the adapter's own.
    pub activation: Option<Activation>,
    pub threshold: f32,
    pub long_text: LongText,
    /// The classes, for an adapter that compares with names.
    pub candidate_labels: Option<CandidateLabels>,
    /// What is encoded of them.
    pub hypothesis_template: HypothesisTemplate,
}

impl Default for ClassifyParameters {
    fn default() -> Self {
        Self {
            top_k: None,
            activation: None,
            threshold: 0.0,
            long_text: LongText::Truncate,
            candidate_labels: None,
            hypothesis_template: HypothesisTemplate::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedParameters {
    pub pooling: Pooling,
    pub normalize: bool,
    pub long_text: LongText,
}

impl Default for EmbedParameters {
    fn default() -> Self {
        Self { pooling: Pooling::Mean, normalize: true, long_text: LongText::Truncate }
    }
}

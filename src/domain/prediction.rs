//! Answers, before they are put on a wire.

use std::ops::Range;

/// A found entity, or with aggregation `none` one tagged token.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// The entity type (`PER`), or with aggregation `none` the tag (`B-PER`).
    pub label: String,
    pub score: f32,
    /// UTF-8 bytes of the caller's text.
    pub range: Range<usize>,
    /// With aggregation `none` the token's position, counting the special tokens before it.
    pub index: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NerPrediction {
    pub entities: Vec<Entity>,
    /// Tokens the encoder read for this input, special tokens included.
    pub tokens: usize,
    pub windows: usize,
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ScoredLabel {
    pub label: String,
    pub score: f32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ClassifyPrediction {
    /// Best first.
    pub labels: Vec<ScoredLabel>,
    /// Tokens the encoder read for this input, special tokens included.
    pub tokens: usize,
    pub windows: usize,
    pub truncated: bool,
}

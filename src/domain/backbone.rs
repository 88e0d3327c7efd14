//! Which backbone.

use crate::domain::Digest;

/// Exactly which backbone computed an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackboneIdentity {
    /// As the operator called it: `org/model`, a job's output or a folder.
    pub name: String,
    /// SHA-256 of weights, configuration and tokenizer.
    pub fingerprint: Digest,
}

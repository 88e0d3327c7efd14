//! Token scores to entities: the five aggregation strategies of Hugging Face's token-classification pipeline.

use crate::domain::{Entity, LabelSet, Matrix, NerParameters};
use crate::text::Encoding;

/// Softmax over each row.
pub fn softmax_rows(logits: Matrix) -> Matrix {
    let _ = &logits;
    todo!()
}

/// Entities of one input, in text order. `scores`: one row of probabilities a token of `encoding` (fewer rows if the text was truncated).
pub fn entities(
    text: &str,
    encoding: &Encoding,
    scores: &Matrix,
    labels: &LabelSet,
    parameters: &NerParameters,
) -> Vec<Entity> {
    let _ = (text, encoding, scores, labels, parameters);
    todo!()
}

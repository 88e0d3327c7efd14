//! Long texts: overlapping windows, and one row of scores a token again. Pure.

use crate::domain::{LongText, Matrix, Result};
use crate::text::{Encoding, Tokenizer};

/// One sequence for the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub ids: Vec<u32>,
    pub type_ids: Vec<u32>,
    /// For each position the index of its token in the [`Encoding`]; None for special tokens.
    pub tokens: Vec<Option<usize>>,
}

/// An input made to fit the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// At least one, also for an empty text.
    pub windows: Vec<Window>,
    pub truncated: bool,
}

/// Cuts `encoding` so that no window holds more than `max_length` tokens, special ones included. `stride`: tokens that neighbours share.
/// Fails with `unprocessable` for a long text under [`LongText::Error`], with `invalid_request` if `stride` leaves no room to move.
pub fn fit(
    tokenizer: &Tokenizer,
    encoding: &Encoding,
    max_length: usize,
    long_text: LongText,
    stride: usize,
) -> Result<Fitted> {
    let _ = (tokenizer, encoding, max_length, long_text, stride);
    todo!()
}

/// One row for each token of the encoding that a window read, in order: of the windows that read it, the one in which it has most context.
/// `outputs[w]` has one row a position of `fitted.windows[w]`.
pub fn merge(fitted: &Fitted, outputs: &[Matrix]) -> Matrix {
    let _ = (fitted, outputs);
    todo!()
}

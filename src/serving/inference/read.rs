//! Texts to model input: off the async threads, no more than is needed, and in turns with everybody else's.

use std::sync::Arc;

use crate::domain::{Error, LongText, Result, TextInput};
use crate::serving::admission::REQUEST_TOKENS_MAX;
use crate::serving::flow::{Caller, Flow};
use crate::serving::turns::Turns;
use crate::text::{Cut, Encoding, PIECE_BYTES, Reading, Tokenizer};

/// An input and its tokens.
pub(super) struct Text {
    pub(super) input: TextInput,
    pub(super) encoding: Encoding,
}

/// The threads that tokenize.
pub(super) struct Reader {
    turns: Arc<Turns>,
}

/// A request's inputs on their way to tokens.
struct Work {
    tokenizer: Arc<Tokenizer>,
    /// Not finished, the next last.
    left: Vec<Reading>,
    done: Vec<Text>,
    many: bool,
    /// Tokens of one text that any of the request's cuts reads.
    tokens_max: usize,
    /// Tokens of all texts.
    tokens: usize,
}

impl Reader {
    pub(super) fn new(threads: usize) -> Self {
        Self { turns: Turns::new(threads, PIECE_BYTES) }
    }

    /// Tokenizes each input as far as one of `cuts` reads it. `payload_too_large` once more tokens are read than a request may have.
    pub(super) async fn read(
        &self,
        tokenizer: Arc<Tokenizer>,
        inputs: Vec<TextInput>,
        cuts: &[Cut],
        (flow, caller): (&Flow, Caller),
    ) -> Result<Vec<Text>> {
        let mut work = Work::new(tokenizer, inputs, cuts);
        while let Some(cost) = work.next_cost() {
            let turn = self.turns.take(flow, caller, cost).await?;
            let piece = move || {
                // The turn ends with the work, also if nobody waits for it any more.
                let _turn = turn;
                work.advance().map(|()| work)
            };
            let failed = |source| Error::internal("tokenization ended unexpectedly").with_source(source);
            work = tokio::task::spawn_blocking(piece).await.map_err(failed)??;
        }
        Ok(work.done)
    }
}

impl Work {
    fn new(tokenizer: Arc<Tokenizer>, inputs: Vec<TextInput>, cuts: &[Cut]) -> Self {
        let read = |cut: &Cut| match cut.long_text {
            LongText::Truncate => cut.max_length,
            LongText::Window | LongText::Error => REQUEST_TOKENS_MAX,
        };
        Self {
            tokenizer,
            many: inputs.len() > 1,
            done: Vec::with_capacity(inputs.len()),
            left: inputs.into_iter().rev().map(Reading::new).collect(),
            tokens_max: cuts.iter().map(read).max().unwrap_or(0),
            tokens: 0,
        }
    }

    /// Bytes of the next turn: one piece, or several texts that are not longer together. None when all is read.
    fn next_cost(&self) -> Option<usize> {
        let next = self.left.last()?;
        Some(next.bytes_left().min(PIECE_BYTES))
    }

    /// Reads for one turn.
    fn advance(&mut self) -> Result<()> {
        let mut bytes = PIECE_BYTES;
        while let Some(mut reading) = self.left.pop() {
            let left_before = reading.bytes_left();
            let tokens_before = reading.tokens();
            let at = self.done.len();
            let more =
                reading.advance(&self.tokenizer, self.tokens_max).map_err(|error| at_input(error, at, self.many))?;
            self.tokens += reading.tokens() - tokens_before;
            if self.tokens > REQUEST_TOKENS_MAX {
                return Err(too_many());
            }
            bytes = bytes.saturating_sub(left_before - reading.bytes_left());
            if more && reading.bytes_left() > 0 {
                self.left.push(reading);
            } else {
                let (input, encoding) = reading.finish(&self.tokenizer);
                self.done.push(Text { input, encoding });
            }
            if bytes == 0 {
                break;
            }
        }
        Ok(())
    }
}

fn too_many() -> Error {
    Error::too_large(format!(
        "the inputs have more than {REQUEST_TOKENS_MAX} tokens; at most so many are taken at once: send fewer or shorter inputs"
    ))
}

/// Says which of several inputs failed.
pub(super) fn at_input(error: Error, at: usize, many: bool) -> Error {
    if many { error.context(format!("inputs[{at}]")) } else { error }
}

/// UTF-8 bytes of all of an input.
pub(super) fn bytes(input: &TextInput) -> usize {
    match input {
        TextInput::Text(text) => text.len(),
        TextInput::Words(words) => words.iter().map(|word| word.len() + 1).sum(),
        TextInput::Pair { text, text_pair } => text.len() + text_pair.len(),
    }
}

//! Text to tokens with byte offsets into the caller's own text, by the backbone's `tokenizer.json`.

use std::ops::Range;
use std::path::Path;

use crate::domain::{Result, TextInput};

/// The backbone's tokenizer. Cheap to share; `encode` takes no lock.
pub struct Tokenizer {
    _private: (),
}

/// The tokens of one whole input, without special tokens and never cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    pub ids: Vec<u32>,
    /// UTF-8 bytes of [`TextInput::source_text`] (tokens of a pair's second text: of that text).
    pub offsets: Vec<Range<usize>>,
    /// The word each token belongs to: of pre-split input the caller's words, else the pre-tokenizer's.
    pub words: Vec<Option<u32>>,
    /// Whether a token continues a word, as Hugging Face's token-classification pipeline decides it.
    pub is_subword: Vec<bool>,
    /// For a pair: how many tokens belong to the first text.
    pub pair_at: Option<usize>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` (and `tokenizer_config.json`) of a Hugging Face folder; the file's own truncation and padding are switched off.
    pub fn load(folder: &Path) -> Result<Self> {
        todo!("{}", folder.display())
    }

    /// All tokens of `input`, without special ones.
    pub fn encode(&self, input: &TextInput) -> Result<Encoding> {
        todo!("{input:?}")
    }

    /// Special tokens added to a single text (and to a pair).
    pub fn special_tokens(&self, pair: bool) -> usize {
        todo!("{pair}")
    }

    /// Model input for tokens `first` (and `second` of a pair) of `encoding`, special tokens around them.
    pub fn assemble(
        &self,
        encoding: &Encoding,
        first: Range<usize>,
        second: Option<Range<usize>>,
    ) -> crate::text::Window {
        todo!("{encoding:?} {first:?} {second:?}")
    }
}

//! What a caller gives us to read.

use std::borrow::Cow;

/// One input of a request or one training example's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextInput {
    Text(String),
    /// Pre-split words; offsets are over the words joined by one space.
    Words(Vec<String>),
    Pair {
        text: String,
        text_pair: String,
    },
}

impl TextInput {
    /// The text that offsets point into (of a pair: the first).
    pub fn source_text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) | Self::Pair { text, .. } => Cow::Borrowed(text),
            Self::Words(words) => Cow::Owned(words.join(" ")),
        }
    }
}

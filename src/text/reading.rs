//! An input to tokens piece by piece, so that a long text can be stopped, and shared with others, between its pieces.
//!
//! A piece ends before white space, where tokenizers split anyway: the tokens are those of the whole text ([`Tokenizer::encode`] is the
//! plain twin). Only a run of [`WORD_BYTES_MAX`] without white space is cut inside.

use crate::domain::{Result, TextInput};
use crate::text::{Encoding, Tokenizer};

/// Bytes of one piece: a tenth of a millisecond of usual text, ten of the slowest (words of 99 letters that no vocabulary has).
pub const PIECE_BYTES: usize = 2048;

/// Bytes without white space that are still read as one piece: about 20,000 Chinese characters, tens of milliseconds.
const WORD_BYTES_MAX: usize = 64 << 10;

/// How far an input has been read.
pub struct Reading {
    input: TextInput,
    /// The words of pre-split input, joined.
    joined: Option<String>,
    first: Part,
    /// Of a pair.
    second: Option<Part>,
}

/// One of the texts of an input.
#[derive(Default)]
struct Part {
    /// Bytes that have been read.
    at: usize,
    encoding: Encoding,
    /// Whether tokens were read that nobody needs, and dropped.
    cut: bool,
}

impl Reading {
    pub fn new(input: TextInput) -> Self {
        let joined = matches!(input, TextInput::Words(_)).then(|| input.source_text().into_owned());
        let second = matches!(input, TextInput::Pair { .. }).then(Part::default);
        Self { input, joined, first: Part::default(), second }
    }

    /// Bytes that have not been read.
    pub fn bytes_left(&self) -> usize {
        let first = first_text(&self.joined, &self.input).len() - self.first.at;
        let second = self.second.as_ref().map_or(0, |part| second_text(&self.input).len() - part.at);
        first + second
    }

    /// Tokens read so far, without special ones.
    pub fn tokens(&self) -> usize {
        self.first.encoding.ids.len() + self.second.as_ref().map_or(0, |part| part.encoding.ids.len())
    }

    /// Reads the next piece; false if there was none. Each text of the input stops at one more than `tokens_max` tokens: enough to
    /// know that there are more.
    pub fn advance(&mut self, tokenizer: &Tokenizer, tokens_max: usize) -> Result<bool> {
        if self.first.advance(first_text(&self.joined, &self.input), tokenizer, tokens_max)? {
            return Ok(true);
        }
        match &mut self.second {
            Some(second) => second.advance(second_text(&self.input), tokenizer, tokens_max),
            None => Ok(false),
        }
    }

    /// The input and its tokens as far as they have been read.
    pub fn finish(self, tokenizer: &Tokenizer) -> (TextInput, Encoding) {
        let is_cut = |part: &Part| part.cut;
        let unread = self.bytes_left() > 0 || is_cut(&self.first) || self.second.as_ref().is_some_and(is_cut);
        let mut encoding = self.first.encoding;
        encoding.special_tokens_before = tokenizer.special_tokens_before(self.second.is_some());
        if let TextInput::Words(words) = &self.input {
            tokenizer.assign_words(words, &mut encoding);
        }
        if let Some(second) = self.second {
            encoding.append_pair(second.encoding);
        }
        encoding.unread = unread;
        (self.input, encoding)
    }
}

fn first_text<'a>(joined: &'a Option<String>, input: &'a TextInput) -> &'a str {
    match (joined, input) {
        (Some(joined), _) => joined,
        (None, TextInput::Text(text) | TextInput::Pair { text, .. }) => text,
        (None, TextInput::Words(_)) => "",
    }
}

fn second_text(input: &TextInput) -> &str {
    match input {
        TextInput::Pair { text_pair, .. } => text_pair,
        _ => "",
    }
}

impl Part {
    fn advance(&mut self, text: &str, tokenizer: &Tokenizer, tokens_max: usize) -> Result<bool> {
        if self.at >= text.len() || self.encoding.ids.len() > tokens_max {
            return Ok(false);
        }
        let end = piece_end(text, self.at);
        let piece = tokenizer.encode_text(&text[self.at..end])?;
        self.encoding.append(piece, self.at);
        self.at = end;
        self.cut = self.encoding.truncate(tokens_max.saturating_add(1));
        Ok(true)
    }
}

/// Where the piece that begins at `at` ends: before the last white space within [`PIECE_BYTES`], else before the first after them.
fn piece_end(text: &str, at: usize) -> usize {
    if text.len() - at <= PIECE_BYTES {
        return text.len();
    }
    let bytes = text.as_bytes();
    // White space that many tokenizers drop must stay with what follows it; a run of it is not cut.
    let is_end = |&end: &usize| is_space(bytes[end]) && !is_space(bytes[end - 1]);
    let near = at + PIECE_BYTES;
    let far = (at + WORD_BYTES_MAX).min(text.len());
    let end = (at + 1..near).rev().find(is_end).or_else(|| (near..far).find(is_end));
    end.unwrap_or_else(|| text.floor_char_boundary(far))
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    const ARCHITECTURES: [&str; 5] = ["bert", "distilbert", "electra", "modernbert", "roberta"];

    fn tokenizer(architecture: &str) -> Tokenizer {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures");
        Tokenizer::load(&fixtures.join(architecture)).unwrap()
    }

    fn read(tokenizer: &Tokenizer, input: TextInput, tokens_max: usize) -> Encoding {
        let mut reading = Reading::new(input);
        while reading.advance(tokenizer, tokens_max).unwrap() {}
        reading.finish(tokenizer).1
    }

    /// Word numbers may differ; which tokens are of one word may not.
    fn without_word_numbers(mut encoding: Encoding) -> Encoding {
        encoding.words = (0..encoding.words.len())
            .map(|at| encoding.words[at].map(|_| u32::from(at > 0 && encoding.words[at] == encoding.words[at - 1])))
            .collect();
        encoding
    }

    #[test]
    fn a_piece_ends_before_white_space_and_never_in_a_character() {
        let check = |text: &str, expected: usize| assert_eq!(piece_end(text, 0), expected);
        check("short", 5);
        check(&format!("{}  b{}", "a".repeat(100), "c".repeat(3000)), 100);
        check(&format!("{} b", "a".repeat(3000)), 3000);
        check(&"é".repeat(40_000), WORD_BYTES_MAX);
        check(&format!("x{}", "é".repeat(40_000)), WORD_BYTES_MAX - 1);
    }

    #[test]
    fn reading_stops_after_the_tokens_that_are_needed() {
        let tokenizer = tokenizer("bert");
        let text = "a ".repeat(1_000_000);
        let encoding = read(&tokenizer, TextInput::Text(text.clone()), 126);
        assert!(encoding.unread);
        assert_eq!(encoding.ids.len(), 127);
        let pair = TextInput::Pair { text: text.clone(), text_pair: "short".to_owned() };
        let encoding = read(&tokenizer, pair, 126);
        assert_eq!((encoding.unread, encoding.pair_at), (true, Some(127)));
        assert!(encoding.ids.len() > 127, "the second text is read as well");
        assert!(!read(&tokenizer, TextInput::Text("a ".repeat(100)), 126).unread);
    }

    fn texts() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            "[a-zA-Z]{1,12}",
            "[0-9.,!?]{1,4}",
            "[à-ÿ]{1,6}",
            "[一-龥]{1,8}",
            "e\u{301}[a-z]{0,3}",
            "[😀-😎]{1,2}",
            "\\[SEP\\]|<mask>|</s>",
        ];
        let space =
            prop_oneof![8 => Just(" "), 1 => Just("  "), 1 => Just("\n"), 1 => Just("\t \n"), 1 => Just("\u{a0}")];
        prop::collection::vec((word, space), 0..900)
            .prop_map(|words| words.into_iter().flat_map(|(w, s)| [w, s.to_owned()]).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_tokens_are_those_of_the_whole_text(text in texts(), pair in texts(), kind in 0..3) {
            let input = match kind {
                0 => TextInput::Text(text),
                1 => TextInput::Words(text.split(' ').map(str::to_owned).collect()),
                _ => TextInput::Pair { text, text_pair: pair },
            };
            for architecture in ARCHITECTURES {
                let tokenizer = tokenizer(architecture);
                let whole = tokenizer.encode(&input).unwrap();
                let pieces = read(&tokenizer, input.clone(), usize::MAX);
                prop_assert_eq!(without_word_numbers(pieces), without_word_numbers(whole), "{}", architecture);
            }
        }
    }
}

//! Text to tokens with byte offsets into the caller's own text, by the backbone's `tokenizer.json`.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use tokenizers::{Encoding as RawEncoding, ModelWrapper, Tokenizer as RawTokenizer};

use crate::disk;
use crate::domain::{Error, Result, TextInput};
use crate::text::Window;
use crate::text::invisible::{goes_on, is_space};
use crate::text::template::Template;

/// `tokenizer.json` in bytes: the largest vocabularies there are, 250,000 pieces with their scores, take a quarter.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The backbone's tokenizer. Cheap to share; `encode` waits for no lock.
///
/// A special token's name in a text (`[SEP]`, `</s>`) becomes that token, as it does in the reference library.
#[derive(Debug)]
pub struct Tokenizer {
    inner: RawTokenizer,
    single: Template,
    pair: Template,
    subword: SubwordRule,
}

/// The tokens of one whole input, without special tokens and never cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    pub ids: Vec<u32>,
    /// UTF-8 bytes of [`TextInput::source_text`] (tokens of a pair's second text: of that text), on character boundaries and
    /// ascending. Two repairs of what tokenizers say: white space around a token is left out (a token of nothing else is
    /// empty), and combining marks that a normaliser dropped stay with their letter.
    pub offsets: Vec<Range<usize>>,
    /// The word each token belongs to: of pre-split input the caller's words, else the pre-tokenizer's.
    pub words: Vec<Option<u32>>,
    /// Whether a token continues a word. WordPiece: where the token says so (`##ing`); Hugging Face's token-classification pipeline
    /// compares its length with its text's, and mistakes a word with a dropped character in it. Other models: where the word goes on,
    /// also behind a mark or a joiner, which is more than the pipeline knows there (it looks for a space). Tokens of one character
    /// are of one word.
    pub is_subword: Vec<bool>,
    /// For a pair: how many tokens belong to the first text.
    pub pair_at: Option<usize>,
    /// Special tokens that stand before the first token in the model's input.
    pub special_tokens_before: usize,
    /// Whether the input goes on after the last token here: reading was stopped.
    pub unread: bool,
}

impl Encoding {
    /// Appends the tokens of the next piece of the same text, which begins at byte `at` of it.
    pub(super) fn append(&mut self, piece: Self, at: usize) {
        let words = self.words.iter().flatten().last().map_or(0, |word| word + 1);
        self.ids.extend(piece.ids);
        self.offsets.extend(piece.offsets.into_iter().map(|range| range.start + at..range.end + at));
        self.words.extend(piece.words.into_iter().map(|word| word.map(|word| word + words)));
        self.is_subword.extend(piece.is_subword);
    }

    /// Drops the tokens after the first `tokens`; false if there are none.
    pub(super) fn truncate(&mut self, tokens: usize) -> bool {
        let is_longer = self.ids.len() > tokens;
        self.ids.truncate(tokens);
        self.offsets.truncate(tokens);
        self.words.truncate(tokens);
        self.is_subword.truncate(tokens);
        is_longer
    }

    /// Makes it the encoding of a pair whose second text is `second`.
    pub(super) fn append_pair(&mut self, second: Self) {
        self.pair_at = Some(self.ids.len());
        self.ids.extend(second.ids);
        self.offsets.extend(second.offsets);
        self.words.extend(second.words);
        self.is_subword.extend(second.is_subword);
    }
}

#[derive(Debug)]
enum SubwordRule {
    /// WordPiece: what a token that goes on with a word begins with.
    ByPrefix(String),
    ByWord,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a Hugging Face folder; the file's own truncation and padding are switched off.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let json = disk::read(&path, FILE_BYTES_MAX).map_err(|e| disk::failed(&path, e))?;
        Self::from_json(&json).map_err(|e| e.context(path.display()))
    }

    fn from_json(json: &[u8]) -> Result<Self> {
        let unreadable = |e| Error::unprocessable(format!("no tokenizer: {e}"));
        let mut inner = RawTokenizer::from_bytes(disk::without_mark(json)).map_err(unreadable)?;
        inner.with_padding(None).with_truncation(None).map_err(unreadable)?;
        let (single, pair) = (Template::learn(&inner, false)?, Template::learn(&inner, true)?);
        let subword = SubwordRule::of(&inner);
        Ok(Self { inner, single, pair, subword })
    }

    /// All tokens of `input`, without special ones.
    ///
    /// Pre-split words are read as the text they make when joined by one space, so that a model sees at training what it
    /// sees at inference.
    pub fn encode(&self, input: &TextInput) -> Result<Encoding> {
        match input {
            TextInput::Text(text) => self.encode_text(text),
            TextInput::Words(words) => {
                let mut encoding = self.encode_text(&input.source_text())?;
                self.assign_words(words, &mut encoding);
                Ok(encoding)
            }
            TextInput::Pair { text, text_pair } => {
                let mut first = self.encode_text(text)?;
                first.append_pair(self.encode_text(text_pair)?);
                first.special_tokens_before = self.special_tokens_before(true);
                Ok(first)
            }
        }
    }

    /// Makes `words`, which stand in the encoded text with one space between, the words of its tokens.
    pub(super) fn assign_words(&self, words: &[String], encoding: &mut Encoding) {
        encoding.words = words_at(words, &encoding.offsets);
        if let SubwordRule::ByWord = self.subword {
            encoding.is_subword = continues_word(&encoding.words);
        }
    }

    /// All tokens of one text.
    pub(super) fn encode_text(&self, text: &str) -> Result<Encoding> {
        let raw = self.inner.encode(text, false).map_err(|e| {
            // The cause may quote the text, which is for no one but the caller.
            Error::internal("the tokenizer cannot encode an input").with_source(io::Error::other(e))
        })?;
        let mut offsets: Vec<_> = raw.get_offsets().iter().map(|&(start, end)| sound(text, start, end)).collect();
        take_in_marks(text, &mut offsets);
        let is_subword = self.subword.apply(text, &raw, &offsets);
        Ok(Encoding {
            ids: raw.get_ids().to_vec(),
            words: raw.get_word_ids().to_vec(),
            is_subword,
            offsets,
            pair_at: None,
            special_tokens_before: self.special_tokens_before(false),
            unread: false,
        })
    }

    /// Special tokens that stand before the first token of a single text (or a pair).
    pub(super) fn special_tokens_before(&self, pair: bool) -> usize {
        self.template(pair).special_tokens_before()
    }

    /// `unprocessable` if this tokenizer can make what a network cannot read: a token past its `vocabulary`, a segment past its
    /// `segments` (0: it ignores them), or special tokens that leave no room in `max_length` for one token of each text of a pair.
    pub fn check_fits(&self, vocabulary: usize, segments: usize, max_length: usize) -> Result<()> {
        let templates = [&self.single, &self.pair];
        let special = templates.into_iter().filter_map(Template::id_max);
        let known = self.inner.get_vocab(true).into_values();
        let id = known.chain(special).max().unwrap_or(0) as usize;
        if id >= vocabulary {
            return Err(Error::unprocessable(format!(
                "tokenizer.json has a token {id}, but the embeddings of the backbone have {vocabulary} rows: it is another model's"
            )));
        }
        let segment = templates.into_iter().map(Template::type_id_max).max().unwrap_or(0) as usize;
        if segments > 0 && segment >= segments {
            return Err(Error::unprocessable(format!(
                "tokenizer.json puts texts in segment {segment}, but the backbone has {segments} segments"
            )));
        }
        let wanted = self.special_tokens(true) + 2;
        if max_length < wanted {
            return Err(Error::unprocessable(format!(
                "the backbone reads {max_length} tokens at once; with the tokenizer's special tokens a pair of texts takes {wanted} at least"
            )));
        }
        Ok(())
    }

    /// Special tokens added to a single text (and to a pair).
    pub fn special_tokens(&self, pair: bool) -> usize {
        self.template(pair).special_tokens()
    }

    /// Model input for tokens `first` (and `second`, counted from the encoding's beginning, of a pair), special tokens around them.
    pub fn assemble(&self, encoding: &Encoding, first: Range<usize>, second: Option<Range<usize>>) -> Window {
        self.template(second.is_some()).fill(&encoding.ids, first, second.unwrap_or_default())
    }

    fn template(&self, pair: bool) -> &Template {
        if pair { &self.pair } else { &self.single }
    }
}

impl SubwordRule {
    fn of(tokenizer: &RawTokenizer) -> Self {
        match tokenizer.get_model() {
            ModelWrapper::WordPiece(model) if !model.continuing_subword_prefix.is_empty() => {
                Self::ByPrefix(model.continuing_subword_prefix.clone())
            }
            _ => Self::ByWord,
        }
    }

    fn apply(&self, text: &str, raw: &RawEncoding, offsets: &[Range<usize>]) -> Vec<bool> {
        let words = continues_word(raw.get_word_ids());
        let is_subword = |at: usize| match self {
            Self::ByPrefix(prefix) => words[at] && raw.get_tokens()[at].starts_with(prefix),
            Self::ByWord => words[at] || (at > 0 && goes_on(text, &offsets[at - 1], &offsets[at])),
        };
        (0..words.len()).map(is_subword).collect()
    }
}

fn continues_word(words: &[Option<u32>]) -> Vec<bool> {
    (0..words.len()).map(|at| at > 0 && words[at].is_some() && words[at] == words[at - 1]).collect()
}

/// The range on character boundaries, without the white space that byte-level and SentencePiece tokens carry.
fn sound(text: &str, start: usize, end: usize) -> Range<usize> {
    let start = text.floor_char_boundary(start);
    let end = text.ceil_char_boundary(end).max(start);
    let begun = text[start..end].trim_start_matches(is_space);
    let start = end - begun.len();
    start..start + begun.trim_end_matches(is_space).len()
}

/// Gives combining marks that belong to no token to the token before, joiners between them too: an answer must not cut "é" in two.
fn take_in_marks(text: &str, offsets: &mut [Range<usize>]) {
    static MARKS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\A[\p{M}\x{200c}\x{200d}]*\p{M}").expect("a valid pattern"));
    for at in 0..offsets.len() {
        let limit = offsets.get(at + 1).map_or(text.len(), |next| next.start);
        let token = &mut offsets[at];
        let gap = text.get(token.end..limit).filter(|gap| !gap.is_ascii() && token.start < token.end);
        token.end += gap.and_then(|gap| MARKS.find(gap)).map_or(0, |marks| marks.len());
    }
}

/// For each token the caller's word in which it begins; the words stand in the text with one space between.
fn words_at(words: &[String], offsets: &[Range<usize>]) -> Vec<Option<u32>> {
    let mut ends = words.iter().scan(0, |at, word| {
        let end = *at + word.len();
        *at = end + 1;
        Some(end)
    });
    let mut word = 0;
    let mut end = ends.next();
    let word_of = |token: &Range<usize>| {
        while end.is_some_and(|end| end <= token.start) {
            end = ends.next();
            word += 1;
        }
        end.map(|_| word)
    };
    offsets.iter().map(word_of).collect()
}

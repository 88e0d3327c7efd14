//! Real tokens for every shape: the paragraphs of this package's licence, or the lines of a file.

use std::path::Path;

use trunkline::domain::TextInput;
use trunkline::model::Packed;
use trunkline::text::Tokenizer;

const LICENCE: &str = include_str!("../../../LICENSE");
/// Of the mixed stream: tokens of one text.
const LENGTHS: std::ops::RangeInclusive<usize> = 32..=128;

/// Token ids of each text, its special tokens included.
pub(crate) struct Texts(Vec<Vec<u32>>);

impl Texts {
    pub(crate) fn read(folder: &Path, file: Option<&Path>) -> Self {
        let tokenizer = Tokenizer::load(folder).expect("a tokenizer");
        let ids = |text: &str| {
            let encoding = tokenizer.encode(&TextInput::Text(text.to_owned())).expect("tokens");
            tokenizer.assemble(&encoding, 0..encoding.ids.len(), None).ids
        };
        let content = file.map(|file| std::fs::read_to_string(file).expect("a file of texts"));
        let texts: Vec<Vec<u32>> = match &content {
            Some(content) => content.lines().filter(|line| !line.trim().is_empty()).map(ids).collect(),
            None => LICENCE.split("\n\n").filter(|text| !text.trim().is_empty()).map(ids).collect(),
        };
        assert!(texts.iter().any(|text| text.len() >= *LENGTHS.start()), "a text of {LENGTHS:?} tokens is wanted");
        Self(texts)
    }

    /// `batch` sequences of exactly `length` tokens.
    pub(crate) fn shape(&self, batch: usize, length: usize) -> Packed {
        let ids: Vec<u32> = self.0.iter().flatten().cycle().take(batch * length).copied().collect();
        pack(ids.chunks(length))
    }

    /// Texts of 32 to 128 tokens, longer ones cut, as many as together have `tokens`.
    pub(crate) fn mixed(&self, tokens: usize) -> Packed {
        let mut left = tokens;
        let mut texts = Vec::new();
        for text in self.0.iter().filter(|text| LENGTHS.contains(&text.len().min(*LENGTHS.end()))).cycle() {
            let length = text.len().min(*LENGTHS.end()).min(left);
            texts.push(&text[..length]);
            left -= length;
            if left == 0 {
                break;
            }
        }
        pack(texts)
    }
}

/// All of the first segment.
pub(crate) fn pack<'a>(texts: impl IntoIterator<Item = &'a [u32]>) -> Packed {
    let mut packed = Packed { bounds: vec![0], ..Packed::default() };
    for text in texts {
        packed.ids.extend_from_slice(text);
        packed.bounds.push(packed.ids.len());
    }
    packed.type_ids = vec![0; packed.ids.len()];
    packed
}

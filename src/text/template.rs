//! Where special tokens go around one text or two, learnt once from the tokenizer's own post-processor.

use std::ops::Range;

use tokenizers::{Encoding as RawEncoding, Token, Tokenizer as RawTokenizer};

use crate::domain::{Error, Result};
use crate::text::Window;

/// Ids no vocabulary reaches: they mark where the texts stand.
const FIRST: u32 = u32::MAX;
const SECOND: u32 = u32::MAX - 1;

/// `[CLS] first [SEP] second [SEP]`, or whatever the post-processor makes of two texts.
#[derive(Debug)]
pub(super) struct Template(Vec<Slot>);

#[derive(Debug)]
struct Slot {
    /// A special token, or one of the marks.
    id: u32,
    type_id: u32,
}

impl Template {
    /// Lets the post-processor arrange two marks and reads where it put them.
    pub(super) fn learn(tokenizer: &RawTokenizer, pair: bool) -> Result<Self> {
        let mark = |id, type_id| RawEncoding::from_tokens(vec![Token::new(id, String::new(), (0, 0))], type_id);
        let arranged = tokenizer
            .post_process(mark(FIRST, 0), pair.then(|| mark(SECOND, 1)), true)
            .map_err(|e| Error::unprocessable(format!("tokenizer.json: its post-processor fails: {e}")))?;
        let slots = arranged.get_ids().iter().zip(arranged.get_type_ids());
        let template = Self(slots.map(|(&id, &type_id)| Slot { id, type_id }).collect());
        let count = |mark| template.0.iter().filter(|slot| slot.id == mark).count();
        if (count(FIRST), count(SECOND)) != (1, usize::from(pair)) {
            return Err(Error::unprocessable("tokenizer.json: its post-processor does not keep each text once"));
        }
        Ok(template)
    }

    pub(super) fn special_tokens(&self) -> usize {
        self.0.iter().filter(|slot| slot.is_special()).count()
    }

    pub(super) fn special_tokens_before(&self) -> usize {
        self.0.iter().take_while(|slot| slot.is_special()).count()
    }

    /// The largest id of a special token.
    pub(super) fn id_max(&self) -> Option<u32> {
        self.0.iter().filter(|slot| slot.is_special()).map(|slot| slot.id).max()
    }

    /// The largest segment that a token is put in.
    pub(super) fn type_id_max(&self) -> u32 {
        self.0.iter().map(|slot| slot.type_id).max().unwrap_or(0)
    }

    /// The tokens `first` and `second` of `ids` in their places.
    pub(super) fn fill(&self, ids: &[u32], first: Range<usize>, second: Range<usize>) -> Window {
        let len = self.special_tokens() + first.len() + second.len();
        let mut window =
            Window { ids: Vec::with_capacity(len), type_ids: Vec::with_capacity(len), tokens: Vec::with_capacity(len) };
        for slot in &self.0 {
            let range = match slot.id {
                FIRST => first.clone(),
                SECOND => second.clone(),
                special => {
                    window.ids.push(special);
                    window.tokens.push(None);
                    0..0
                }
            };
            window.ids.extend_from_slice(&ids[range.clone()]);
            window.tokens.extend(range.map(Some));
            window.type_ids.resize(window.ids.len(), slot.type_id);
        }
        window
    }
}

impl Slot {
    fn is_special(&self) -> bool {
        !matches!(self.id, FIRST | SECOND)
    }
}

//! Drawn rows to sequences the encoder reads, with what the objective takes of each and what it asks.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::domain::{Error, Family, LongText, PreFinetuneHyperparameters, Result, TextInput};
use crate::text::{Cut, Tokenizer, Window, fit};
use crate::training::batches::{Draw, seed_of};
use crate::training::collate::first_tokens;
use crate::training::dataset::Example;
use crate::training::objective::{Loss, concepts as concept_loss, contrast};
use crate::training::pre_finetune::draw::{self, Shares, TextBatch};
use crate::training::pre_finetune::pool::Pool;

/// Tokens of a type's or class's name; longer ones are cut.
const NAME_TOKENS_MAX: usize = 32;

/// What a sequence is in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// What is asked: tokens, or texts.
    Rows,
    /// What it is compared with: names, or the texts' partners.
    Names,
}

/// What the objective reads of a sequence's hidden states.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Takes {
    /// The rows of these positions.
    Positions(Vec<usize>),
    /// The mean of all rows.
    Mean,
}

#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub window: Window,
    pub takes: Takes,
    pub side: Side,
}

/// One micro-batch: sequences, those of side [`Side::Rows`] first, and what is asked of their comparison.
pub(super) struct Batch {
    pub sequences: Vec<Sequence>,
    question: Question,
}

enum Question {
    /// (rows, names)
    Cells(Vec<Option<bool>>),
    /// (n, n): whether one is no negative for the other.
    Pairs { n: usize, belong: Vec<bool> },
}

impl Batch {
    /// Of logits (rows, names), in units of chance.
    pub(super) fn loss(&self, logits: &[f32]) -> Loss {
        match &self.question {
            Question::Cells(cells) => concept_loss::loss(logits, cells),
            Question::Pairs { n, belong } => contrast::loss(logits, *n, |i, j| belong[i * n + j]),
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.window.ids.len()).sum()
    }

    /// Texts read, names and partners included.
    pub(super) fn texts(&self) -> usize {
        self.sequences.len()
    }
}

/// Draws and reads the micro-batches.
pub(super) struct Reader<'a> {
    tokenizer: &'a Tokenizer,
    pool: &'a Pool,
    asked: &'a PreFinetuneHyperparameters,
    max_length: usize,
    ner_shares: Shares,
    text_shares: Shares,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        pool: &'a Pool,
        asked: &'a PreFinetuneHyperparameters,
        max_length: usize,
    ) -> Self {
        let ner = pool.ner.sets.iter().map(|set| (set.weight, set.rows.len()));
        let texts = pool.texts.iter().map(|set| (set.weight, set.rows()));
        let ner_shares = Shares::new(ner, asked.sampling_exponent);
        let text_shares = Shares::new(texts, asked.sampling_exponent);
        Self { tokenizer, pool, asked, max_length, ner_shares, text_shares }
    }

    /// The micro-batch of `family` at `step`.
    pub(super) fn batch(&self, family: Family, step: u64) -> Result<Batch> {
        match family {
            Family::Ner => self.ner(step),
            Family::Classify => self.texts(&draw::text_pairs(&self.pool.texts, &self.text_shares, self.asked, step)),
        }
    }

    fn ner(&self, step: u64) -> Result<Batch> {
        let pool = &self.pool.ner;
        let mut rng = ChaCha8Rng::seed_from_u64(seed_of(self.asked.seed, Draw::Window, [step, 0]));
        let drawn = draw::ner_rows(pool, &self.ner_shares, self.asked, step);
        let read = drawn.iter().map(|&(set, row)| {
            let concept = |label: &str| pool.sets[set].concepts.get(label).copied();
            self.tagged(&pool.sets[set].rows[row], concept, |windows| rng.random_range(0..windows))
        });
        let read = read.collect::<Result<Vec<_>>>()?;
        let present: BTreeSet<usize> = read.iter().flat_map(|row| row.tokens.iter().filter_map(|&(_, c)| c)).collect();
        let of_sets: BTreeSet<usize> =
            drawn.iter().flat_map(|&(set, _)| pool.sets[set].concepts.values().copied()).collect();
        let max = self.asked.concepts_max;
        let concepts = draw::concepts(&present, &of_sets, max, self.asked.seed, step);
        let mut cells = Vec::new();
        for (row, (set, _)) in read.iter().zip(&drawn) {
            let known: BTreeSet<usize> = pool.sets[*set].concepts.values().copied().collect();
            for (_, own) in &row.tokens {
                cells.extend(concepts.iter().map(|concept| known.contains(concept).then_some(*own == Some(*concept))));
            }
        }
        let rows = read.into_iter().map(TaggedRow::into_sequence);
        let names = concepts.iter().map(|&concept| self.name(&pool.concepts[concept]));
        let sequences = rows.map(Ok).chain(names).collect::<Result<_>>()?;
        Ok(Batch { sequences, question: Question::Cells(cells) })
    }

    fn texts(&self, batch: &TextBatch<'_>) -> Result<Batch> {
        let n = batch.a.len();
        let belong = (0..n * n).map(|at| batch.belong_together(at / n, at % n)).collect();
        let side = |texts: &[&str], side| {
            texts.iter().map(|text| self.text(text, self.max_length, side)).collect::<Result<Vec<_>>>()
        };
        let mut sequences = side(&batch.a, Side::Rows)?;
        sequences.extend(side(&batch.b, Side::Names)?);
        Ok(Batch { sequences, question: Question::Pairs { n, belong } })
    }

    /// A type's or class's name, to be compared with.
    pub(super) fn name(&self, name: &str) -> Result<Sequence> {
        self.text(name, NAME_TOKENS_MAX.min(self.max_length), Side::Names)
    }

    fn text(&self, text: &str, max_length: usize, side: Side) -> Result<Sequence> {
        let encoding = self.tokenizer.encode(&TextInput::Text(text.to_owned()))?;
        let fitted = fit(self.tokenizer, &encoding, Cut { max_length, long_text: LongText::Truncate, stride: 0 })?;
        let window = fitted.windows.into_iter().next().ok_or_else(|| Error::internal("a text without a window"))?;
        Ok(Sequence { window, takes: Takes::Mean, side })
    }

    /// A tagged row, or one window of a long one, which `choose` chooses by their number.
    pub(super) fn tagged(
        &self,
        example: &Example,
        concept: impl Fn(&str) -> Option<usize>,
        choose: impl FnOnce(usize) -> usize,
    ) -> Result<TaggedRow> {
        let Example::Ner { words, tags } = example else {
            return Err(Error::internal("a row without tags among NER rows"));
        };
        let encoding = self.tokenizer.encode(&TextInput::Words(words.clone()))?;
        let cut = Cut { max_length: self.max_length, long_text: LongText::Window, stride: self.max_length / 4 };
        let mut fitted = fit(self.tokenizer, &encoding, cut)?;
        let window = fitted.windows.swap_remove(choose(fitted.windows.len()));
        let firsts = first_tokens(&encoding.words, words.len());
        let word_at = |token: Option<usize>| {
            let word = encoding.words.get(token?).copied().flatten()? as usize;
            (firsts.get(word).copied().flatten() == token).then_some(word)
        };
        let mut tokens = Vec::new();
        for (position, &token) in window.tokens.iter().enumerate() {
            if let Some(word) = word_at(token) {
                let label = tags.get(word).and_then(|tag| tag.split_once('-')).map(|(_, label)| label);
                tokens.push((position, label.and_then(&concept)));
            }
        }
        Ok(TaggedRow { window, tokens })
    }
}

/// One window of a tagged row.
pub(super) struct TaggedRow {
    pub window: Window,
    /// The position of each word's first token, and the word's concept.
    pub tokens: Vec<(usize, Option<usize>)>,
}

impl TaggedRow {
    pub(super) fn into_sequence(self) -> Sequence {
        let positions = self.tokens.into_iter().map(|(position, _)| position).collect();
        Sequence { window: self.window, takes: Takes::Positions(positions), side: Side::Rows }
    }
}

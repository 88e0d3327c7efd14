//! Examples to sequences the encoder reads, and to the targets a loss wants. Leaves packing into tensors to `prefix`.

use crate::domain::{Error, Family, LabelSet, LongText, Result, TextInput};
use crate::text::{Cut, Fitted, Tokenizer, Window, fit};
use crate::training::dataset::Example;
use crate::training::objective::Targets;
use crate::training::workers::{Run, Steer, Workers};

/// Examples that one thread tokenises at a time: some milliseconds of work.
const EXAMPLES_A_PIECE: usize = 512;

/// Windows of long NER rows share at most this many tokens, and at most a quarter of a window.
const STRIDE_MAX: usize = 64;

/// One example as the encoder reads it.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub fitted: Fitted,
    /// NER: the first token of each word; None for a word without tokens. Classification: empty.
    pub firsts: Vec<Option<usize>>,
    /// NER: the word of each token.
    pub words: Vec<Option<u32>>,
}

/// A split as the encoder reads it.
#[derive(Clone, Debug, Default)]
pub(super) struct Sequences {
    pub examples: Vec<Prepared>,
    /// (example, window) of each sequence, in order.
    index: Vec<(usize, usize)>,
}

impl Sequences {
    pub(super) fn prepare(
        tokenizer: &Tokenizer,
        examples: &[Example],
        max_length: usize,
        workers: Workers,
        steer: Steer<'_>,
    ) -> Run<Self> {
        let pieces: Vec<&[Example]> = examples.chunks(EXAMPLES_A_PIECE).collect();
        let prepared = workers.map(pieces.len(), steer, |piece| {
            pieces[piece].iter().map(|example| prepare(tokenizer, example, max_length)).collect::<Result<Vec<_>>>()
        })?;
        let examples: Vec<Prepared> = prepared.into_iter().flatten().collect();
        let windows = |(at, example): (usize, &Prepared)| (0..example.fitted.windows.len()).map(move |w| (at, w));
        let index = examples.iter().enumerate().flat_map(windows).collect();
        Ok(Self { examples, index })
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn window(&self, sequence: usize) -> &Window {
        let (example, window) = self.index[sequence];
        &self.examples[example].fitted.windows[window]
    }

    pub(super) fn tokens(&self, sequence: usize) -> usize {
        self.window(sequence).ids.len()
    }

    /// What each sequence should answer; `examples` as they were prepared.
    pub(super) fn targets(&self, examples: &[Example], labels: &LabelSet, multi_label: bool) -> Result<Vec<Targets>> {
        let of = |&(example, window): &(usize, usize)| {
            let prepared = &self.examples[example];
            match &examples[example] {
                Example::Ner { tags, .. } => Ok(tag_targets(prepared, window, tags, labels)),
                Example::Classify { labels: gold, .. } => class_targets(gold, labels, multi_label),
                Example::Pair { .. } => Err(wrong_family()),
            }
        };
        self.index.iter().map(of).collect()
    }
}

/// Whether all of `examples` are of `family`.
pub(super) fn check_family(examples: &[Example], family: Family) -> Result<()> {
    let fits = |example: &Example| match example {
        Example::Ner { .. } => family == Family::Ner,
        Example::Classify { .. } => family == Family::Classify,
        Example::Pair { .. } => false,
    };
    match examples.iter().position(|example| !fits(example)) {
        Some(row) => Err(Error::unprocessable(format!("row {} is no {family} example", row + 1))),
        None => Ok(()),
    }
}

fn wrong_family() -> Error {
    Error::unprocessable("pairs train no adapter: rows of family ner or classify are wanted")
}

/// NER rows are cut into windows, so that no word goes unread; others lose what is past `max_length`.
fn prepare(tokenizer: &Tokenizer, example: &Example, max_length: usize) -> Result<Prepared> {
    let (input, long_text, stride) = match example {
        Example::Ner { words, .. } => {
            (TextInput::Words(words.clone()), LongText::Window, STRIDE_MAX.min(max_length / 4))
        }
        Example::Classify { text, text_pair: None, .. } => (TextInput::Text(text.clone()), LongText::Truncate, 0),
        Example::Classify { text, text_pair: Some(pair), .. } => {
            (TextInput::Pair { text: text.clone(), text_pair: pair.clone() }, LongText::Truncate, 0)
        }
        Example::Pair { .. } => return Err(wrong_family()),
    };
    let encoding = tokenizer.encode(&input)?;
    let words = if let Example::Ner { words, .. } = example { words.len() } else { 0 };
    let fitted = fit(tokenizer, &encoding, Cut { max_length, long_text, stride })?;
    Ok(Prepared { fitted, firsts: first_tokens(&encoding.words, words), words: encoding.words })
}

/// The first token of each of `count` words.
pub(super) fn first_tokens(word_of_token: &[Option<u32>], count: usize) -> Vec<Option<usize>> {
    let mut firsts = vec![None; count];
    for (token, word) in word_of_token.iter().enumerate() {
        if let Some(first) = word.and_then(|word| firsts.get_mut(word as usize)) {
            first.get_or_insert(token);
        }
    }
    firsts
}

/// A word's tag on its first token; its other pieces are not asked, as in the reference recipe. Asking them as well made no clear
/// difference on `mit_restaurant`.
fn tag_targets(prepared: &Prepared, window: usize, tags: &[String], labels: &LabelSet) -> Targets {
    let target = |token: usize| {
        let word = prepared.words.get(token).copied().flatten()? as usize;
        let is_first = prepared.firsts.get(word) == Some(&Some(token));
        let label = labels.index_of(tags.get(word).filter(|_| is_first)?);
        label.map(|label| label as u32)
    };
    let positions = &prepared.fitted.windows[window].tokens;
    Targets::One(positions.iter().map(|token| token.and_then(target)).collect())
}

fn class_targets(gold: &[String], labels: &LabelSet, multi_label: bool) -> Result<Targets> {
    let index = |label: &String| {
        let index = labels.index_of(label).map(|index| index as u32);
        index.ok_or_else(|| Error::unprocessable(format!("label {label:?} is none of the training data's")))
    };
    if multi_label {
        return Ok(Targets::Any(vec![gold.iter().map(index).collect::<Result<_>>()?]));
    }
    match gold {
        [label] => Ok(Targets::One(vec![Some(index(label)?)])),
        _ => Err(Error::unprocessable(format!("{} labels in a row; one is wanted", gold.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[&str]) -> LabelSet {
        LabelSet::new(names.iter().map(|&name| name.to_owned()).collect()).expect("unique labels")
    }

    /// A window that reads `tokens` between two special positions.
    fn window(tokens: std::ops::Range<usize>) -> Window {
        let tokens: Vec<_> = [None].into_iter().chain(tokens.map(Some)).chain([None]).collect();
        Window { ids: vec![0; tokens.len()], type_ids: vec![0; tokens.len()], tokens }
    }

    #[test]
    fn a_words_tag_is_asked_of_its_first_token_alone() {
        let words = vec![Some(0), Some(1), Some(1), Some(3)];
        let firsts = first_tokens(&words, 4);
        assert_eq!(firsts, [Some(0), Some(1), None, Some(3)]);
        let fitted = Fitted { windows: vec![window(0..3), window(2..4)], truncated: false };
        let prepared = Prepared { fitted, firsts, words };
        let tags = ["O", "B-PER", "I-PER", "B-LOC"].map(str::to_owned);
        let set = labels(&["O", "B-PER", "I-PER", "B-LOC"]);
        let rows = |window| tag_targets(&prepared, window, &tags, &set);
        assert_eq!(rows(0), Targets::One(vec![None, Some(0), Some(1), None, None]));
        assert_eq!(rows(1), Targets::One(vec![None, None, Some(3), None]));
    }

    #[test]
    fn a_row_with_two_labels_wants_a_multi_label_set() {
        let set = labels(&["a", "b"]);
        let gold = ["b".to_owned(), "a".to_owned()];
        assert_eq!(class_targets(&gold, &set, true).expect("any number"), Targets::Any(vec![vec![1, 0]]));
        assert_eq!(class_targets(&gold[..1], &set, false).expect("one"), Targets::One(vec![Some(1)]));
        let message = class_targets(&gold, &set, false).expect_err("two labels").message().to_owned();
        assert_eq!(message, "2 labels in a row; one is wanted");
    }
}

//! Long texts: overlapping windows, and one row of scores a token again. Pure.

use std::ops::Range;

use crate::domain::{Error, LongText, Matrix, Result};
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

/// How a long input is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Tokens of a window, special ones included.
    pub max_length: usize,
    pub long_text: LongText,
    /// Tokens that neighbouring windows share.
    pub stride: usize,
}

/// Where the windows of an input will stand: known, and countable, before any of them is built.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Special tokens in each window.
    specials: usize,
    truncated: bool,
    pieces: Pieces,
}

#[derive(Clone, Debug)]
enum Pieces {
    /// One window: so much of the first text, and of the second.
    One(Range<usize>, Range<usize>),
    /// The longer text slides and the shorter stands whole in every window.
    Sliding { slides: Slides, short: Range<usize>, is_first_longer: bool },
}

impl Layout {
    /// Lays windows over `encoding` so that none holds more than `cut.max_length` tokens, special ones included.
    ///
    /// A pair is truncated at the longer text first, as the reference library does it; under [`LongText::Window`] the longer
    /// text slides and the shorter stands whole in every window.
    ///
    /// Fails with `unprocessable` for a long text under [`LongText::Error`] and for a pair whose shorter text fills the window;
    /// with `invalid_request` if a long text needs windows and the stride leaves them no room to move.
    pub fn new(tokenizer: &Tokenizer, encoding: &Encoding, cut: Cut) -> Result<Self> {
        let total = encoding.ids.len();
        let specials = tokenizer.special_tokens(encoding.pair_at.is_some());
        let room = cut.max_length.saturating_sub(specials);
        let split = encoding.pair_at.unwrap_or(total);
        let (first, second) = (0..split, split..total);
        let pieces = match cut.long_text {
            _ if total <= room => Pieces::One(first, second),
            LongText::Error => return Err(too_long(total + specials, encoding.unread, cut.max_length)),
            LongText::Truncate => {
                let (first_len, second_len) = longest_first(first.len(), second.len(), room);
                Pieces::One(0..first_len, split..split + second_len)
            }
            LongText::Window => {
                let is_first_longer = first.len() >= second.len();
                let (long, short) = if is_first_longer { (first, second) } else { (second, first) };
                Pieces::Sliding { slides: Slides::new(long, short.len(), room, cut.stride)?, short, is_first_longer }
            }
        };
        let truncated = total > room && cut.long_text == LongText::Truncate;
        Ok(Self { specials, truncated, pieces })
    }

    /// Tokens of all windows together, special ones and overlaps included.
    pub fn tokens(&self) -> usize {
        match &self.pieces {
            Pieces::One(first, second) => first.len() + second.len() + self.specials,
            Pieces::Sliding { slides, short, .. } => slides.tokens() + slides.count * (short.len() + self.specials),
        }
    }

    /// The windows.
    pub fn build(&self, tokenizer: &Tokenizer, encoding: &Encoding) -> Fitted {
        let assemble = |(first, second)| tokenizer.assemble(encoding, first, encoding.pair_at.map(|_| second));
        let windows = match &self.pieces {
            Pieces::One(first, second) => vec![assemble((first.clone(), second.clone()))],
            Pieces::Sliding { slides, short, is_first_longer } => {
                let order = |long| if *is_first_longer { (long, short.clone()) } else { (short.clone(), long) };
                slides.pieces().map(order).map(assemble).collect()
            }
        };
        Fitted { windows, truncated: self.truncated }
    }
}

/// Cuts `encoding` as [`Layout`] says, at once.
pub fn fit(tokenizer: &Tokenizer, encoding: &Encoding, cut: Cut) -> Result<Fitted> {
    Ok(Layout::new(tokenizer, encoding, cut)?.build(tokenizer, encoding))
}

fn too_long(tokens: usize, unread: bool, max_length: usize) -> Error {
    let more = if unread { "more than " } else { "" };
    Error::unprocessable(format!(
        "the text has {more}{tokens} tokens, at most {max_length} are read at once; \"window\" and \"truncate\" take longer texts"
    ))
}

/// How much of two texts stays when both together may have `room` tokens: the longer gives way until they are equal.
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    let short = first.min(second).min(room / 2);
    let long = room - short;
    if first <= second { (short, long) } else { (long, short) }
}

/// Pieces of a text that share tokens each with the next.
#[derive(Clone, Debug)]
struct Slides {
    text: Range<usize>,
    /// Tokens of a piece; the last may have fewer.
    len: usize,
    /// Tokens from one piece's beginning to the next's.
    step: usize,
    count: usize,
}

impl Slides {
    /// Pieces of `text` that share `stride` tokens, where `beside` of the `room` tokens are taken.
    fn new(text: Range<usize>, beside: usize, room: usize, stride: usize) -> Result<Self> {
        let len = room.saturating_sub(beside);
        if len <= stride {
            let what = format!("a stride of {stride} tokens leaves no room to move in windows of {room}");
            return Err(match beside {
                0 => Error::invalid(what),
                _ => Error::unprocessable(format!("{what} that also hold the shorter text's {beside}")),
            });
        }
        let step = len - stride;
        let count = (text.len() - stride).div_ceil(step);
        Ok(Self { text, len, step, count })
    }

    fn tokens(&self) -> usize {
        let before_last = self.count - 1;
        before_last * self.len + (self.text.len() - before_last * self.step)
    }

    fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        (0..self.count).map(|at| {
            let start = self.text.start + at * self.step;
            start..(start + self.len).min(self.text.end)
        })
    }
}

/// One row for each token of the encoding that a window read, in order: of the windows that read it, the one in which it has most context.
/// `outputs[w]` has one row a position of `fitted.windows[w]`.
///
/// # Panics
/// If `outputs` has another shape.
pub fn merge(fitted: &Fitted, outputs: &[Matrix]) -> Matrix {
    assert_eq!(fitted.windows.len(), outputs.len(), "one output a window");
    let mut best: Vec<Option<Seen>> = Vec::new();
    for (window, positions) in fitted.windows.iter().enumerate() {
        for (position, token, context) in contexts(fitted, positions) {
            best.resize(best.len().max(token + 1), None);
            if best[token].is_none_or(|seen| seen.context < context) {
                best[token] = Some(Seen { context, window, position });
            }
        }
    }
    let columns = outputs[0].columns();
    let mut data = Vec::with_capacity(best.len() * columns);
    for seen in best.into_iter().flatten() {
        data.extend_from_slice(outputs[seen.window].row(seen.position));
    }
    Matrix::new(columns, data)
}

#[derive(Clone, Copy)]
struct Seen {
    context: usize,
    window: usize,
    position: usize,
}

/// Of each token in `window`: its position, its index, and how far the nearest cut is. Where the text itself begins or ends is no cut.
fn contexts<'a>(fitted: &'a Fitted, window: &'a Window) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
    let firsts = runs(&fitted.windows[0]);
    let lasts = fitted.windows.last().map(runs).unwrap_or_default();
    runs(window).into_iter().enumerate().flat_map(move |(nth, (position, run))| {
        let begins = firsts.get(nth).is_some_and(|(_, first)| first.start == run.start);
        let ends = lasts.get(nth).is_some_and(|(_, last)| last.end == run.end);
        run.clone().map(move |token| {
            let before = if begins { usize::MAX } else { token - run.start };
            let after = if ends { usize::MAX } else { run.end - 1 - token };
            (position + (token - run.start), token, before.min(after))
        })
    })
}

/// The stretches of neighbouring tokens in a window, each with the position of its first.
fn runs(window: &Window) -> Vec<(usize, Range<usize>)> {
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    let mut is_open = false;
    for (position, token) in window.tokens.iter().enumerate() {
        match (*token, runs.last_mut()) {
            (Some(token), Some((_, run))) if is_open && run.end == token => run.end += 1,
            (Some(token), _) => runs.push((position, token..token + 1)),
            (None, _) => {}
        }
        is_open = token.is_some();
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ErrorKind, TextInput};

    fn tokenizer(architecture: &str) -> Tokenizer {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures");
        Tokenizer::load(&fixtures.join(architecture)).unwrap()
    }

    /// Tokens `1000, 1001, …`; of a pair the second text's go on after the first's.
    fn encoding(first: usize, second: Option<usize>) -> Encoding {
        let total = first + second.unwrap_or(0);
        Encoding {
            ids: (1000..).take(total).collect(),
            offsets: vec![0..0; total],
            words: vec![None; total],
            is_subword: vec![false; total],
            pair_at: second.map(|_| first),
            special_tokens_before: 1,
            unread: false,
        }
    }

    /// Each window's tokens, special ones as `.`.
    fn read(fitted: &Fitted) -> Vec<String> {
        let word = |token: &Option<usize>| token.map_or(".".to_owned(), |token| token.to_string());
        let line = |window: &Window| window.tokens.iter().map(word).collect::<Vec<_>>().join(" ");
        fitted.windows.iter().map(line).collect()
    }

    #[track_caller]
    fn check(first: usize, second: Option<usize>, how: (usize, LongText, usize), wanted: &[&str]) {
        let (max_length, long_text, stride) = how;
        let cut = Cut { max_length, long_text, stride };
        let fitted = fit(&tokenizer("bert"), &encoding(first, second), cut).unwrap();
        assert_eq!(read(&fitted), wanted);
    }

    #[test]
    fn a_short_text_is_one_window_however_long_texts_are_treated() {
        for long_text in [LongText::Window, LongText::Truncate, LongText::Error] {
            check(0, None, (8, long_text, 64), &[". ."]);
            check(3, None, (5, long_text, 64), &[". 0 1 2 ."]);
            check(2, Some(1), (6, long_text, 64), &[". 0 1 . 2 ."]);
        }
    }

    #[test]
    fn windows_share_stride_tokens_and_the_last_is_as_long_as_the_rest() {
        check(7, None, (6, LongText::Window, 2), &[". 0 1 2 3 .", ". 2 3 4 5 .", ". 4 5 6 ."]);
        check(6, None, (6, LongText::Window, 2), &[". 0 1 2 3 .", ". 2 3 4 5 ."]);
        check(5, None, (5, LongText::Window, 0), &[". 0 1 2 .", ". 3 4 ."]);
    }

    #[test]
    fn the_longer_text_of_a_pair_slides_and_the_shorter_stands() {
        check(4, Some(1), (7, LongText::Window, 1), &[". 0 1 2 . 4 .", ". 2 3 . 4 ."]);
        check(1, Some(4), (7, LongText::Window, 1), &[". 0 . 1 2 3 .", ". 0 . 3 4 ."]);
    }

    #[test]
    fn truncation_takes_the_longer_text_first_until_both_are_equal() {
        check(9, None, (5, LongText::Truncate, 0), &[". 0 1 2 ."]);
        check(5, Some(1), (7, LongText::Truncate, 0), &[". 0 1 2 . 5 ."]);
        check(1, Some(5), (7, LongText::Truncate, 0), &[". 0 . 1 2 3 ."]);
        check(9, Some(8), (8, LongText::Truncate, 0), &[". 0 1 2 . 9 10 ."]);
        check(8, Some(9), (8, LongText::Truncate, 0), &[". 0 1 . 8 9 10 ."]);
        check(8, Some(8), (8, LongText::Truncate, 0), &[". 0 1 . 8 9 10 ."]);
    }

    #[test]
    fn only_what_was_cut_counts_as_truncated() {
        let truncated = |tokens, long_text| {
            let cut = Cut { max_length: 5, long_text, stride: 1 };
            fit(&tokenizer("bert"), &encoding(tokens, None), cut).unwrap().truncated
        };
        assert!(truncated(4, LongText::Truncate));
        assert!(!truncated(3, LongText::Truncate));
        assert!(!truncated(4, LongText::Window));
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_numbers() {
        let cases = [
            (9, None, LongText::Error, 1, ErrorKind::Unprocessable, "11 tokens, at most 8"),
            (9, None, LongText::Window, 6, ErrorKind::InvalidRequest, "stride of 6 tokens"),
            (9, Some(5), LongText::Window, 0, ErrorKind::Unprocessable, "the shorter text's 5"),
        ];
        for (first, second, long_text, stride, kind, reason) in cases {
            let cut = Cut { max_length: 8, long_text, stride };
            let error = fit(&tokenizer("bert"), &encoding(first, second), cut).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains(reason), "{error}\nlacks {reason:?}");
        }
    }

    #[test]
    fn separators_and_type_ids_are_the_architectures_own() {
        let window = |name| {
            let tokenizer = tokenizer(name);
            tokenizer.assemble(&encoding(1, Some(1)), 0..1, Some(1..2))
        };
        let bert = window("bert");
        assert_eq!((bert.ids, bert.type_ids), (vec![2, 1000, 3, 1001, 3], vec![0, 0, 0, 1, 1]));
        let roberta = window("roberta");
        assert_eq!((roberta.ids, roberta.type_ids), (vec![0, 1000, 2, 2, 1001, 2], vec![0; 6]));
        assert_eq!((tokenizer("roberta").special_tokens(false), tokenizer("roberta").special_tokens(true)), (2, 4));
    }

    #[test]
    fn a_token_is_answered_by_the_window_that_saw_most_around_it() {
        let cut = Cut { max_length: 7, long_text: LongText::Window, stride: 3 };
        let fitted = fit(&tokenizer("bert"), &encoding(8, None), cut).unwrap();
        assert_eq!(read(&fitted), [". 0 1 2 3 4 .", ". 2 3 4 5 6 .", ". 4 5 6 7 ."]);
        // 2 has two neighbours on its right in the first window, none on its left in the second; 3 has one each, the first
        // wins; 5 and 6 stand before the text's own end in the third.
        assert_eq!(answered_by(&fitted), [0, 0, 0, 0, 1, 1, 2, 2]);
    }

    /// Which window answers each token.
    fn answered_by(fitted: &Fitted) -> Vec<usize> {
        let output = |(at, window): (usize, &Window)| Matrix::new(1, vec![at as f32; window.ids.len()]);
        let outputs: Vec<_> = fitted.windows.iter().enumerate().map(output).collect();
        merge(fitted, &outputs).data().iter().map(|&at| at as usize).collect()
    }

    proptest! {
        #[test]
        fn no_token_goes_unread_and_merged_rows_are_in_order(
            first in 0_usize..300, second in proptest::option::of(0_usize..40), max_length in 50_usize..90, stride in 0_usize..5,
        ) {
            let encoding = encoding(first, second);
            let cut = Cut { max_length, long_text: LongText::Window, stride };
            let tokenizer = tokenizer("bert");
            let fitted = fit(&tokenizer, &encoding, cut).unwrap();
            let counted = Layout::new(&tokenizer, &encoding, cut).unwrap().tokens();
            prop_assert_eq!(counted, fitted.windows.iter().map(|window| window.ids.len()).sum::<usize>());
            // Each output row is the token it stands for, so the merged rows must count up from nought.
            let row = |token: &Option<usize>| token.map_or(-1.0, |token| token as f32);
            let outputs: Vec<_> =
                fitted.windows.iter().map(|window| Matrix::new(1, window.tokens.iter().map(row).collect())).collect();
            let wanted: Vec<f32> = (0..encoding.ids.len()).map(|token| token as f32).collect();
            let merged = merge(&fitted, &outputs);
            prop_assert_eq!(merged.data(), wanted);
            for window in &fitted.windows {
                prop_assert!(window.ids.len() <= max_length);
                prop_assert_eq!(window.ids.len(), window.type_ids.len());
                let ids = window.tokens.iter().zip(&window.ids).filter_map(|(token, id)| Some((((*token)?), id)));
                for (token, id) in ids {
                    prop_assert_eq!(encoding.ids[token], *id);
                }
            }
        }
    }

    #[test]
    fn a_pair_of_texts_reads_as_two() {
        let pair = TextInput::Pair { text: "Anna".to_owned(), text_pair: "in Kraków".to_owned() };
        let tokenizer = tokenizer("bert");
        let encoding = tokenizer.encode(&pair).unwrap();
        let split = encoding.pair_at.unwrap();
        assert_eq!(encoding.offsets[split], 0..2, "the second text counts its own bytes");
        assert!(!encoding.is_subword[split]);
    }
}

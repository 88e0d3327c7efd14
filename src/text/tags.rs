//! Token scores to entities: the five aggregation strategies of Hugging Face's token-classification pipeline.
//!
//! What differs from the pipeline, on purpose: spans of the BIOES scheme end where they say so; what is found in no character that is
//! seen (a token of white space) has no say and is left out; an entity neither begins nor ends with white space; no two entities
//! share a character; a type may be called `O`.

use std::ops::Range;

use crate::domain::{Aggregation, Entity, LabelSet, Matrix, NerParameters, Tag};
use crate::text::Encoding;
use crate::text::invisible::{seen, without_blanks};

/// What `ignore_labels` and answers call what is in no entity.
const OUTSIDE: &str = "O";

/// Softmax over each row.
pub fn softmax_rows(mut logits: Matrix) -> Matrix {
    for row in 0..logits.rows() {
        let row = logits.row_mut(row);
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x = (*x - largest).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    }
    logits
}

/// Entities of one input, in text order. `scores`: one row of probabilities a token of `encoding` (fewer rows if the text was truncated).
///
/// # Panics
/// If `scores` has more columns than there are `labels`.
pub fn entities(
    text: &str,
    encoding: &Encoding,
    scores: &Matrix,
    labels: &LabelSet,
    parameters: &NerParameters,
) -> Vec<Entity> {
    debug_assert!(
        encoding.offsets.iter().all(|range| text.get(range.clone()).is_some()),
        "offsets are of another text"
    );
    let read = encoding.pair_at.unwrap_or(encoding.ids.len()).min(scores.rows());
    let found = match parameters.aggregation {
        Aggregation::None => {
            let piece = |token| Piece::new(encoding, scores, labels, &[token], Aggregation::None);
            (0..read).map(|token| piece(token).into_found(encoding.special_tokens_before)).collect()
        }
        Aggregation::Simple => {
            let piece = |token| Piece::new(encoding, scores, labels, &[token], Aggregation::Simple);
            group(untangled(&seen(text, encoding, 0..read).map(piece).collect::<Vec<_>>()), text)
        }
        by_words => {
            let words = words(&encoding.is_subword[..read]).into_iter();
            let seen = words.map(|word| seen(text, encoding, word).collect::<Vec<_>>()).filter(|word| !word.is_empty());
            group(seen.map(|word| Piece::new(encoding, scores, labels, &word, by_words)), text)
        }
    };
    let asked = found.into_iter().filter(|found| is_asked_for(&found.entity, found.is_outside, parameters));
    asked.map(|found| found.entity).collect()
}

/// An entity, or what is in none.
struct Found {
    entity: Entity,
    is_outside: bool,
}

/// A token or word with its tag.
#[derive(Clone)]
struct Piece<'a> {
    label: &'a str,
    score: f32,
    range: Range<usize>,
    token: usize,
}

impl<'a> Piece<'a> {
    /// Of the tokens of one word, at least one.
    fn new(
        encoding: &Encoding,
        scores: &Matrix,
        labels: &'a LabelSet,
        tokens: &[usize],
        aggregation: Aggregation,
    ) -> Self {
        let (first, last) = (tokens[0], tokens[tokens.len() - 1]);
        let (label, score) = choose(scores, tokens, aggregation);
        let range = encoding.offsets[first].start..encoding.offsets[last].end;
        Self { label: &labels.as_slice()[label], score, range, token: first }
    }

    fn tag(&self) -> Tag<'a> {
        Tag::parse(self.label)
    }

    fn into_found(self, special_tokens_before: usize) -> Found {
        let index = Some(self.token + special_tokens_before);
        let is_outside = self.tag() == Tag::Outside;
        Found {
            entity: Entity { label: self.label.to_owned(), score: self.score, range: self.range, index },
            is_outside,
        }
    }
}

/// Pieces of which no two that are of different groups share a character. A normaliser may make several tokens of one character (the
/// letters of a Hangul syllable): where their tags would part them, the surest has the character.
fn untangled<'a>(pieces: &[Piece<'a>]) -> impl Iterator<Item = Piece<'a>> {
    let tangles = pieces.chunk_by(|a, b| b.range.start < a.range.end);
    tangles.flat_map(|tangle| {
        if tangle.windows(2).all(|pair| goes_on(pair[0].tag(), pair[1].tag())) {
            return tangle.to_vec();
        }
        let surest = tangle.iter().fold(&tangle[0], |best, piece| if piece.score > best.score { piece } else { best });
        vec![Piece { range: tangle[0].range.start..tangle[tangle.len() - 1].range.end, ..surest.clone() }]
    })
}

/// The tokens of each word; whatever the first token claims, it begins one.
pub(super) fn words(is_subword: &[bool]) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for (token, &is_subword) in is_subword.iter().enumerate() {
        match words.last_mut() {
            Some(word) if is_subword => word.end += 1,
            _ => words.push(token..token + 1),
        }
    }
    words
}

/// The label of a word, and its score, by its tokens' rows.
fn choose(scores: &Matrix, tokens: &[usize], aggregation: Aggregation) -> (usize, f32) {
    match aggregation {
        Aggregation::None | Aggregation::Simple | Aggregation::First => highest(scores.row(tokens[0])),
        Aggregation::Max => {
            let mut tokens = tokens.iter().map(|&token| highest(scores.row(token)));
            let first = tokens.next().unwrap_or((0, 0.0));
            tokens.fold(first, |best, token| if token.1 > best.1 { token } else { best })
        }
        Aggregation::Average => {
            let mut mean = vec![0.0; scores.columns()];
            for &token in tokens {
                mean.iter_mut().zip(scores.row(token)).for_each(|(sum, score)| *sum += score);
            }
            mean.iter_mut().for_each(|sum| *sum /= tokens.len() as f32);
            highest(&mean)
        }
    }
}

/// The first of the highest scores.
pub(super) fn highest(row: &[f32]) -> (usize, f32) {
    let first = (0, row.first().copied().unwrap_or(0.0));
    row.iter().copied().enumerate().fold(first, |best, (at, score)| if score > best.1 { (at, score) } else { best })
}

/// Neighbours of one type make one entity, up to the next tag that begins one. What is outside makes groups as well: a caller may ask for them.
fn group<'a>(pieces: impl Iterator<Item = Piece<'a>>, text: &str) -> Vec<Found> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for piece in pieces {
        let tag = piece.tag();
        match groups.last_mut() {
            Some(group) if goes_on(group.last, tag) => group.push(tag, piece),
            _ => groups.push(Group::new(tag, piece)),
        }
    }
    groups.into_iter().map(|group| group.into_found(text)).collect()
}

/// Whether what ends with the tag `last` goes on with `next`.
fn goes_on(last: Tag<'_>, next: Tag<'_>) -> bool {
    let is_over = matches!(last, Tag::End(_) | Tag::Single(_));
    let begins = matches!(next, Tag::Begin(_) | Tag::Single(_));
    !is_over && !begins && next.label() == last.label()
}

struct Group<'a> {
    last: Tag<'a>,
    score_sum: f32,
    pieces: usize,
    range: Range<usize>,
}

impl<'a> Group<'a> {
    fn new(tag: Tag<'a>, piece: Piece<'a>) -> Self {
        Self { last: tag, score_sum: piece.score, pieces: 1, range: piece.range }
    }

    fn push(&mut self, tag: Tag<'a>, piece: Piece<'a>) {
        self.last = tag;
        self.score_sum += piece.score;
        self.pieces += 1;
        self.range.end = piece.range.end;
    }

    fn into_found(self, text: &str) -> Found {
        let (label, score) = (self.last.label().unwrap_or(OUTSIDE).to_owned(), self.score_sum / self.pieces as f32);
        let entity = Entity { label, score, range: without_blanks(text, self.range), index: None };
        Found { entity, is_outside: self.last == Tag::Outside }
    }
}

/// `ignore_labels` is held against what the answer would say (with aggregation `none` a tag, `B-PER`), `labels` against the type. `O`
/// among the former is what is in no entity, not a type of that name.
pub(super) fn is_asked_for(entity: &Entity, is_outside: bool, parameters: &NerParameters) -> bool {
    let entity_type = match parameters.aggregation {
        Aggregation::None => Tag::parse(&entity.label).label().unwrap_or(OUTSIDE),
        _ => &entity.label,
    };
    let is_ignored = |ignored: &String| *ignored == entity.label && (is_outside || ignored != OUTSIDE);
    !entity.range.is_empty()
        && entity.score >= parameters.threshold
        && !parameters.ignore_labels.iter().any(is_ignored)
        && parameters.labels.as_ref().is_none_or(|wanted| wanted.iter().any(|label| label == entity_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [&str; 8] = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-PER", "S-LOC", "MISC"];

    /// `tags`: a tag a word of the text; `+` before it makes the word go on with the word before, `:0.9` after it is its score.
    fn found(tags: &str, parameters: &NerParameters) -> String {
        let labels = LabelSet::new(LABELS.map(str::to_owned).to_vec()).unwrap();
        let mut encoding = Encoding { special_tokens_before: 1, ..Encoding::default() };
        let mut rows = Vec::new();
        for (at, tag) in tags.split_whitespace().enumerate() {
            let (tag, score) = tag.split_once(':').unwrap_or((tag, "1"));
            let chosen = labels.index_of(tag.trim_start_matches('+')).unwrap();
            rows.extend((0..labels.len()).map(|label| if label == chosen { score.parse().unwrap() } else { 0.0 }));
            encoding.ids.push(0);
            encoding.offsets.push(at * 2..at * 2 + 1);
            encoding.words.push(None);
            encoding.is_subword.push(tag.starts_with('+'));
        }
        let text = "x ".repeat(encoding.ids.len());
        let entities = entities(&text, &encoding, &Matrix::new(labels.len(), rows), &labels, parameters);
        let word = |byte: usize| byte / 2;
        let show =
            |entity: &Entity| format!("{}@{}..{}", entity.label, word(entity.range.start), word(entity.range.end) + 1);
        entities.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check(aggregation: Aggregation, tags: &str, wanted: &str) {
        assert_eq!(found(tags, &NerParameters { aggregation, ..NerParameters::default() }), wanted, "{tags}");
    }

    #[test]
    fn neighbours_of_one_type_are_one_entity_until_the_next_begins() {
        check(Aggregation::Simple, "O B-PER I-PER O", "PER@1..3");
        check(Aggregation::Simple, "B-PER B-PER", "PER@0..1 PER@1..2");
        check(Aggregation::Simple, "B-PER I-LOC", "PER@0..1 LOC@1..2");
        check(Aggregation::Simple, "O I-PER I-PER", "PER@1..3");
        check(Aggregation::Simple, "MISC MISC O MISC", "MISC@0..2 MISC@3..4");
        check(Aggregation::Simple, "", "");
        check(Aggregation::Simple, "O O", "");
    }

    /// Entities of tokens at places of a text, each with its tag: `B-PER@0..3`.
    fn found_in(text: &str, tokens: &str, labels: &[&str], parameters: &NerParameters) -> String {
        let labels = LabelSet::new(labels.iter().map(|&label| label.to_owned()).collect()).unwrap();
        let mut encoding = Encoding::default();
        let mut rows = Vec::new();
        for (at, token) in tokens.split_whitespace().enumerate() {
            let (tag, range) = token.split_once('@').unwrap();
            let (start, end) = range.split_once("..").unwrap();
            let chosen = labels.index_of(tag).unwrap();
            // The later, the surer.
            rows.extend((0..labels.len()).map(|label| if label == chosen { 0.5 + at as f32 / 100.0 } else { 0.0 }));
            encoding.ids.push(0);
            encoding.offsets.push(start.parse().unwrap()..end.parse().unwrap());
            encoding.words.push(None);
            encoding.is_subword.push(false);
        }
        let entities = entities(text, &encoding, &Matrix::new(labels.len(), rows), &labels, parameters);
        let show = |entity: &Entity| format!("{}@{}..{}", entity.label, entity.range.start, entity.range.end);
        entities.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_not_seen_has_no_say_and_is_at_no_end() {
        for (text, tokens, wanted) in [
            // A token of white space alone is empty, one of a zero-width space is not.
            ("Anna  Stone", "B-PER@0..4 O@5..5 I-PER@6..11", "PER@0..11"),
            ("x  y", "O@0..1 B-PER@2..2 O@3..4", ""),
            ("x\u{a0}Bob", "O@0..1 B-PER@1..3 I-PER@3..6", "PER@3..6"),
            ("Bob\u{200b}", "B-PER@0..3 I-PER@3..6", "PER@0..3"),
            ("Bob \u{200b} Stone", "B-PER@0..3 O@4..7 I-PER@8..13", "PER@0..13"),
            ("\u{200b} x", "B-PER@0..3 O@4..5", ""),
        ] {
            for aggregation in [Aggregation::Simple, Aggregation::First, Aggregation::Average, Aggregation::Max] {
                let parameters = NerParameters { aggregation, ..NerParameters::default() };
                assert_eq!(found_in(text, tokens, &LABELS, &parameters), wanted, "{text:?} {aggregation:?}");
            }
        }
    }

    #[test]
    fn tokens_of_one_character_are_of_one_entity() {
        let simple = NerParameters { aggregation: Aggregation::Simple, ..NerParameters::default() };
        for (tokens, wanted) in [
            ("B-PER@0..3 I-PER@0..3 I-PER@3..6", "PER@0..6"),
            ("B-PER@0..3 O@0..3 I-PER@3..6", "PER@3..6"),
            ("O@0..3 B-PER@0..3 I-PER@3..6", "PER@0..6"),
            ("B-PER@0..3 B-LOC@0..3 B-LOC@3..6", "LOC@0..3 LOC@3..6"),
            ("B-PER@0..3 B-PER@0..3 I-PER@3..6", "PER@0..6"),
        ] {
            assert_eq!(found_in("한국", tokens, &LABELS, &simple), wanted, "{tokens}");
        }
    }

    #[test]
    fn a_type_called_o_is_a_type() {
        let labels = ["O", "B-O", "I-O", "B-A"];
        let tokens = "B-O@0..1 I-O@2..3 O@4..5 B-A@6..7";
        let ask = |aggregation, ignore: &[&str]| {
            let ignore_labels = ignore.iter().map(|&label| label.to_owned()).collect();
            let parameters = NerParameters { aggregation, ignore_labels, ..NerParameters::default() };
            found_in("a b c d", tokens, &labels, &parameters)
        };
        for aggregation in [Aggregation::Simple, Aggregation::First] {
            assert_eq!(ask(aggregation, &["O"]), "O@0..3 A@6..7", "{aggregation:?}");
            assert_eq!(ask(aggregation, &[]), "O@0..3 O@4..5 A@6..7", "{aggregation:?}");
        }
        assert_eq!(ask(Aggregation::None, &["O"]), "B-O@0..1 I-O@2..3 B-A@6..7");
    }

    #[test]
    fn an_end_and_a_single_close_their_entity() {
        check(Aggregation::Simple, "B-PER I-PER E-PER I-PER", "PER@0..3 PER@3..4");
        check(Aggregation::Simple, "S-LOC S-LOC I-LOC", "LOC@0..1 LOC@1..2 LOC@2..3");
    }

    #[test]
    fn a_word_takes_the_tag_of_its_first_its_mean_or_its_surest_token() {
        let word = "B-PER:0.4 +B-LOC:0.6 +B-PER:0.3";
        check(Aggregation::Simple, word, "PER@0..1 LOC@1..2 PER@2..3");
        check(Aggregation::First, word, "PER@0..3");
        check(Aggregation::Average, word, "PER@0..3");
        check(Aggregation::Max, word, "LOC@0..3");
        check(Aggregation::First, "+B-PER +O B-LOC", "PER@0..2 LOC@2..3");
        check(Aggregation::Max, "B-PER:0.5 +B-LOC:0.5", "PER@0..2");
    }

    #[test]
    fn without_aggregation_each_tag_stands_alone_and_knows_its_place() {
        check(Aggregation::None, "O B-PER I-PER", "B-PER@1..2 I-PER@2..3");
        let labels = LabelSet::new(vec!["B-PER".to_owned()]).unwrap();
        let offsets = std::iter::once(0..1).collect();
        let encoding = Encoding { ids: vec![7], offsets, special_tokens_before: 1, ..Encoding::default() };
        let parameters = NerParameters { aggregation: Aggregation::None, ..NerParameters::default() };
        let entities = entities("x", &encoding, &Matrix::new(1, vec![1.0]), &labels, &parameters);
        assert_eq!(entities[0].index, Some(1), "the classification token is number 0");
    }

    #[test]
    fn a_caller_gets_only_what_was_asked_for() {
        let tags = "B-PER:0.9 O:0.9 B-LOC:0.6 MISC:0.2";
        let base = NerParameters::default();
        let strings = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
        let cases = [
            (NerParameters { threshold: 0.6, ..base.clone() }, "PER@0..1 LOC@2..3"),
            (NerParameters { ignore_labels: strings(&[]), ..base.clone() }, "PER@0..1 O@1..2 LOC@2..3 MISC@3..4"),
            (NerParameters { ignore_labels: strings(&["O", "PER"]), ..base.clone() }, "LOC@2..3 MISC@3..4"),
            (NerParameters { labels: Some(strings(&["PER"])), ..base.clone() }, "PER@0..1"),
            (
                NerParameters { aggregation: Aggregation::None, labels: Some(strings(&["PER"])), ..base.clone() },
                "B-PER@0..1",
            ),
            (
                NerParameters {
                    aggregation: Aggregation::None,
                    ignore_labels: strings(&["O", "B-PER"]),
                    ..base.clone()
                },
                "B-LOC@2..3 MISC@3..4",
            ),
        ];
        for (parameters, wanted) in cases {
            assert_eq!(found(tags, &parameters), wanted, "{parameters:?}");
        }
    }

    #[test]
    fn tokens_past_the_scores_and_of_a_second_text_are_left_out() {
        let labels = LabelSet::new(vec!["A".to_owned(), "O".to_owned()]).unwrap();
        let scores = Matrix::new(2, vec![1.0, 0.0, 1.0, 0.0]);
        let (offsets, is_subword) = (vec![0..1, 1..2, 2..3], vec![false; 3]);
        let mut encoding = Encoding { ids: vec![7; 3], offsets, is_subword, ..Encoding::default() };
        let found = |encoding: &Encoding| entities("xyz", encoding, &scores, &labels, &NerParameters::default());
        assert_eq!(found(&encoding)[0].range, 0..2);
        encoding.pair_at = Some(1);
        assert_eq!(found(&encoding)[0].range, 0..1);
    }

    #[test]
    fn rows_of_probabilities_sum_to_one_however_large_the_logits() {
        let rows = softmax_rows(Matrix::new(2, vec![1000.0, 1000.0, 0.0, 3.0_f32.ln(), -1000.0, 1000.0]));
        let wanted = [0.5, 0.5, 0.25, 0.75, 0.0, 1.0];
        assert!(rows.data().iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 1e-6), "{rows:?}");
    }
}

//! Scores of named concepts to entities: every name has a score of its own, and no tag says where a span begins.

use std::ops::Range;

use crate::domain::{Entity, Matrix, NerParameters};
use crate::text::Encoding;
use crate::text::invisible::{seen, without_blanks};
use crate::text::tags::{highest, is_asked_for, words};

/// Entities of one input, in text order. A word is of its best concept where its first token's score reaches `threshold`; tokens of
/// which nothing is seen have no say;
/// neighbouring words of one concept are one entity, whose score is their mean. `scores`: one row a token of `encoding` (fewer
/// rows if the text was truncated), a column for each of `names`, each from 0 to 1.
///
/// # Panics
/// If `scores` has more columns than there are `names`.
pub fn concept_entities(
    text: &str,
    encoding: &Encoding,
    scores: &Matrix,
    names: &[String],
    threshold: f32,
    parameters: &NerParameters,
) -> Vec<Entity> {
    let read = encoding.pair_at.unwrap_or(encoding.ids.len()).min(scores.rows());
    let mut spans: Vec<Span> = Vec::new();
    let words = words(&encoding.is_subword[..read]).into_iter();
    let seen = words.map(|word| seen(text, encoding, word).collect::<Vec<_>>()).filter(|word| !word.is_empty());
    for (nth, word) in seen.enumerate() {
        let (first, last) = (word[0], word[word.len() - 1]);
        let (name, score) = highest(scores.row(first));
        if score < threshold {
            continue;
        }
        let range = encoding.offsets[first].start..encoding.offsets[last].end;
        match spans.last_mut() {
            Some(span) if span.name == name && span.words.end == nth => span.push(score, range.end),
            _ => spans.push(Span { name, words: nth..nth + 1, score_sum: score, range }),
        }
    }
    let entities = spans.into_iter().map(|span| span.into_entity(text, names));
    entities.filter(|entity| is_asked_for(entity, false, parameters)).collect()
}

/// Words of one concept, side by side.
struct Span {
    name: usize,
    words: Range<usize>,
    score_sum: f32,
    range: Range<usize>,
}

impl Span {
    fn push(&mut self, score: f32, end: usize) {
        self.words.end += 1;
        self.score_sum += score;
        self.range.end = end;
    }

    fn into_entity(self, text: &str, names: &[String]) -> Entity {
        let score = self.score_sum / self.words.len() as f32;
        Entity { label: names[self.name].clone(), score, range: without_blanks(text, self.range), index: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tokens`: the two concepts' scores in tenths (`90` is 0.9 and 0.0); `+` before them makes the token go on with the word before.
    #[track_caller]
    fn check(tokens: &str, parameters: &NerParameters, expected: &str) {
        let mut encoding = Encoding::default();
        let mut rows = Vec::new();
        for (at, token) in tokens.split_whitespace().enumerate() {
            rows.extend(token.trim_start_matches('+').chars().map(|tenths| tenths.to_digit(10).unwrap() as f32 / 10.0));
            encoding.ids.push(0);
            encoding.offsets.push(at * 2..at * 2 + 1);
            encoding.words.push(None);
            encoding.is_subword.push(token.starts_with('+'));
        }
        let names = ["A", "B-x"].map(str::to_owned);
        let text = "x ".repeat(encoding.ids.len());
        let entities = concept_entities(&text, &encoding, &Matrix::new(2, rows), &names, 0.5, parameters);
        let show =
            |e: &Entity| format!("{}@{}..{}:{:.1}", e.label, e.range.start / 2, e.range.end.div_ceil(2), e.score);
        assert_eq!(entities.iter().map(show).collect::<Vec<_>>().join(" "), expected, "{tokens}");
    }

    #[test]
    fn words_above_the_threshold_are_of_their_best_concept_and_neighbours_of_one_concept_join() {
        let default = NerParameters::default();
        check("", &default, "");
        check("44 00", &default, "");
        check("90 00 09", &default, "A@0..1:0.9 B-x@2..3:0.9");
        check("90 70 00", &default, "A@0..2:0.8");
        check("90 08 80", &default, "A@0..1:0.9 B-x@1..2:0.8 A@2..3:0.8");
        check("55", &default, "A@0..1:0.5");
        check("90 00 90", &default, "A@0..1:0.9 A@2..3:0.9");
    }

    #[test]
    fn a_words_first_token_decides_for_all_of_it() {
        let default = NerParameters::default();
        check("90 +00 +09 00", &default, "A@0..3:0.9");
        check("00 +90 09", &default, "B-x@2..3:0.9");
        check("90 +00 70", &default, "A@0..3:0.8");
    }

    #[test]
    fn a_caller_may_ask_for_some_of_them() {
        let only = NerParameters { labels: Some(vec!["B-x".to_owned()]), ..NerParameters::default() };
        check("90 09", &only, "B-x@1..2:0.9");
        let but = NerParameters { ignore_labels: vec!["B-x".to_owned()], ..NerParameters::default() };
        check("90 09", &but, "A@0..1:0.9");
    }
}

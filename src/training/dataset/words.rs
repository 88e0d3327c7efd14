//! Texts to words, and character spans to tags on them. A span that fits no words is reported, never moved in silence.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::domain::Excerpt;

use super::findings::{Code, Findings};
use super::limits::WRONG_SPANS_MAX;

/// Letters, digits and their marks stay together; any other mark is a word of its own, and so is each character of scripts without spaces.
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"[\p{Han}\p{Hiragana}\p{Katakana}]|[[\p{L}\p{N}\p{M}]--[\p{Han}\p{Hiragana}\p{Katakana}]]+|\S";
    Regex::new(pattern).expect("a fixed pattern")
});

/// A labelled piece of a text, as a file has it.
#[derive(Debug)]
pub(super) struct LabelledSpan<'a> {
    /// Unicode code points.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) label: &'a str,
    /// What the file says is there.
    pub(super) text: Option<&'a str>,
}

/// Byte ranges of the words of `text`.
pub(super) fn word_ranges(text: &str) -> Vec<Range<usize>> {
    WORD.find_iter(text).map(|word| word.range()).collect()
}

pub(super) fn count_words(text: &str) -> usize {
    WORD.find_iter(text).count()
}

/// IOB2 tags, one a word of `words`; None after an error, which is in `findings`. A row is left after [`WRONG_SPANS_MAX`] of them.
pub(super) fn tag_words(
    text: &str,
    words: &[Range<usize>],
    spans: &[LabelledSpan<'_>],
    line: usize,
    findings: &mut Findings,
) -> Option<Vec<String>> {
    let places = Places::of(text);
    let mut taken = Taken::default();
    let mut wrong = 0;
    for span in spans {
        match locate(&places, words, span, line, findings).map(|range| taken.take(range, span.label)) {
            Ok(true) => continue,
            Ok(false) => findings.error(Code::OverlappingSpans, line, span.to_string()),
            Err(reason) => findings.error(Code::MisalignedSpan, line, reason),
        }
        wrong += 1;
        if wrong == WRONG_SPANS_MAX {
            break;
        }
    }
    (wrong == 0).then(|| taken.tags(words.len()))
}

/// Words that have an entity: where each begins, where it ends, and its label. No two overlap.
#[derive(Default)]
struct Taken<'a>(BTreeMap<usize, (usize, &'a str)>);

impl<'a> Taken<'a> {
    /// False: some word of `range` is taken.
    fn take(&mut self, range: Range<usize>, label: &'a str) -> bool {
        let before = self.0.range(..range.end).next_back();
        if before.is_some_and(|(_, (end, _))| *end > range.start) {
            return false;
        }
        self.0.insert(range.start, (range.end, label));
        true
    }

    fn tags(self, words: usize) -> Vec<String> {
        let mut tags = vec!["O".to_owned(); words];
        for (first, (end, label)) in self.0 {
            tags[first] = format!("B-{label}");
            tags[first + 1..end].iter_mut().for_each(|tag| *tag = format!("I-{label}"));
        }
        tags
    }
}

/// Where the characters of a text are, in bytes and in UTF-16 units; counted once for all spans.
struct Places<'a> {
    text: &'a str,
    /// The byte of each character, and of the text's end.
    bytes: Vec<usize>,
    /// The UTF-16 unit of each, likewise; tools written in JavaScript count these.
    units: OnceCell<Vec<usize>>,
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        let bytes = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        Self { text, bytes, units: OnceCell::new() }
    }

    fn chars(&self) -> usize {
        self.bytes.len() - 1
    }

    /// The byte at which the `units`-th UTF-16 unit begins, if a character begins there.
    fn utf16_byte(&self, units: usize) -> Option<usize> {
        let begins = self.units.get_or_init(|| {
            let ends = self.text.chars().scan(0, |unit, c| {
                *unit += c.len_utf16();
                Some(*unit)
            });
            [0].into_iter().chain(ends).collect()
        });
        begins.binary_search(&units).ok().map(|at| self.bytes[at])
    }
}

/// The words of `span`. Spaces at its ends are left off, with a warning.
fn locate(
    places: &Places<'_>,
    words: &[Range<usize>],
    span: &LabelledSpan<'_>,
    line: usize,
    findings: &mut Findings,
) -> Result<Range<usize>, String> {
    let within = byte_range(places, span)?;
    let said = &places.text[within.clone()];
    let start = within.start + (said.len() - said.trim_start().len());
    let end = start + said.trim().len();
    if start >= end {
        return Err(format!("{span} is empty"));
    }
    let first = words.binary_search_by_key(&start, |word| word.start);
    let last = words.binary_search_by_key(&end, |word| word.end);
    let there = Excerpt(&places.text[start..end]);
    match (first, last) {
        (Ok(first), Ok(last)) => {
            if (start..end) != within {
                findings.warn(Code::TrimmedSpan, line, span.to_string());
            }
            Ok(first..last + 1)
        }
        (Err(_), _) => Err(format!("{span} begins inside a word ({there:?})")),
        (_, Err(_)) => Err(format!("{span} ends inside a word ({there:?})")),
    }
}

/// Where `span` is in the text. Where the file says which text it means, that settles what it counts.
fn byte_range(places: &Places<'_>, span: &LabelledSpan<'_>) -> Result<Range<usize>, String> {
    let (text, chars) = (places.text, places.chars());
    let as_chars =
        (span.start < span.end && span.end <= chars).then(|| places.bytes[span.start]..places.bytes[span.end]);
    let Some(said) = span.text else {
        return as_chars.ok_or_else(|| format!("{span} is not within the text's {chars} characters"));
    };
    if let Some(range) = as_chars.clone().filter(|range| &text[range.clone()] == said) {
        return Ok(range);
    }
    let as_utf16 = places.utf16_byte(span.start).zip(places.utf16_byte(span.end)).map(|(start, end)| start..end);
    if let Some(range) = as_utf16.filter(|range| text.get(range.clone()) == Some(said)) {
        return Ok(range);
    }
    let there = as_chars.map_or("nothing".to_owned(), |range| format!("{:?}", Excerpt(&text[range])));
    Err(format!("{span} should be {:?}, but {there} is there", Excerpt(said)))
}

impl std::fmt::Display for LabelledSpan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} span {}..{}", Excerpt(self.label), self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_single_marks() {
        let check = |text: &str, wanted: &str| {
            let words: Vec<_> = word_ranges(text).into_iter().map(|range| &text[range]).collect();
            assert_eq!(words.join("|"), wanted, "{text:?}");
        };
        check("", "");
        check("  \t\n", "");
        check("Meet Anna, now", "Meet|Anna|,|now");
        check("U.S. e-mail", "U|.|S|.|e|-|mail");
        check("Krako\u{301}w नमस्ते", "Krako\u{301}w|नमस्ते");
        check("love😀東京kg", "love|😀|東|京|kg");
    }

    #[test]
    fn utf16_units_are_found_at_character_starts_alone() {
        for (units, wanted) in [(0, Some(0)), (1, Some(1)), (2, None), (3, Some(5)), (4, Some(6)), (5, None)] {
            assert_eq!(Places::of("a😀b").utf16_byte(units), wanted, "{units}");
        }
    }

    #[test]
    fn overlaps_are_found_as_by_looking_at_every_word() {
        let mut seed = 7u64;
        let mut below = |max: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % max
        };
        for _ in 0..2000 {
            let (mut taken, mut plain) = (Taken::default(), vec!["O".to_owned(); 12]);
            for _ in 0..6 {
                let first = below(12);
                let range = first..first + 1 + below(12 - first);
                let is_free = plain[range.clone()].iter().all(|tag| tag == "O");
                assert_eq!(taken.take(range.clone(), "X"), is_free, "{range:?} of {plain:?}");
                for at in range.clone().filter(|_| is_free) {
                    plain[at] = if at == range.start { "B-X" } else { "I-X" }.to_owned();
                }
            }
            assert_eq!(taken.tags(12), plain);
        }
    }
}

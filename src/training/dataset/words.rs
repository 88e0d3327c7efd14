//! Texts to words, and character spans to tags on them. A span that fits no words is reported, never moved in silence.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::findings::{Code, Findings};

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

/// IOB2 tags, one a word of `words`; None after an error, which is in `findings`.
pub(super) fn tag_words(
    text: &str,
    words: &[Range<usize>],
    spans: &[LabelledSpan<'_>],
    line: usize,
    findings: &mut Findings,
) -> Option<Vec<String>> {
    let bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut tags = vec!["O".to_owned(); words.len()];
    let mut is_whole = true;
    for span in spans {
        match locate(text, &bytes, words, span, line, findings) {
            Err(reason) => {
                is_whole = false;
                findings.error(Code::MisalignedSpan, line, reason);
            }
            Ok(range) if tags[range.clone()].iter().any(|tag| tag != "O") => {
                is_whole = false;
                findings.error(Code::OverlappingSpans, line, span.to_string());
            }
            Ok(range) => {
                let first = range.start;
                range.for_each(|at| tags[at] = format!("{}-{}", if at == first { "B" } else { "I" }, span.label));
            }
        }
    }
    is_whole.then_some(tags)
}

/// The words of `span`. Spaces at its ends are left off, with a warning.
fn locate(
    text: &str,
    bytes: &[usize],
    words: &[Range<usize>],
    span: &LabelledSpan<'_>,
    line: usize,
    findings: &mut Findings,
) -> Result<Range<usize>, String> {
    let within = byte_range(text, bytes, span)?;
    let said = &text[within.clone()];
    let start = within.start + (said.len() - said.trim_start().len());
    let end = start + said.trim().len();
    if start >= end {
        return Err(format!("{span} is empty"));
    }
    if (start..end) != within {
        findings.warn(Code::TrimmedSpan, line, span.to_string());
    }
    let first = words.binary_search_by_key(&start, |word| word.start);
    let last = words.binary_search_by_key(&end, |word| word.end);
    match (first, last) {
        (Ok(first), Ok(last)) => Ok(first..last + 1),
        (Err(_), _) => Err(format!("{span} begins inside a word ({:?})", &text[start..end])),
        (_, Err(_)) => Err(format!("{span} ends inside a word ({:?})", &text[start..end])),
    }
}

/// Where `span` is in `text`. Tools written in JavaScript count UTF-16 units: where the file says which text it means, that settles it.
fn byte_range(text: &str, bytes: &[usize], span: &LabelledSpan<'_>) -> Result<Range<usize>, String> {
    let chars = bytes.len() - 1;
    let as_chars = (span.start < span.end && span.end <= chars).then(|| bytes[span.start]..bytes[span.end]);
    let Some(said) = span.text else {
        return as_chars.ok_or_else(|| format!("{span} is not within the text's {chars} characters"));
    };
    if let Some(range) = as_chars.clone().filter(|range| &text[range.clone()] == said) {
        return Ok(range);
    }
    let as_utf16 = utf16_byte(text, span.start).zip(utf16_byte(text, span.end)).map(|(start, end)| start..end);
    if let Some(range) = as_utf16.filter(|range| text.get(range.clone()) == Some(said)) {
        return Ok(range);
    }
    let there = as_chars.map_or("nothing".to_owned(), |range| format!("{:?}", &text[range]));
    Err(format!("{span} should be {said:?}, but {there} is there"))
}

/// The byte at which the `units`-th UTF-16 unit begins.
fn utf16_byte(text: &str, units: usize) -> Option<usize> {
    let mut seen = 0;
    let ends = text.char_indices().map(|(at, c)| {
        let unit = seen;
        seen += c.len_utf16();
        (unit, at)
    });
    let found = ends.into_iter().find(|(unit, _)| *unit >= units);
    match found {
        Some((unit, at)) => (unit == units).then_some(at),
        None => (text.encode_utf16().count() == units).then_some(text.len()),
    }
}

impl std::fmt::Display for LabelledSpan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} span {}..{}", self.label, self.start, self.end)
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
            assert_eq!(utf16_byte("a😀b", units), wanted, "{units}");
        }
    }
}

//! Texts to words, and character spans to tags on them. A span that fits no words is reported, never moved in silence: where scripts
//! or units want it the word is taken whole, or parted between two spans, with a warning.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::domain::Excerpt;

use super::findings::{Code, Findings};
use super::limits::WRONG_SPANS_MAX;
use super::place::Place;

/// Letters, digits and their marks stay together; any other mark is a word of its own, and so is each character of scripts without spaces
/// (with its marks).
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    let unspaced = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}";
    let pattern =
        format!(r"[[\p{{L}}\p{{N}}]&&[{unspaced}]]\p{{M}}*|[{unspaced}]|[[\p{{L}}\p{{N}}\p{{M}}]--[{unspaced}]]+|\S");
    Regex::new(&pattern).expect("a fixed pattern")
});

/// White space.
static SPACES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\s+").expect("a fixed pattern"));

/// A labelled piece of a text, as a file has it.
#[derive(Debug)]
pub(super) struct LabelledSpan<'a> {
    /// Unicode code points.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) label: String,
    /// What the file says is there.
    pub(super) text: Option<&'a str>,
}

/// What counts where a span's offsets and its text disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    /// Neither: the row is refused.
    Both,
    /// The offsets, with a warning.
    Offsets,
}

/// Byte ranges of the words of `text`.
pub(super) fn word_ranges(text: &str) -> Vec<Range<usize>> {
    WORD.find_iter(text).map(|word| word.range()).collect()
}

pub(super) fn count_words(text: &str) -> usize {
    WORD.find_iter(text).count()
}

/// The words with an IOB2 tag each: `words`, and where spans part one its pieces. None after an error, which is in `findings`. A row
/// is left after [`WRONG_SPANS_MAX`] of them.
pub(super) fn tag_words(
    text: &str,
    words: Vec<Range<usize>>,
    spans: &[LabelledSpan<'_>],
    truth: Truth,
    place: &Place,
    findings: &mut Findings,
) -> Option<(Vec<Range<usize>>, Vec<String>)> {
    let places = Places::of(text);
    let mut row = SpansOfRow { places, truth, place, findings, wrong: 0 };
    let located = row.locate(spans)?;
    let words = row.part(words, &located);
    let mut taken = Taken::default();
    for (span, range) in spans.iter().zip(&located) {
        match row.fit(&words, span, range).map(|range| taken.take(range, &span.label)) {
            Ok(true) => {}
            Ok(false) => row.refuse(Code::OverlappingSpans, span.to_string()),
            Err(reason) => row.refuse(Code::MisalignedSpan, reason),
        }
        if row.wrong == WRONG_SPANS_MAX {
            break;
        }
    }
    let tags = (row.wrong == 0).then(|| taken.tags(words.len()))?;
    Some((words, tags))
}

/// The spans of one row on their way to its words.
struct SpansOfRow<'a> {
    places: Places<'a>,
    truth: Truth,
    place: &'a Place,
    findings: &'a mut Findings,
    wrong: usize,
}

impl SpansOfRow<'_> {
    fn refuse(&mut self, code: Code, reason: String) {
        self.findings.refuse(code, self.place, reason);
        self.wrong += 1;
    }

    /// Where each span is in the text, in bytes, without spaces at its ends. None if one is nowhere.
    fn locate(&mut self, spans: &[LabelledSpan<'_>]) -> Option<Vec<Range<usize>>> {
        let mut located = Vec::with_capacity(spans.len());
        for span in spans {
            match self.locate_one(span) {
                Ok(range) => located.push(range),
                Err(reason) => self.refuse(Code::MisalignedSpan, reason),
            }
            if self.wrong == WRONG_SPANS_MAX {
                break;
            }
        }
        (self.wrong == 0).then_some(located)
    }

    fn locate_one(&mut self, span: &LabelledSpan<'_>) -> Result<Range<usize>, String> {
        let (within, is_stale) = byte_range(&self.places, span, self.truth)?;
        if is_stale {
            let there = Excerpt(&self.places.text[within.clone()]);
            let said = Excerpt(span.text.unwrap_or_default());
            self.findings.warn(Code::StaleText, self.place, format!("{span} says {said:?}; {there:?} is there"));
        }
        let range = self.places.trimmed(within.clone());
        if range.is_empty() {
            return Err(format!("{span} is empty"));
        }
        if range != within {
            self.findings.warn(Code::TrimmedSpan, self.place, span.to_string());
        }
        Ok(range)
    }

    /// The words, those with more than one span parted where the spans begin and end, if they may be.
    fn part(&mut self, words: Vec<Range<usize>>, spans: &[Range<usize>]) -> Vec<Range<usize>> {
        let mut touched: BTreeMap<usize, (usize, Vec<usize>)> = BTreeMap::new();
        for span in spans {
            for at in ends_within(&words, span) {
                touched.entry(at).or_default().0 += 1;
            }
            for cut in [span.start, span.end] {
                if let Some(at) = word_around(&words, cut) {
                    touched.entry(at).or_default().1.push(cut);
                }
            }
        }
        touched.retain(|_, (spans, cuts)| *spans > 1 && !cuts.is_empty());
        if touched.is_empty() {
            return words;
        }
        let mut parted = Vec::with_capacity(words.len() + touched.len());
        for (at, word) in words.into_iter().enumerate() {
            let Some((_, mut cuts)) = touched.remove(&at) else {
                parted.push(word);
                continue;
            };
            self.findings.warn(Code::SplitWord, self.place, format!("{:?}", Excerpt(&self.places.text[word.clone()])));
            cuts.retain(|cut| may_end(self.places.text, *cut));
            cuts.sort_unstable();
            cuts.dedup();
            let ends = cuts.iter().copied().chain([word.end]);
            let mut start = word.start;
            for end in ends {
                parted.push(start..end);
                start = end;
            }
        }
        parted
    }

    /// The words of a span, taken whole where it ends inside one and may.
    fn fit(
        &mut self,
        words: &[Range<usize>],
        span: &LabelledSpan<'_>,
        range: &Range<usize>,
    ) -> Result<Range<usize>, String> {
        let text = self.places.text;
        let there = Excerpt(&text[range.clone()]);
        let first = match words.binary_search_by_key(&range.start, |word| word.start) {
            Ok(first) => first,
            Err(after) if after > 0 && may_end(text, range.start) => after - 1,
            Err(_) => return Err(format!("{span} begins inside a word ({there:?})")),
        };
        let last = match words.binary_search_by_key(&range.end, |word| word.end) {
            Ok(last) => last,
            Err(at) if at < words.len() && may_end(text, range.end) => at,
            Err(_) => return Err(format!("{span} ends inside a word ({there:?})")),
        };
        if last < first {
            return Err(format!("{span} is between words ({there:?})"));
        }
        if words[first].start < range.start || words[last].end > range.end {
            let whole = Excerpt(&text[words[first].start..words[last].end]);
            self.findings.warn(Code::WidenedSpan, self.place, format!("{span} ({there:?}) was read as {whole:?}"));
        }
        Ok(first..last + 1)
    }
}

/// The words in which a span begins and ends; one, if it is the same.
fn ends_within(words: &[Range<usize>], span: &Range<usize>) -> impl Iterator<Item = usize> {
    let first = words.partition_point(|word| word.end <= span.start);
    let last = words.partition_point(|word| word.start < span.end).saturating_sub(1);
    [Some(first), (last != first).then_some(last)].into_iter().flatten()
}

/// The word that has `at` inside.
fn word_around(words: &[Range<usize>], at: usize) -> Option<usize> {
    let found = words.partition_point(|word| word.end <= at);
    words.get(found).filter(|word| word.start < at).map(|_| found)
}

/// Whether an entity may well end at this byte, inside a word: between a number and its unit, before a capital letter, and in scripts
/// whose words take endings and articles. Between two letters of alphabets whose words stand alone it is a slip of the mouse.
fn may_end(text: &str, at: usize) -> bool {
    let (Some(before), Some(after)) = (text[..at].chars().next_back(), text[at..].chars().next()) else { return true };
    if before.is_numeric() != after.is_numeric() || (before.is_lowercase() && after.is_uppercase()) {
        return !is_mark(after);
    }
    let stands_alone = |c: char| c.is_numeric() || ALONE.is_match(c.encode_utf8(&mut [0; 4]));
    !(is_mark(after) || (stands_alone(before) && stands_alone(after)))
}

/// Letters whose words take no endings that an annotator would leave off.
static ALONE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[\p{Latin}\p{Greek}\p{Cyrillic}\p{Armenian}\p{M}]").expect("a fixed pattern"));

fn is_mark(c: char) -> bool {
    static MARK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{M}").expect("a fixed pattern"));
    MARK.is_match(c.encode_utf8(&mut [0; 4]))
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
    /// Byte ranges of runs of white space: a span may begin with a long one, and there may be many spans.
    spaces: OnceCell<Vec<Range<usize>>>,
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        let bytes = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        Self { text, bytes, units: OnceCell::new(), spaces: OnceCell::new() }
    }

    fn chars(&self) -> usize {
        self.bytes.len() - 1
    }

    /// `range` without white space at its ends.
    fn trimmed(&self, range: Range<usize>) -> Range<usize> {
        let spaces = self.spaces.get_or_init(|| SPACES.find_iter(self.text).map(|run| run.range()).collect());
        let run_at = |at: usize| spaces.get(spaces.partition_point(|run| run.end <= at)).filter(|run| run.start <= at);
        let start = run_at(range.start).map_or(range.start, |run| run.end);
        let last = range.end.saturating_sub(1);
        let end = run_at(last).map_or(range.end, |run| run.start);
        start..end.max(start)
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

/// Where `span` is in the text, and whether the file says that something else is there. Where the file says which text it means, that
/// settles what it counts; white space in it may have been collapsed.
fn byte_range(places: &Places<'_>, span: &LabelledSpan<'_>, truth: Truth) -> Result<(Range<usize>, bool), String> {
    let (text, chars) = (places.text, places.chars());
    let as_chars =
        (span.start < span.end && span.end <= chars).then(|| places.bytes[span.start]..places.bytes[span.end]);
    let nowhere = || format!("{span} is not within the text's {chars} characters");
    let Some(said) = span.text else {
        return as_chars.map(|range| (range, false)).ok_or_else(nowhere);
    };
    let as_utf16 = || places.utf16_byte(span.start).zip(places.utf16_byte(span.end)).map(|(start, end)| start..end);
    let holds = |range: &Range<usize>| text.get(range.clone()).is_some_and(|there| same_but_spaces(there, said));
    if let Some(range) = as_chars.clone().filter(holds).or_else(|| as_utf16().filter(holds)) {
        return Ok((range, false));
    }
    match (truth, as_chars) {
        (Truth::Offsets, Some(range)) => Ok((range, true)),
        (Truth::Offsets, None) => Err(nowhere()),
        (Truth::Both, range) => {
            let there = range.map_or("nothing".to_owned(), |range| format!("{:?}", Excerpt(&text[range])));
            Err(format!("{span} should be {:?}, but {there} is there", Excerpt(said)))
        }
    }
}

/// Whether two texts are equal once runs of white space are one space, and those at the ends are none.
fn same_but_spaces(there: &str, said: &str) -> bool {
    /// How much longer the text may be: who has many spans over long runs of white space shall not make us read them again and again.
    const LONGER_BY_MAX: usize = 8;
    let is_near = there.len() / LONGER_BY_MAX <= said.len();
    there == said || (is_near && there.split_whitespace().eq(said.split_whitespace()))
}

impl std::fmt::Display for LabelledSpan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} span {}..{}", Excerpt(&self.label), self.start, self.end)
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

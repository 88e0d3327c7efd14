//! Characters that take no place of their own in a line: white space, joiners, direction marks, and marks on the letter before. An
//! entity neither begins nor ends with the former, and a word is not over at the latter. Pure.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::text::Encoding;

/// Attached characters that are passed over in search of the letter they belong to; text of people has a handful.
const ATTACHED_MAX: usize = 32;

/// Holds emoji together, whatever stands on its sides.
const ZERO_WIDTH_JOINER: char = '\u{200d}';

/// White space, as Python's `str.strip` knows it: the separators U+001C to U+001F are some.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// White space, and format characters of which nothing is seen.
fn is_blank(c: char) -> bool {
    let is_unseen = matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}');
    is_unseen || is_space(c)
}

/// `range` of `text` without what is blank at its ends; an empty one at its end if nothing else is there.
pub(super) fn without_blanks(text: &str, range: Range<usize>) -> Range<usize> {
    let begun = text[range.clone()].trim_start_matches(is_blank);
    let start = range.end - begun.len();
    start..start + begun.trim_end_matches(is_blank).len()
}

/// The tokens of `word` that stand for something that is seen: the others have no say in what the word is.
pub(super) fn seen<'a>(text: &'a str, encoding: &'a Encoding, word: Range<usize>) -> impl Iterator<Item = usize> + 'a {
    word.filter(|&token| text[encoding.offsets[token].clone()].contains(|c| !is_blank(c)))
}

/// A mark on the letter before (an accent, a vowel sign, a variation selector), or a format character (a joiner, a soft hyphen).
fn is_attached(c: char) -> bool {
    static ATTACHED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\A[\p{M}\p{Cf}]").expect("a valid pattern"));
    !c.is_ascii() && ATTACHED.is_match(c.encode_utf8(&mut [0; 4]))
}

/// Whether the word that ends with `before` goes on with `after`, of which a tokenizer made another: it took a mark or a joiner in
/// its middle for a sign of punctuation, or for a space.
pub(super) fn goes_on(text: &str, before: &Range<usize>, after: &Range<usize>) -> bool {
    if before.is_empty() || after.is_empty() {
        return false;
    }
    let Some(gap) = text.get(before.end..after.start) else { return after.start < before.end };
    if gap.chars().nth(ATTACHED_MAX).is_some() || !gap.chars().all(is_attached) {
        return false;
    }
    let Some(first) = text[after.start..].chars().next() else { return false };
    let mut backwards = text[..after.start].chars().rev();
    let last = backwards.next().unwrap_or(' ');
    if is_attached(first) || last == ZERO_WIDTH_JOINER {
        return !is_space(last);
    }
    let letter = backwards.take(ATTACHED_MAX).find(|&c| !is_attached(c));
    is_attached(last) && first.is_alphanumeric() && letter.is_some_and(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_blank_is_taken_off_both_ends_and_stays_inside() {
        for (text, wanted) in [
            ("Anna", "Anna"),
            (" Anna\u{a0}", "Anna"),
            ("\u{200b}An\u{200b}na\u{ad}", "An\u{200b}na"),
            ("\u{200f}שלום\u{200e}", "שלום"),
            ("\u{1f}x\u{1c}", "x"),
            ("\u{feff} \t", ""),
            ("👩‍👧", "👩‍👧"),
            ("Jose\u{301}", "Jose\u{301}"),
        ] {
            let padded = format!("ab{text}c");
            assert_eq!(&padded[without_blanks(&padded, 2..2 + text.len())], wanted, "{text:?}");
        }
    }

    #[test]
    fn a_word_goes_on_at_a_mark_or_a_joiner_and_nowhere_else() {
        // `|` stands between the two tokens, `_` for characters of neither.
        for (tokens, wanted) in [
            ("An|na", false),
            ("An|\u{200b}", true),
            ("An\u{200b}|na", true),
            ("An|_\u{200b}|na", true),
            ("Jose|\u{301}", true),
            ("e\u{301}|t", true),
            ("क|्", true),
            ("क्|ष", true),
            ("ن|\u{64e}", true),
            ("👩|\u{200d}", true),
            ("👩\u{200d}|👧", true),
            ("(\u{200f}|Anna", false),
            ("Anna\u{200f}|)", false),
            ("Bob|_ |Stone", false),
            ("Bob|_ \u{200b}|Stone", false),
            ("\u{200b}|Anna", false),
            ("a,|b", false),
        ] {
            let mut parts = tokens.split('|');
            let mut text = parts.next().unwrap().to_owned();
            let before = 0..text.len();
            let rest: Vec<&str> = parts.collect();
            text.extend(rest.iter().map(|part| part.trim_start_matches('_')));
            let after = text.len() - rest[rest.len() - 1].len()..text.len();
            assert_eq!(goes_on(&text, &before, &after), wanted, "{tokens}");
        }
        assert!(goes_on("한", &(0..3), &(0..3)), "two tokens of one character");
    }

    #[test]
    fn a_run_of_marks_is_looked_at_no_further_than_its_bound() {
        let text = format!("a{}b", "\u{301}".repeat(ATTACHED_MAX + 1));
        assert!(!goes_on(&text, &(0..text.len() - 1), &(text.len() - 1..text.len())));
    }
}

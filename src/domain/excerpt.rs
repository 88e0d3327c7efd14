//! A caller's value as a message quotes it: its beginning, so that no message is as long as what was sent.

use std::fmt;

/// Characters of a value that a message shows; names and words are shorter, and more would not help to find it.
const EXCERPT_CHARS_MAX: usize = 60;

/// Shows at most the first 60 characters, and `…` where there are more. `{:?}` puts it in quotes.
#[derive(Clone, Copy)]
pub struct Excerpt<'a>(pub &'a str);

impl<'a> Excerpt<'a> {
    /// What is shown, and whether something is left out.
    fn shown(self) -> (&'a str, bool) {
        match self.0.char_indices().nth(EXCERPT_CHARS_MAX) {
            Some((end, _)) => (&self.0[..end], true),
            None => (self.0, false),
        }
    }
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, is_cut) = self.shown();
        write!(f, "{shown}{}", if is_cut { "…" } else { "" })
    }
}

impl fmt::Debug for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, is_cut) = self.shown();
        write!(f, "{shown:?}{}", if is_cut { "…" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_between_characters() {
        let check = |text: &str, plain: &str, quoted: &str| {
            assert_eq!((format!("{}", Excerpt(text)), format!("{:?}", Excerpt(text))), (plain.into(), quoted.into()));
        };
        check("", "", "\"\"");
        check("a\"b", "a\"b", "\"a\\\"b\"");
        let (whole, long) = ("é".repeat(60), "é".repeat(61));
        check(&whole, &whole, &format!("{whole:?}"));
        check(&long, &format!("{whole}…"), &format!("{whole:?}…"));
    }
}

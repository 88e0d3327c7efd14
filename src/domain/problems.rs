//! What validation finds, and how long the words of a failure may be. Which failure carries them is left to `error`.

use std::fmt;
use std::fmt::Write as _;

/// Stands for what was cut out of a text.
const CUT: &str = "…";

/// A list of findings that stays short whatever was sent: the first ones word for word, of the others their number.
///
/// [`push`](Self::push) takes `format_args!` too, so that a finding beyond the bound is counted and never built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// At most [`Self::MAX`].
    kept: Vec<String>,
    /// The kept ones and those that are only counted.
    count: usize,
}

impl Problems {
    /// Lines of one list, the one that counts the rest among them: more is nothing that a person reads.
    pub const MAX: usize = 100;
    /// Bytes of one line.
    pub const BYTES_MAX: usize = 300;

    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, problem: impl fmt::Display) {
        if self.kept.len() < Self::MAX {
            self.kept.push(bounded(problem, Self::BYTES_MAX));
        }
        self.count += 1;
    }

    /// How many there are, those that are only counted among them.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// At most `max` lines of 1 to [`Self::MAX`]; if there are more, the last one says how many.
    pub fn lines(&self, max: usize) -> Vec<String> {
        let max = max.clamp(1, Self::MAX);
        if self.count <= max {
            return self.kept.clone();
        }
        let shown = &self.kept[..max - 1];
        shown.iter().cloned().chain([format!("… and {} more", self.count - shown.len())]).collect()
    }
}

impl<P: fmt::Display> Extend<P> for Problems {
    fn extend<I: IntoIterator<Item = P>>(&mut self, problems: I) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }
}

impl<P: fmt::Display> FromIterator<P> for Problems {
    fn from_iter<I: IntoIterator<Item = P>>(problems: I) -> Self {
        let mut all = Self::new();
        all.extend(problems);
        all
    }
}

impl From<Vec<String>> for Problems {
    fn from(problems: Vec<String>) -> Self {
        problems.into_iter().collect()
    }
}

/// The text in at most `max` bytes. What is too much is cut out of its middle: messages quote a caller first and say last what is wanted.
/// Never holds more than a few times `max`, however long the text is.
pub(super) fn bounded(text: impl fmt::Display, max: usize) -> String {
    let mut writer = Bounded { head: String::new(), tail: String::new(), max };
    // The writer takes everything; what fails is a `Display` of its own, and then its text ends there.
    let _ = write!(writer, "{text}");
    writer.finish()
}

/// [`bounded`] of a text that is there already.
pub(super) fn cut(text: String, max: usize) -> String {
    if text.len() <= max { text } else { without_middle(&text, max) }
}

fn without_middle(text: &str, max: usize) -> String {
    let kept = max - CUT.len();
    let head = text.floor_char_boundary(kept * 2 / 3);
    let tail = text.ceil_char_boundary(text.len() - (kept - head));
    format!("{}{CUT}{}", &text[..head], &text[tail..])
}

/// Keeps the first `max` bytes that are written, and of the rest at least the last `max`.
struct Bounded {
    head: String,
    tail: String,
    max: usize,
}

impl Bounded {
    fn finish(self) -> String {
        cut(self.head + &self.tail, self.max)
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = if self.tail.is_empty() { self.max - self.head.len() } else { 0 };
        let (first, rest) = text.split_at(text.floor_char_boundary(room));
        self.head.push_str(first);
        self.tail.push_str(&rest[rest.ceil_char_boundary(rest.len().saturating_sub(self.max))..]);
        if self.tail.len() > 4 * self.max {
            self.tail.drain(..self.tail.ceil_char_boundary(self.tail.len() - self.max));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_loses_its_middle_on_character_boundaries() {
        assert_eq!(bounded("short", 20), "short");
        assert_eq!(bounded("abcdefghijklmnopqrst", 20), "abcdefghijklmnopqrst");
        assert_eq!(bounded("abcdefghijklmnopqrstu", 20), "abcdefghijk…pqrstu");
        for unit in ["a", "é", "語", "🦀", "e\u{301}"] {
            for count in [1, 99, 100, 101, 1000, 100_000] {
                let text = unit.repeat(count);
                let whole = bounded(format_args!("<{text}>"), 300);
                assert!(whole.len() <= 300 && whole.starts_with('<') && whole.ends_with('>'), "{unit} × {count}");
                assert_eq!(whole, cut(format!("<{text}>"), 300), "written in pieces or whole: {unit} × {count}");
            }
        }
    }

    #[test]
    fn many_problems_are_a_few_lines_and_a_number() {
        let check = |count: usize, max: usize, lines: usize, last: &str| {
            let problems: Problems = (1..=count).map(|at| format!("row {at}")).collect();
            let got = problems.lines(max);
            assert_eq!((problems.len(), got.len(), got.last().map_or("", |l| l.as_str())), (count, lines, last));
        };
        check(0, 100, 0, "");
        check(100, 100, 100, "row 100");
        check(101, 100, 100, "… and 2 more");
        check(400_000, 100, 100, "… and 399901 more");
        check(400_000, usize::MAX, 100, "… and 399901 more");
        check(100, 7, 7, "… and 94 more");
        check(3, 0, 1, "… and 3 more");
    }

    #[test]
    fn what_is_only_counted_is_never_built() {
        struct Counted<'a>(&'a std::cell::Cell<usize>);
        impl fmt::Display for Counted<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.set(self.0.get() + 1);
                f.write_str("x")
            }
        }
        let built = std::cell::Cell::new(0);
        let mut problems = Problems::new();
        (0..100_000).for_each(|_| problems.push(Counted(&built)));
        assert_eq!((built.get(), problems.len()), (Problems::MAX, 100_000));
    }
}

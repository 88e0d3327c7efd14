//! Label sets in head order, and tags of a tagging scheme.

use crate::domain::{Error, Result};

/// Labels in the order of the head's rows; unique, none empty, each a short line of text: every answer quotes them, and metrics have a
/// series for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSet(Vec<String>);

impl LabelSet {
    /// The most labels one head may have: its weights stay small beside the backbone's.
    pub const MAX: usize = 4096;
    /// Bytes of one label: a sentence.
    pub const LABEL_BYTES_MAX: usize = 256;
    /// Bytes of all labels of one head: 64 for each of the most there may be.
    pub const BYTES_MAX: usize = 256 << 10;

    pub fn new(labels: Vec<String>) -> Result<Self> {
        match Self::problem(&labels) {
            Some(problem) => Err(Error::unprocessable(problem)),
            None => Ok(Self(labels)),
        }
    }

    /// Why these are no labels of a head.
    fn problem(labels: &[String]) -> Option<String> {
        if labels.is_empty() || labels.len() > Self::MAX {
            return Some(format!("{} labels; 1 to {} are wanted", labels.len(), Self::MAX));
        }
        if let Some((at, long)) = labels.iter().enumerate().find(|(_, label)| label.len() > Self::LABEL_BYTES_MAX) {
            let (bytes, max) = (long.len(), Self::LABEL_BYTES_MAX);
            return Some(format!("label {at} has {bytes} bytes; at most {max} are wanted"));
        }
        let bytes: usize = labels.iter().map(String::len).sum();
        if bytes > Self::BYTES_MAX {
            return Some(format!("the labels have {bytes} bytes in all; at most {} are wanted", Self::BYTES_MAX));
        }
        if let Some(bad) = labels.iter().find(|label| label.contains(char::is_control)) {
            return Some(format!("label {bad:?} holds a control character, such as a line break"));
        }
        let mut seen = std::collections::HashSet::new();
        let bad = labels.iter().find(|label| label.trim().is_empty() || !seen.insert(label.as_str()))?;
        Some(format!("label {bad:?} is empty or there twice"))
    }

    /// Of a head that has no rows of its own.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(String::as_str)
    }

    pub fn index_of(&self, label: &str) -> Option<usize> {
        self.0.iter().position(|l| l == label)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// A tag of token classification: `O`, or a position in a span of a type (`B-PER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag<'a> {
    Outside,
    /// First token of a span.
    Begin(&'a str),
    /// Goes on with a span.
    Inside(&'a str),
    /// Last token of a span (BIOES).
    End(&'a str),
    /// A span of one token (BIOES).
    Single(&'a str),
}

impl<'a> Tag<'a> {
    /// Reads `O`, `B-X`, `I-X`, `E-X`/`L-X` and `S-X`/`U-X`; a label without a prefix reads as inside its own type.
    pub fn parse(tag: &'a str) -> Self {
        match tag.split_once('-') {
            _ if tag == "O" => Self::Outside,
            Some(("B", label)) => Self::Begin(label),
            Some(("I" | "M", label)) => Self::Inside(label),
            Some(("E" | "L", label)) => Self::End(label),
            Some(("S" | "U", label)) => Self::Single(label),
            _ => Self::Inside(tag),
        }
    }

    /// The entity type; none outside.
    pub fn label(self) -> Option<&'a str> {
        match self {
            Self::Outside => None,
            Self::Begin(l) | Self::Inside(l) | Self::End(l) | Self::Single(l) => Some(l),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_lines_each_there_once() {
        let check = |labels: Vec<String>, problem: Option<&str>| match (LabelSet::new(labels), problem) {
            (Ok(_), None) => {}
            (Err(error), Some(problem)) => assert!(error.message().contains(problem), "{error}"),
            (got, wanted) => panic!("{got:?} for {wanted:?}"),
        };
        let all = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
        let many = |count: usize, bytes: usize| (0..count).map(|at| format!("{at:0bytes$}")).collect::<Vec<_>>();
        check(all(&["yes", "no"]), None);
        check(all(&["jagdpanzer 🦀", "with a space", "ł"]), None);
        check(vec!["x".repeat(256)], None);
        check(many(4096, 64), None);
        check(all(&[]), Some("0 labels; 1 to 4096"));
        check(many(4097, 4), Some("4097 labels"));
        check(all(&["a", ""]), Some("\"\" is empty or there twice"));
        check(all(&["a", " "]), Some("is empty or there twice"));
        check(all(&["a", "b", "a"]), Some("\"a\" is empty or there twice"));
        check(vec!["y".to_owned(), "x".repeat(257)], Some("label 1 has 257 bytes; at most 256"));
        check(vec!["x".repeat(3_000_000)], Some("3000000 bytes"));
        check(many(4096, 65), Some("266240 bytes in all"));
        for control in ["a\nb", "a\0", "\u{1b}[31m", "a\u{85}b"] {
            check(all(&[control]), Some("control character"));
        }
    }
}

//! Label sets in head order, and tags of a tagging scheme.

use crate::domain::{Error, Result};

/// Labels in the order of the head's rows; unique, none empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSet(Vec<String>);

impl LabelSet {
    /// The most labels one head may have: its weights stay small beside the backbone's.
    pub const MAX: usize = 4096;

    pub fn new(labels: Vec<String>) -> Result<Self> {
        if labels.is_empty() || labels.len() > Self::MAX {
            return Err(Error::unprocessable(format!("{} labels; 1 to {} are wanted", labels.len(), Self::MAX)));
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(bad) = labels.iter().find(|label| label.trim().is_empty() || !seen.insert(label.as_str())) {
            return Err(Error::unprocessable(format!("label {bad:?} is empty or there twice")));
        }
        Ok(Self(labels))
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

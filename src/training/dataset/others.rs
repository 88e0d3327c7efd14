//! What an upload is compared with: of each other split of its dataset what tells rows and labels apart, not the rows themselves.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Example, Split};

/// Another split of the same dataset: eight bytes for each of its rows.
#[derive(Clone, Debug)]
pub struct OtherSplit {
    pub(super) name: String,
    /// In order.
    fingerprints: Vec<u64>,
    pub(super) labels: HashSet<String>,
    pub(super) multi_label: bool,
}

/// The other splits of the same dataset, for leakage checks.
pub type OtherSplits<'a> = &'a [OtherSplit];

impl OtherSplit {
    /// `split`, which may be dropped.
    pub fn of(name: &str, split: &Split) -> Self {
        let mut labels: HashSet<String> = HashSet::new();
        for label in split.examples.iter().flat_map(Example::labels) {
            if !labels.contains(label) {
                labels.insert(label.to_owned());
            }
        }
        let mut fingerprints: Vec<u64> = split.examples.iter().map(fingerprint).collect();
        fingerprints.sort_unstable();
        Self { name: name.to_owned(), fingerprints, labels, multi_label: split.multi_label }
    }

    /// Whether some row of it reads as the one with this fingerprint.
    pub(super) fn has(&self, fingerprint: u64) -> bool {
        self.fingerprints.binary_search(&fingerprint).is_ok()
    }
}

/// Of what a model reads, without the answer. 64 bits: a false alarm needs billions of rows, and is a warning.
pub(super) fn fingerprint(example: &Example) -> u64 {
    let mut hasher = DefaultHasher::new();
    match example {
        Example::Ner { words, .. } => words.hash(&mut hasher),
        Example::Classify { text, text_pair, .. } => {
            (text.trim(), text_pair.as_deref().map(str::trim)).hash(&mut hasher)
        }
        Example::Pair { a, b, .. } => (a.trim(), b.trim()).hash(&mut hasher),
    }
    hasher.finish()
}

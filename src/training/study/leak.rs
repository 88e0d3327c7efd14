//! Keeps texts that figures are reported on out of pre-finetuning: by the hash of every row's text, whatever its set or split is called.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::{Digest, Family, Result};
use crate::training::dataset::{Example, Split};
use crate::training::study::data::{order, read_split, wanted_split};
use crate::training::study::spec::Study;

/// Half of a SHA-256: two texts that differ never meet.
type TextHash = [u8; 16];

/// All texts of the sets that are evaluated, in every split there is.
#[derive(Debug, Default)]
pub struct Guard {
    /// Hash → the first set that has the text.
    texts: HashMap<TextHash, String>,
}

/// A set of the pool after the guard saw it.
#[derive(Clone, Debug)]
pub struct Cleared {
    pub name: String,
    pub weight: f64,
    pub split: Split,
    /// Of the rows that are left.
    pub digest: Digest,
}

/// What the guard did to a set of the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clearance {
    pub family: String,
    pub set: String,
    /// In the set's `train`.
    pub rows: usize,
    /// Rows that were dropped, by the evaluated set that has the text.
    pub dropped: BTreeMap<String, usize>,
    /// What is left under the cap.
    pub kept: usize,
}

impl Guard {
    /// Of every set that `study` evaluates.
    pub fn read(study: &Study, data: &Path) -> Result<Self> {
        let mut guard = Self::default();
        for (family, set) in evaluated(study) {
            for split in ["train", "dev", "test"] {
                let rows = read_split(data, family.as_str(), set, split)?;
                rows.iter().flat_map(|rows| &rows.examples).for_each(|row| guard.add(set, row));
            }
        }
        Ok(guard)
    }

    pub fn add(&mut self, set: &str, row: &Example) {
        for hash in hashes(row) {
            self.texts.entry(hash).or_insert_with(|| set.to_owned());
        }
    }

    /// The evaluated set that has a text of `row`.
    pub fn owner(&self, row: &Example) -> Option<&str> {
        hashes(row).into_iter().find_map(|hash| self.texts.get(&hash)).map(String::as_str)
    }

    /// `split` without rows that have a text of an evaluated set, at most `rows_max` of them: the first in an order of hashes.
    pub fn clear(&self, family: &str, set: &str, split: Split, rows_max: usize) -> (Split, Clearance) {
        let mut clearance = Clearance {
            family: family.to_owned(),
            set: set.to_owned(),
            rows: split.examples.len(),
            ..Clearance::default()
        };
        let is_clear = |row: &Example| match self.owner(row) {
            None => true,
            Some(owner) => {
                *clearance.dropped.entry(owner.to_owned()).or_default() += 1;
                false
            }
        };
        let clear: Vec<Example> = split.examples.into_iter().filter(is_clear).collect();
        let mut first = order(clear.iter(), 0);
        first.truncate(rows_max);
        first.sort_unstable();
        clearance.kept = first.len();
        let examples = first.into_iter().map(|row| clear[row].clone()).collect();
        (Split { examples, multi_label: split.multi_label }, clearance)
    }
}

/// The pool of `family`, cleared: `train` splits alone.
pub fn cleared_pool(
    study: &Study,
    guard: &Guard,
    family: Family,
    data: &Path,
) -> Result<(Vec<Cleared>, Vec<Clearance>)> {
    let sets = study.pool.of(family).map(|(folder, entry)| {
        let split = wanted_split(data, folder, entry.set(), "train")?;
        let (split, clearance) = guard.clear(folder, entry.set(), split, study.pool.rows_max);
        let digest = Digest::from_sha256(&Sha256::digest(split.to_jsonl()).into());
        Ok((Cleared { name: entry.set().to_owned(), weight: entry.weight(), split, digest }, clearance))
    });
    Ok(sets.collect::<Result<Vec<_>>>()?.into_iter().unzip())
}

fn evaluated(study: &Study) -> Vec<(Family, &str)> {
    let mut sets: Vec<(Family, &str)> = study.downstream.iter().map(|set| (set.family, &*set.set)).collect();
    for zero in &study.zero_shot {
        if !sets.contains(&(zero.family, &zero.set)) {
            sets.push((zero.family, &zero.set));
        }
    }
    sets
}

/// Of each text of a row; a text without letters or digits says nothing and has none.
fn hashes(row: &Example) -> Vec<TextHash> {
    let texts = match row {
        Example::Ner { words, .. } => vec![words.join(" ")],
        Example::Classify { text, text_pair, .. } => std::iter::once(text).chain(text_pair).cloned().collect(),
        Example::Pair { a, b, .. } => vec![a.clone(), b.clone()],
    };
    let normal = texts.iter().map(|text| normal(text)).filter(|text| !text.is_empty());
    normal.map(|text| half(&Sha256::digest(text).into())).collect()
}

fn half(digest: &[u8; 32]) -> TextHash {
    std::array::from_fn(|at| digest[at])
}

/// Letters and digits in lower case alone: one text, however it was cut into words.
fn normal(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: &str) -> Example {
        Example::Classify { text: text.to_owned(), text_pair: None, labels: vec!["a".to_owned()] }
    }

    fn sentence(text: &str) -> Example {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Example::Ner { tags: vec!["O".to_owned(); words.len()], words }
    }

    fn pair(a: &str, b: &str) -> Example {
        Example::Pair { a: a.to_owned(), b: b.to_owned(), label: None, score: None }
    }

    fn guard() -> Guard {
        let mut guard = Guard::default();
        guard.add("slots", &sentence("Play it , Sam 's song !"));
        guard.add("intents", &class("What's the weather?"));
        guard.add("intents", &class("🙂"));
        guard
    }

    #[test]
    fn a_text_is_known_however_it_is_cut_cased_or_punctuated() {
        for (row, expected) in [
            (class("play it, Sam's song"), Some("slots")),
            (sentence("what 's the weather"), Some("intents")),
            (pair("nothing", "WHATS THE WEATHER"), Some("intents")),
            (pair("play it Sams song", "nothing"), Some("slots")),
            (class("play it, Tom's song"), None),
            (class("🙃"), None),
            (class(""), None),
        ] {
            assert_eq!(guard().owner(&row), expected, "{row:?}");
        }
    }

    #[test]
    fn what_is_dropped_is_counted_by_the_set_it_is_from() {
        let rows =
            vec![class("new"), class("What's the weather"), class("play it sams song"), class("what s the weather")];
        let (split, clearance) = guard().clear("classify", "pool", Split { examples: rows, multi_label: false }, 10);
        assert_eq!(split.examples, [class("new")]);
        let dropped = [("intents".to_owned(), 2), ("slots".to_owned(), 1)].into();
        let (family, set) = ("classify".to_owned(), "pool".to_owned());
        assert_eq!(clearance, Clearance { family, set, rows: 4, dropped, kept: 1 });
    }

    #[test]
    fn the_cap_keeps_the_same_rows_in_the_files_order() {
        let rows: Vec<Example> = (0..100).map(|at| class(&format!("row {at}"))).collect();
        let clear =
            || guard().clear("classify", "pool", Split { examples: rows.clone(), multi_label: false }, 30).0.examples;
        let kept = clear();
        assert_eq!((kept.len(), &kept), (30, &clear()));
        let places: Vec<_> = kept.iter().map(|row| rows.iter().position(|other| other == row)).collect();
        assert!(places.is_sorted());
    }
}

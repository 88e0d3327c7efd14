//! The data folder: `FAMILY/SET/SPLIT.jsonl.gz`, and which of a downstream set's splits trains, validates and tests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::domain::{Cancel, Digest, Error, Result};
use crate::training::dataset::{DatasetFamily, Example, Split, read_stored};
use crate::training::study::spec::{Caps, Downstream};

/// One row in so many validates where the set has no test split of its own.
const HELD_OUT_EVERY: u64 = 10;

/// A downstream set, parted. Rows are in the file's order; the first `caps.test_rows` in an order of hashes test.
#[derive(Clone, Debug)]
pub struct Parted {
    pub train: Vec<Example>,
    pub validation: Vec<Example>,
    pub test: Vec<Example>,
    /// The split whose rows test.
    pub test_split: &'static str,
    /// Rows of that split before the cap.
    pub test_rows_all: usize,
    /// Of all rows in their parts.
    pub digest: Digest,
}

/// Where a split is kept.
fn split_path(data: &Path, folder: &str, set: &str, split: &str) -> PathBuf {
    data.join(folder).join(set).join(format!("{split}.jsonl.gz"))
}

/// All rows of a split; None where the set has no such split.
pub fn read_split(data: &Path, folder: &str, set: &str, split: &str) -> Result<Option<Split>> {
    let path = split_path(data, folder, set, split);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let rows = read_stored(folder.parse::<DatasetFamily>()?, &bytes, &Cancel::default());
            rows.map(Some).map_err(|error| error.context(path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(path.display())),
    }
}

/// The same where there must be one.
pub fn wanted_split(data: &Path, folder: &str, set: &str, split: &str) -> Result<Split> {
    let missing = || Error::invalid(format!("{} is not there", split_path(data, folder, set, split).display()));
    read_split(data, folder, set, split)?.ok_or_else(missing)
}

impl Parted {
    /// `dev` validates and `test` tests; a set without `test` is tested on `dev` and validated on a tenth of `train`, by hash.
    pub fn read(data: &Path, set: &Downstream, caps: &Caps) -> Result<Self> {
        let folder = set.family.as_str();
        let train = wanted_split(data, folder, &set.set, "train")?.examples;
        let dev = wanted_split(data, folder, &set.set, "dev")?.examples;
        let test = read_split(data, folder, &set.set, "test")?.map(|test| test.examples);
        Ok(Self::part(train, dev, test, caps))
    }

    pub fn part(train: Vec<Example>, dev: Vec<Example>, test: Option<Vec<Example>>, caps: &Caps) -> Self {
        let (train, validation, test, test_split) = match test {
            Some(test) => (train, dev, test, "test"),
            None => {
                let (held, kept) =
                    train.into_iter().partition(|row| hash(0, &text_of(row)).is_multiple_of(HELD_OUT_EVERY));
                (kept, held, dev, "dev")
            }
        };
        let test_rows_all = test.len();
        let mut first = order(test.iter(), 0);
        first.truncate(caps.test_rows);
        first.sort_unstable();
        let test: Vec<Example> = first.into_iter().map(|row| test[row].clone()).collect();
        let digest = digest_of([&train, &validation, &test]);
        Self { train, validation, test, test_split, test_rows_all, digest }
    }
}

/// 0..rows in an order that only the rows' texts and `seed` decide; equal texts keep the file's order.
pub(super) fn order<'a>(rows: impl Iterator<Item = &'a Example>, seed: u64) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> = rows.enumerate().map(|(at, row)| (hash(seed, &text_of(row)), at)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, at)| at).collect()
}

/// What a row's model reads.
pub(super) fn text_of(row: &Example) -> String {
    match row {
        Example::Ner { words, .. } => words.join(" "),
        Example::Classify { text, text_pair: None, .. } => text.clone(),
        Example::Classify { text: a, text_pair: Some(b), .. } | Example::Pair { a, b, .. } => format!("{a}\n{b}"),
    }
}

fn hash(seed: u64, text: &str) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    hasher.update(text);
    let bytes = hasher.finalize();
    u64::from_le_bytes(std::array::from_fn(|at| bytes[at]))
}

fn digest_of(parts: [&Vec<Example>; 3]) -> Digest {
    let mut hasher = Sha256::new();
    let mut line = String::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        for row in part {
            line.clear();
            // a Debug form quotes its strings, so no two rows read alike
            let _ = writeln!(line, "{row:?}");
            hasher.update(&line);
        }
    }
    Digest::from_sha256(&hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, count: usize) -> Vec<Example> {
        let row =
            |at| Example::Classify { text: format!("{name} {at}"), text_pair: None, labels: vec!["a".to_owned()] };
        (0..count).map(row).collect()
    }

    fn caps(test_rows: usize) -> Caps {
        Caps { test_rows, ..Caps::default() }
    }

    #[test]
    fn a_set_with_a_test_split_is_parted_as_it_comes() {
        let parted = Parted::part(rows("train", 50), rows("dev", 7), Some(rows("test", 9)), &caps(100));
        let counts = (parted.train.len(), parted.validation.len(), parted.test.len(), parted.test_split);
        assert_eq!(counts, (50, 7, 9, "test"));
        assert_eq!(parted.test, rows("test", 9));
    }

    #[test]
    fn a_set_without_one_is_tested_on_dev_and_validated_on_some_of_train() {
        let parted = Parted::part(rows("train", 1000), rows("dev", 7), None, &caps(100));
        assert_eq!((parted.test, parted.test_split), (rows("dev", 7), "dev"));
        assert_eq!(parted.train.len() + parted.validation.len(), 1000);
        assert!((60..140).contains(&parted.validation.len()), "{}", parted.validation.len());
        assert!(parted.validation.iter().all(|row| !parted.train.contains(row)));
    }

    #[test]
    fn capped_test_rows_are_always_the_same_ones() {
        let few = |test: Vec<Example>| Parted::part(rows("train", 5), rows("dev", 5), Some(test), &caps(20)).test;
        let (forwards, mut backwards) = (few(rows("test", 100)), few(rows("test", 100).into_iter().rev().collect()));
        backwards.reverse();
        assert_eq!(forwards.len(), 20);
        assert_eq!(forwards, backwards);
        assert_ne!(forwards, rows("test", 20));
    }
}

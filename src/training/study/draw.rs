//! Which rows a cell trains and validates on: a function of the set, the share and the seed, so every arm has the same. Pure.

use std::collections::HashMap;

use crate::training::dataset::{Example, Split};
use crate::training::study::data::{Parted, order};
use crate::training::study::spec::{Caps, Share};

/// Fewer rows are no share of anything.
const ROWS_MIN: usize = 8;

/// The rows of one share.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    pub train: Split,
    pub validation: Split,
}

/// A percentage is of all training rows, then capped; shares of one seed are nested. Shots are taken greedily: a row that holds a
/// class or a type of which there are too few yet is taken, so a row of several types may bring more of one than asked for.
pub fn draw(parted: &Parted, share: Share, seed: u64, caps: &Caps) -> Drawn {
    let rows = &parted.train;
    let order = order(rows.iter(), seed);
    let (chosen, validation_rows) = match share {
        Share::Percent(percent) => {
            let count = (rows.len() * percent).div_ceil(100).max(ROWS_MIN);
            (order.into_iter().take(count.min(caps.train_rows)).collect(), caps.validation_rows)
        }
        Share::Shots(shots) => (greedy(rows, order, shots), caps.shot_validation_rows),
    };
    let mut first = self::order(parted.validation.iter(), seed);
    first.truncate(validation_rows);
    Drawn { train: split(rows, &chosen), validation: split(&parted.validation, &first) }
}

fn greedy(rows: &[Example], order: Vec<usize>, shots: usize) -> Vec<usize> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut is_wanted = |row: &usize| {
        let labels: Vec<&str> = rows[*row].labels().collect();
        let wanted = labels.iter().any(|label| counts.get(label).is_none_or(|&count| count < shots));
        if wanted {
            labels.into_iter().for_each(|label| *counts.entry(label).or_default() += 1);
        }
        wanted
    };
    order.into_iter().filter(|row| is_wanted(row)).collect()
}

fn split(rows: &[Example], chosen: &[usize]) -> Split {
    Split { examples: chosen.iter().map(|&row| rows[row].clone()).collect(), multi_label: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: usize, label: usize) -> Example {
        Example::Classify { text: format!("text {text}"), text_pair: None, labels: vec![format!("class {label}")] }
    }

    fn sentence(at: usize, types: &[&str]) -> Example {
        let words = (0..=types.len()).map(|word| format!("w{at} {word}")).collect();
        let tags = types.iter().map(|name| format!("B-{name}")).chain(["O".to_owned()]).collect();
        Example::Ner { words, tags }
    }

    fn parted(train: Vec<Example>) -> Parted {
        let dev = (0..300).map(|at| class(10_000 + at, at % 4)).collect();
        Parted::part(train, dev, Some(vec![class(20_000, 0)]), &Caps::default())
    }

    #[test]
    fn a_draw_is_repeated_by_its_seed_and_smaller_shares_are_inside_larger_ones() {
        let set = parted((0..5000).map(|at| class(at, at % 4)).collect());
        let drawn = |percent, seed| draw(&set, Share::Percent(percent), seed, &Caps::default());
        assert_eq!(drawn(10, 1), drawn(10, 1));
        assert_ne!(drawn(10, 1).train, drawn(10, 2).train);
        for (percent, rows) in [(1, 50), (10, 500), (30, 1500), (100, 2000)] {
            let drawn = drawn(percent, 3);
            assert_eq!((drawn.train.examples.len(), drawn.validation.examples.len()), (rows, 200), "{percent} %");
        }
        let (few, many) = (drawn(10, 3).train.examples, drawn(100, 3).train.examples);
        assert_eq!(few, many[..few.len()]);
    }

    #[test]
    fn tiny_sets_still_give_rows() {
        let set = parted((0..30).map(|at| class(at, at % 2)).collect());
        assert_eq!(draw(&set, Share::Percent(10), 1, &Caps::default()).train.examples.len(), 8);
    }

    #[test]
    fn shots_are_examples_of_each_class() {
        let set = parted((0..400).map(|at| class(at, at % 4)).chain([class(999, 7)]).collect());
        let drawn = draw(&set, Share::Shots(8), 1, &Caps::default());
        let count = |label: &str| drawn.train.examples.iter().filter(|row| row.labels().any(|l| l == label)).count();
        assert_eq!(["class 0", "class 1", "class 2", "class 3", "class 7"].map(count), [8, 8, 8, 8, 1]);
        assert_eq!(drawn.validation.examples.len(), 64);
    }

    #[test]
    fn shots_are_mentions_of_each_type_and_no_row_is_taken_for_nothing() {
        let rows = (0..300).map(|at| match at % 10 {
            0 => sentence(at, &["rare", "common"]),
            1..5 => sentence(at, &["common", "common"]),
            _ => sentence(at, &[]),
        });
        let set = parted(rows.collect());
        let drawn = draw(&set, Share::Shots(3), 5, &Caps::default()).train.examples;
        let count = |name: &str| drawn.iter().flat_map(Example::labels).filter(|label| *label == name).count();
        assert_eq!(count("rare"), 3);
        assert!((3..=8).contains(&count("common")), "{}", count("common"));
        assert!(drawn.iter().all(|row| row.labels().next().is_some()));
    }
}

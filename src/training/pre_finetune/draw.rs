//! Which rows make a step's two micro-batches: a function of data, seed, family and step alone, so every strategy sees the same.

use std::collections::BTreeSet;

use rand::seq::{SliceRandom, index};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::domain::PreFinetuneHyperparameters;
use crate::training::batches::{Draw, seed_of};
use crate::training::pre_finetune::pool::{ClassTexts, NerPool, TextKind, TextSet};

/// NER rows that come from one set together: their types are encoded once for all of them.
const ROWS_OF_A_SET: usize = 8;

/// How often each set is drawn, as running sums.
pub(super) struct Shares(Vec<f64>);

impl Shares {
    /// From each set's weight and rows.
    pub(super) fn new(sets: impl Iterator<Item = (f64, usize)>, exponent: f64) -> Self {
        let sums = sets.scan(0.0, |sum, (weight, rows)| {
            *sum += weight * (rows.max(1) as f64).powf(exponent);
            Some(*sum)
        });
        Self(sums.collect())
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        let at = rng.random::<f64>() * self.0.last().copied().unwrap_or(0.0);
        self.0.partition_point(|&sum| sum <= at).min(self.0.len().saturating_sub(1))
    }
}

/// (set, row) of each NER row, those of a set side by side.
pub(super) fn ner_rows(
    pool: &NerPool,
    shares: &Shares,
    asked: &PreFinetuneHyperparameters,
    step: u64,
) -> Vec<(usize, usize)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed_of(asked.seed, Draw::NerRows, [step, 0]));
    let mut rows = Vec::with_capacity(asked.batch_size);
    while rows.len() < asked.batch_size {
        let set = shares.draw(&mut rng);
        let of_set = pool.sets[set].rows.len();
        let count = ROWS_OF_A_SET.min(asked.batch_size - rows.len()).min(of_set);
        rows.extend(index::sample(&mut rng, of_set, count).into_iter().map(|row| (set, row)));
    }
    rows
}

/// The concepts that a batch is compared with: those its tokens have, then other types of its sets, at most `max`, shuffled.
pub(super) fn concepts(
    present: &BTreeSet<usize>,
    of_sets: &BTreeSet<usize>,
    max: usize,
    seed: u64,
    step: u64,
) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed_of(seed, Draw::Concepts, [step, 0]));
    let mut chosen: Vec<usize> = present.iter().copied().collect();
    let mut others: Vec<usize> = of_sets.difference(present).copied().collect();
    chosen.shuffle(&mut rng);
    others.shuffle(&mut rng);
    chosen.extend(others);
    chosen.truncate(max.max(1));
    chosen.shuffle(&mut rng);
    chosen
}

/// Pairs of texts that belong together.
pub(super) struct TextBatch<'a> {
    pub a: Vec<&'a str>,
    pub b: Vec<&'a str>,
    /// The set and its class of each pair, where the set has classes.
    pub classes: Vec<Option<(usize, usize)>>,
}

impl TextBatch<'_> {
    /// Whether pair `j` is no negative for pair `i`: the same class, or a text of both.
    pub(super) fn belong_together(&self, i: usize, j: usize) -> bool {
        let same_class = self.classes[i].is_some() && self.classes[i] == self.classes[j];
        same_class
            || self.a[i] == self.a[j]
            || self.b[i] == self.b[j]
            || self.a[i] == self.b[j]
            || self.b[i] == self.a[j]
    }
}

/// All of one set if it reaches that far, so that negatives are near; a set of few classes is left after some pairs of each, lest
/// texts learn nothing but which of two classes they are of.
pub(super) fn text_pairs<'a>(
    sets: &'a [TextSet],
    shares: &Shares,
    asked: &PreFinetuneHyperparameters,
    step: u64,
) -> TextBatch<'a> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed_of(asked.seed, Draw::Pairs, [step, 0]));
    let mut batch = TextBatch { a: Vec::new(), b: Vec::new(), classes: Vec::new() };
    // sets smaller than a batch are drawn again; a mix of nothing but tiny ones gives a smaller batch
    for _ in 0..asked.batch_size {
        let left = asked.batch_size - batch.a.len();
        if left == 0 {
            break;
        }
        let set = shares.draw(&mut rng);
        match &sets[set].kind {
            TextKind::Pairs(pairs) => {
                for row in index::sample(&mut rng, pairs.len(), left.min(pairs.len())) {
                    batch.push(&pairs[row].0, &pairs[row].1, None);
                }
            }
            TextKind::Classes(classes) => batch.add_classes((set, classes), left, asked, &mut rng),
        }
    }
    batch
}

impl<'a> TextBatch<'a> {
    fn push(&mut self, a: &'a str, b: &'a str, class: Option<(usize, usize)>) {
        self.a.push(a);
        self.b.push(b);
        self.classes.push(class);
    }

    /// At most `left` pairs, each of a class that is drawn evenly: rare classes teach as much as common ones.
    fn add_classes(
        &mut self,
        (set, classes): (usize, &'a [ClassTexts]),
        left: usize,
        asked: &PreFinetuneHyperparameters,
        rng: &mut ChaCha8Rng,
    ) {
        let by_name = rng.random::<f64>() < asked.label_name_share;
        let mut order: Vec<usize> = (0..classes.len()).collect();
        for place in 0..left.min(asked.class_pairs_max * classes.len()) {
            if place % classes.len() == 0 {
                order.shuffle(rng);
            }
            let class = order[place % classes.len()];
            let ClassTexts { name, texts } = &classes[class];
            let two = index::sample(rng, texts.len(), 2);
            let partner = if by_name { name } else { &texts[two.index(1)] };
            self.push(&texts[two.index(0)], partner, Some((set, class)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::dataset::Example;
    use crate::training::pre_finetune::pool::NerSet;

    fn asked() -> PreFinetuneHyperparameters {
        PreFinetuneHyperparameters { batch_size: 20, ..PreFinetuneHyperparameters::default() }
    }

    fn ner_pool(rows: &[usize]) -> NerPool {
        let row = Example::Ner { words: vec!["w".to_owned()], tags: vec!["O".to_owned()] };
        let set = |&rows: &usize| NerSet { weight: 1.0, rows: vec![row.clone(); rows], concepts: Default::default() };
        NerPool { sets: rows.iter().map(set).collect(), concepts: Vec::new() }
    }

    #[test]
    fn a_step_has_its_own_rows_and_always_the_same() {
        let pool = ner_pool(&[500, 5, 90]);
        let shares = Shares::new(pool.sets.iter().map(|set| (set.weight, set.rows.len())), 0.5);
        let rows = |step| ner_rows(&pool, &shares, &asked(), step);
        assert_eq!(rows(3), rows(3));
        assert_ne!(rows(3), rows(4));
        for step in 0..50 {
            assert_eq!(rows(step).len(), 20);
            assert!(rows(step).iter().all(|&(set, row)| row < pool.sets[set].rows.len()));
        }
    }

    #[test]
    fn sets_are_drawn_by_weight_and_by_a_power_of_their_size() {
        let shares = Shares::new([(1.0, 100), (1.0, 10_000), (2.0, 100)].into_iter(), 0.5);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0usize; 3];
        (0..13_000).for_each(|_| counts[shares.draw(&mut rng)] += 1);
        for (count, expected) in counts.into_iter().zip([1000.0, 10_000.0, 2000.0]) {
            assert!((count as f64 - expected).abs() < 0.1 * expected, "{counts:?}");
        }
    }

    #[test]
    fn concepts_that_are_there_come_before_those_that_are_not() {
        let set = |numbers: &[usize]| numbers.iter().copied().collect::<BTreeSet<_>>();
        let chosen = |max| concepts(&set(&[3, 5]), &set(&[1, 2, 3, 4, 5, 6]), max, 7, 0);
        let mut all = chosen(99);
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 5, 6]);
        assert_eq!(set(&chosen(2)), set(&[3, 5]));
        assert_eq!(chosen(4).len(), 4);
        assert!(set(&chosen(4)).is_superset(&set(&[3, 5])));
    }

    #[test]
    fn pairs_of_classes_share_the_class_and_sometimes_name_it() {
        let class = |name: &str| ClassTexts {
            name: name.to_owned(),
            texts: (0..9).map(|text| format!("{name} {text}")).collect(),
        };
        let sets = [TextSet { weight: 1.0, kind: TextKind::Classes(vec![class("red"), class("blue")]) }];
        let shares = Shares::new([(1.0, 18)].into_iter(), 0.5);
        // one draw fills the batch: it is named or it is not
        let asked = PreFinetuneHyperparameters { class_pairs_max: 10, ..asked() };
        let mut named = 0;
        for step in 0..200 {
            let batch = text_pairs(&sets, &shares, &asked, step);
            assert_eq!((batch.a.len(), batch.b.len()), (20, 20));
            for (a, b) in batch.a.iter().zip(&batch.b) {
                assert!(a != b && a.split(' ').next() == b.split(' ').next(), "{a} and {b}");
            }
            named += usize::from(batch.b.contains(&"red") || batch.b.contains(&"blue"));
        }
        assert!((30..90).contains(&named), "{named} of 200");
    }

    #[test]
    fn a_set_of_few_classes_does_not_fill_a_batch() {
        let class = |name: String| ClassTexts { texts: (0..9).map(|text| format!("{name} {text}")).collect(), name };
        let set = |name: &str, classes: usize| TextSet {
            weight: 1.0,
            kind: TextKind::Classes((0..classes).map(|at| class(format!("{name}{at}"))).collect()),
        };
        let sets = [set("few", 2), set("many", 40)];
        let shares = Shares::new([(1.0, 18), (1.0, 18)].into_iter(), 0.5);
        let mut mixed = 0;
        for step in 0..50 {
            let batch = text_pairs(&sets, &shares, &asked(), step);
            assert_eq!(batch.a.len(), 20);
            let few = batch.classes.iter().flatten().filter(|(set, _)| *set == 0).count();
            mixed += usize::from(few > 0 && few < 20);
            let of = |wanted| batch.classes.iter().filter(|class| **class == Some(wanted)).count();
            if few == 0 {
                assert!((0..40).all(|class| of((1, class)) < 2), "classes come once as long as they last");
            }
        }
        assert!(mixed > 10, "{mixed} of 50");
    }

    #[test]
    fn what_says_the_same_is_no_negative() {
        let batch = TextBatch {
            a: vec!["x", "y", "x", "z"],
            b: vec!["p", "q", "r", "y"],
            classes: vec![None, None, Some((0, 1)), Some((0, 1))],
        };
        let check = |i, j, expected| assert_eq!(batch.belong_together(i, j), expected, "{i} and {j}");
        check(0, 1, false);
        check(0, 2, true);
        check(2, 3, true);
        check(1, 3, true);
        check(0, 3, false);
    }
}

//! Rows to figures: by set, averaged over sets, and the differences between two arms. Only what all arms have done counts in a comparison.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::Family;
use crate::training::study::row::Row;
use crate::training::study::spec::{Arm, ArmStrategy, Share, Study};
use crate::training::study::statistics::{Difference, Paired, RESAMPLES, difference, mean_and_spread};

/// One family at one share, whose cells are finished by every arm that serves the family.
pub(super) struct Slice<'a> {
    pub family: Family,
    pub share: Share,
    /// Arms that serve the family, in the study's order.
    pub arms: Vec<&'a Arm>,
    /// By set, then by arm: the rows of the seeds that all arms have, by seed.
    pub sets: BTreeMap<&'a str, BTreeMap<&'a str, Vec<&'a Row>>>,
}

/// Every family and share that the study asks for and has a set of.
pub(super) fn slices<'a>(study: &'a Study, rows: &'a [Row]) -> Vec<Slice<'a>> {
    let of = |family| study.shares.iter().map(move |&share| Slice::new(study, rows, family, share));
    let slices = [Family::Ner, Family::Classify].into_iter().flat_map(of);
    slices.filter(|slice| !slice.sets.is_empty()).collect()
}

impl<'a> Slice<'a> {
    fn new(study: &'a Study, rows: &'a [Row], family: Family, share: Share) -> Self {
        let arms: Vec<&Arm> = study.arms.iter().filter(|arm| arm.strategy.serves(family)).collect();
        let mut by_set: BTreeMap<&str, BTreeMap<u64, BTreeMap<&str, &Row>>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.is_of(family) && row.share == share) {
            by_set.entry(&row.set).or_default().entry(row.seed).or_default().insert(&row.arm, row);
        }
        let mut sets: BTreeMap<&str, BTreeMap<&str, Vec<&Row>>> = BTreeMap::new();
        for (set, seeds) in by_set {
            for of_seed in seeds.values().filter(|of_seed| arms.iter().all(|arm| of_seed.contains_key(&*arm.name))) {
                for arm in &arms {
                    sets.entry(set).or_default().entry(&arm.name).or_default().push(of_seed[&*arm.name]);
                }
            }
        }
        Self { family, share, arms, sets }
    }

    /// Mean and spread over seeds.
    pub(super) fn score(&self, set: &str, arm: &str) -> Option<(f64, Option<f64>)> {
        mean_and_spread(&scores(self.sets.get(set)?.get(arm)?))
    }

    /// The mean over sets of the means over seeds, and the spread over seeds of the means over sets that every seed has.
    pub(super) fn average(&self, arm: &str) -> Option<(f64, Option<f64>)> {
        let means: Vec<f64> = self.sets.keys().filter_map(|set| Some(self.score(set, arm)?.0)).collect();
        let (mean, _) = mean_and_spread(&means)?;
        let mut by_seed: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for row in self.sets.values().filter_map(|arms| arms.get(arm)).flatten() {
            by_seed.entry(row.seed).or_default().push(row.score);
        }
        let whole = by_seed.values().filter(|scores| scores.len() == self.sets.len());
        let of_seeds: Vec<f64> = whole.filter_map(|scores| Some(mean_and_spread(scores)?.0)).collect();
        Some((mean, mean_and_spread(&of_seeds).and_then(|(_, spread)| spread)))
    }

    /// `a − b` over all sets.
    pub(super) fn difference(&self, a: &str, b: &str) -> Option<Difference> {
        let outcomes = |rows: &Vec<&'a Row>| rows.iter().map(|row| &row.outcomes).collect::<Vec<_>>();
        let sets =
            self.sets.values().filter_map(|arms| Some(Paired { a: outcomes(arms.get(a)?), b: outcomes(arms.get(b)?) }));
        difference(&sets.collect::<Vec<_>>(), RESAMPLES)
    }

    /// Mean training rows of a set.
    pub(super) fn train_rows(&self) -> f64 {
        let rows: Vec<f64> =
            self.sets.values().flat_map(BTreeMap::values).flatten().map(|row| row.train_rows as f64).collect();
        mean_and_spread(&rows).map_or(0.0, |(mean, _)| mean)
    }

    /// Seeds that every set has.
    pub(super) fn seeds(&self) -> usize {
        let of = |arms: &BTreeMap<&str, Vec<&Row>>| arms.values().map(Vec::len).min().unwrap_or(0);
        self.sets.values().map(of).min().unwrap_or(0)
    }
}

fn scores(rows: &[&Row]) -> Vec<f64> {
    rows.iter().map(|row| row.score).collect()
}

/// Which arms are compared: each with the first plain backbone, then the method with the family's first individual arm and with the
/// first joint one, and joint arms with the individual one.
pub(super) fn comparisons<'a>(arms: &[&'a Arm]) -> Vec<(&'a str, &'a str)> {
    let named = |of: fn(ArmStrategy) -> bool| arms.iter().filter(move |arm| of(arm.strategy)).map(|arm| &*arm.name);
    let none = |strategy| strategy == ArmStrategy::None;
    let joint = |strategy| strategy == ArmStrategy::Joint;
    let method = |strategy| strategy == ArmStrategy::TaskPrimary;
    let mut pairs = Vec::new();
    for (left, right) in [
        ((|strategy| strategy != ArmStrategy::None) as fn(ArmStrategy) -> bool, none as fn(ArmStrategy) -> bool),
        (method, ArmStrategy::is_individual),
        (method, joint),
        (joint, ArmStrategy::is_individual),
    ] {
        pairs.extend(named(right).take(1).flat_map(|b| named(left).map(move |a| (a, b))));
    }
    let mut seen = BTreeSet::new();
    pairs.retain(|pair| seen.insert(*pair));
    pairs
}

//! The cells of a study in the order they are run, and how long those that are left will take. Pure.

use std::collections::{BTreeMap, HashSet};

use crate::domain::Family;
use crate::training::study::row::Row;
use crate::training::study::spec::{Share, Study};

/// One fine-tuning and its evaluation. Numbers are places in the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub arm: usize,
    pub downstream: usize,
    pub share: Share,
    pub seed: u64,
}

impl Cell {
    /// `task_primary/ner/mit_movie/10%/1`.
    pub fn id(&self, study: &Study) -> String {
        let set = &study.downstream[self.downstream];
        format!("{}/{}/{}/{}/{}", study.arms[self.arm].name, set.family, set.set, self.share, self.seed)
    }
}

/// Every cell, so that a study that is cut off at any point compares like with like: seed by seed, share by share, the families
/// in turn, and all arms of a set side by side.
pub fn cells(study: &Study) -> Vec<Cell> {
    let order = families_in_turn(study);
    let mut cells = Vec::new();
    for &seed in &study.seeds {
        for &share in &study.shares {
            for &downstream in &order {
                let family = study.downstream[downstream].family;
                let arms = (0..study.arms.len()).filter(|&arm| study.arms[arm].strategy.serves(family));
                cells.extend(arms.map(|arm| Cell { arm, downstream, share, seed }));
            }
        }
    }
    cells
}

fn families_in_turn(study: &Study) -> Vec<usize> {
    let of = |family| (0..study.downstream.len()).filter(move |&at| study.downstream[at].family == family);
    let (mut ner, mut classify) = (of(Family::Ner), of(Family::Classify));
    let mut order = Vec::new();
    loop {
        match (ner.next(), classify.next()) {
            (None, None) => return order,
            (a, b) => order.extend(a.into_iter().chain(b)),
        }
    }
}

/// Those of `cells` that no row is of.
pub fn unfinished(study: &Study, cells: Vec<Cell>, rows: &[Row]) -> Vec<Cell> {
    let done: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    cells.into_iter().filter(|cell| !done.contains(cell.id(study).as_str())).collect()
}

/// Seconds that `left` will take on `threads` threads: a cell takes what others of its set and share took, else of its share, else
/// of any. None before there is a row.
pub fn seconds_left(study: &Study, left: &[Cell], rows: &[Row], threads: usize) -> Option<f64> {
    let mean = |of: &dyn Fn(&&Row) -> bool| {
        let seconds: Vec<f64> = rows.iter().filter(of).map(|row| row.seconds).collect();
        (!seconds.is_empty()).then(|| seconds.iter().sum::<f64>() / seconds.len() as f64)
    };
    let any = mean(&|_| true)?;
    let mut known: BTreeMap<(usize, Share), f64> = BTreeMap::new();
    let total: f64 = left
        .iter()
        .map(|cell| {
            *known.entry((cell.downstream, cell.share)).or_insert_with(|| {
                let set = &study.downstream[cell.downstream];
                let same_set =
                    mean(&|row| row.share == cell.share && row.set == set.set && row.family == set.family.as_str());
                same_set.or_else(|| mean(&|row| row.share == cell.share)).unwrap_or(any)
            })
        })
        .sum();
    Some(total / threads.max(1) as f64)
}

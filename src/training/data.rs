//! Which rows a run trains on, which measure it, and the labels of both.

use std::collections::HashMap;

use crate::domain::{Auto, Error, LabelSet, Result};
use crate::training::batches::deal;
use crate::training::collate::check_family;
use crate::training::dataset::Example;
use crate::training::fine_tune::FineTuneSetup;
use crate::training::labels::labels_of;

/// Of so many rows at the most, no part is large enough to measure anything and small enough to be spared: all are cross-validated.
const CROSS_VALIDATED_ROWS_MAX: usize = 300;

/// Each model of a cross-validation learns from three quarters of the rows, and the whole costs four runs more.
pub(super) const FOLDS: usize = 4;

/// One row of so many is held out of a larger set.
const HELD_OUT_SHARE: usize = 10;

/// Fewer rows choose among weights by luck: the weights of the last step are as good, and nothing hangs on a draw.
const JUDGE_ROWS_MIN: usize = 40;

/// The rows of a run, and their labels.
pub(super) struct Data {
    pub training: Vec<Example>,
    /// Empty where the training rows are cross-validated.
    pub validation: Vec<Example>,
    pub labels: LabelSet,
    /// The fold of each training row, where they are cross-validated.
    folds: Option<Vec<usize>>,
}

impl Data {
    /// Takes the rows out of `setup`: there may be many.
    pub(super) fn take(setup: &mut FineTuneSetup) -> Result<Self> {
        let splits = [Some(&setup.train), setup.validation.as_ref(), setup.test.as_ref()];
        for split in splits.into_iter().flatten() {
            check_family(&split.examples, setup.spec.family)?;
        }
        let labels = labels_of(&setup.train, setup.spec.family);
        let all = std::mem::take(&mut setup.train.examples);
        let seed = setup.spec.hyperparameters.seed;
        let (training, validation, folds) = match &mut setup.validation {
            Some(validation) => (all, std::mem::take(&mut validation.examples), None),
            None if all.len() <= CROSS_VALIDATED_ROWS_MAX => {
                let folds = deal(&strata(&all), FOLDS, seed);
                (all, Vec::new(), Some(folds))
            }
            None => {
                let (training, validation) = hold_out(all, seed);
                (training, validation, None)
            }
        };
        if folds.is_some() && training.len() < FOLDS {
            let rows = training.len();
            return Err(Error::unprocessable(format!("{rows} rows; at least {FOLDS} are wanted to cross-validate")));
        }
        if folds.is_none() && (training.is_empty() || validation.is_empty()) {
            let counts = format!("{} rows to train on and {} to validate on", training.len(), validation.len());
            return Err(Error::unprocessable(format!("{counts}; at least one of each is wanted")));
        }
        let labels = labels?;
        let labels = match &setup.init {
            Some(init) if labels.iter().all(|label| init.labels.index_of(label).is_some()) => init.labels.clone(),
            _ => labels,
        };
        Ok(Self { training, validation, labels, folds })
    }

    pub(super) fn is_cross_validated(&self) -> bool {
        self.folds.is_some()
    }

    /// Whether the validation rows choose the weights that are kept, and when to stop.
    pub(super) fn judges(&self, patience: Auto<u32>) -> bool {
        let is_asked_for = matches!(patience, Auto::Set(epochs) if epochs > 0);
        !self.validation.is_empty() && (self.validation.len() >= JUDGE_ROWS_MIN || is_asked_for)
    }

    /// The rows of `fold` to validate on, the others to train on, and where the former are among all.
    pub(super) fn fold(&self, fold: usize) -> (Self, Vec<usize>) {
        let of = |row: usize| self.folds.as_ref().and_then(|folds| folds.get(row)).copied();
        let (held, kept): (Vec<usize>, Vec<usize>) = (0..self.training.len()).partition(|&row| of(row) == Some(fold));
        let rows = |which: &[usize]| which.iter().map(|&row| self.training[row].clone()).collect();
        let data = Self { training: rows(&kept), validation: rows(&held), labels: self.labels.clone(), folds: None };
        (data, held)
    }
}

/// The rows that stay, and one in [`HELD_OUT_SHARE`] of each label's. A label's only row stays: the model has no other to learn it from.
fn hold_out(rows: Vec<Example>, seed: u64) -> (Vec<Example>, Vec<Example>) {
    let strata = strata(&rows);
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    strata.iter().for_each(|stratum| *sizes.entry(stratum).or_default() += 1);
    let fold_of = deal(&strata, HELD_OUT_SHARE, seed);
    let is_held = |row: usize| fold_of[row] == 0 && sizes[&*strata[row]] > 1;
    let numbered = rows.into_iter().enumerate();
    let (held, kept): (Vec<_>, Vec<_>) = numbered.partition(|(row, _)| is_held(*row));
    let rows = |numbered: Vec<(usize, Example)>| numbered.into_iter().map(|(_, example)| example).collect();
    (rows(kept), rows(held))
}

/// What each row is dealt out by: the rarest of its labels, which the folds can least do without; empty for a row without any.
fn strata(rows: &[Example]) -> Vec<String> {
    let mut frequency: HashMap<&str, usize> = HashMap::new();
    rows.iter().flat_map(Example::labels).for_each(|label| *frequency.entry(label).or_default() += 1);
    let rarest = |example: &Example| {
        example.labels().min_by_key(|&label| (frequency[label], label)).unwrap_or_default().to_owned()
    };
    rows.iter().map(rarest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(classes: &[(&str, usize)]) -> Vec<Example> {
        let row = |label: &str, at: usize| Example::Classify {
            text: format!("{label} {at}"),
            text_pair: None,
            labels: vec![label.to_owned()],
        };
        classes.iter().flat_map(|&(label, count)| (0..count).map(move |at| row(label, at))).collect()
    }

    fn count(rows: &[Example], wanted: &str) -> usize {
        rows.iter().flat_map(Example::labels).filter(|label| *label == wanted).count()
    }

    #[test]
    fn a_tenth_of_every_label_is_held_out_but_never_its_only_row() {
        for seed in 0..20 {
            let (kept, held) = hold_out(rows(&[("rare", 10), ("often", 500), ("once", 1)]), seed);
            assert_eq!((count(&held, "rare"), count(&held, "once"), count(&kept, "once")), (1, 0, 1), "seed {seed}");
            assert!((50..=51).contains(&count(&held, "often")), "seed {seed}");
        }
    }

    #[test]
    fn a_row_stands_for_its_rarest_label() {
        let tagged = |tags: &[&str]| Example::Ner {
            words: vec!["w".to_owned(); tags.len()],
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        };
        let rows = [tagged(&["B-PER", "B-ORG"]), tagged(&["B-PER", "O"]), tagged(&["O", "O"])];
        assert_eq!(strata(&rows), ["ORG", "PER", ""]);
    }

    #[test]
    fn the_folds_are_all_rows_once_and_train_on_the_others() {
        let all = rows(&[("a", 10), ("b", 6)]);
        let folds = Some(deal(&strata(&all), FOLDS, 1));
        let labels = LabelSet::new(vec!["a".to_owned(), "b".to_owned()]).unwrap();
        let data = Data { training: all.clone(), validation: Vec::new(), labels, folds };
        let mut seen = Vec::new();
        for fold in 0..FOLDS {
            let (part, held) = data.fold(fold);
            assert_eq!(part.training.len() + part.validation.len(), all.len());
            assert!(part.training.iter().all(|row| !part.validation.contains(row)));
            assert!((1..=2).contains(&count(&part.validation, "b")), "its share of the rarer label");
            seen.extend(held);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..all.len()).collect::<Vec<_>>());
    }
}

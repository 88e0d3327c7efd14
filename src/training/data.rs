//! Which rows a run trains on, which choose the best epoch, and the labels of both.

use crate::domain::{Error, LabelSet, Result};
use crate::training::batches::held_out;
use crate::training::collate::check_family;
use crate::training::dataset::Example;
use crate::training::fine_tune::FineTuneSetup;
use crate::training::labels::labels_of;

/// The rows that are trained on and those that choose the best epoch, and the labels of both.
pub(super) struct Data {
    pub training: Vec<Example>,
    pub validation: Vec<Example>,
    pub labels: LabelSet,
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
        let (training, validation) = match &mut setup.validation {
            Some(validation) => (all, std::mem::take(&mut validation.examples)),
            None => {
                let held_out = held_out(all.len(), setup.spec.hyperparameters.seed);
                part(all, &held_out)
            }
        };
        if training.is_empty() || validation.is_empty() {
            let counts = format!("{} rows to train on and {} to validate on", training.len(), validation.len());
            return Err(Error::unprocessable(format!("{counts}; at least one of each is wanted")));
        }
        let labels = labels?;
        let labels = match &setup.init {
            Some(init) if labels.iter().all(|label| init.labels.index_of(label).is_some()) => init.labels.clone(),
            _ => labels,
        };
        Ok(Self { training, validation, labels })
    }
}

/// The rows that are not in `held_out`, and those that are.
fn part(rows: Vec<Example>, held_out: &[usize]) -> (Vec<Example>, Vec<Example>) {
    let numbered = rows.into_iter().enumerate();
    let (kept, held): (Vec<_>, Vec<_>) = numbered.partition(|(row, _)| held_out.binary_search(row).is_err());
    let rows = |numbered: Vec<(usize, Example)>| numbered.into_iter().map(|(_, example)| example).collect();
    (rows(kept), rows(held))
}

//! What `auto` becomes: a recipe from family, rows and labels. Pure.

use crate::domain::{Auto, Family, Hyperparameters};

/// Every number that decides a run's course.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recipe {
    pub epochs: u32,
    pub batch_size: usize,
    pub steps_per_epoch: u64,
    pub steps: u64,
    pub warmup_steps: u64,
    /// Of the LoRA weights.
    pub learning_rate: f64,
    /// The head's learning rate in multiples of that: it starts from nothing.
    pub head_rate: f64,
    /// What the mean of the weights keeps of itself at each step; 0: the last weights alone.
    pub averaging: f64,
    pub weight_decay: f64,
    pub max_gradient_norm: f64,
    pub dropout: f64,
    /// Steps between two validations: whole epochs.
    pub validate_every: u64,
    /// Steps without a better validation score, those of the warm-up apart, after which training stops; 0: never.
    pub patience_steps: u64,
    pub seed: u64,
    /// Whether it begins with what few rows are worth before the first step; see `warm_start`.
    pub warm_start: bool,
}

/// Rows of a batch where there are hundreds of them.
const BATCH_SIZE_MAX: u32 = 32;

/// Rows: fewer make steps that follow single rows.
const BATCH_SIZE_MIN: u32 = 4;

/// A pass over few rows still makes about this many steps: 29 rows in batches of 32 made one, and a run of 40 passes was over before LoRA
/// had moved. On 32 rows of `mit_restaurant` twice as many were worth no more, at three times the cost.
const STEPS_A_PASS: usize = 4;

/// Of LoRA, rank 8 in the last two layers. Half of it learns as far in twice the epochs, twice of it is no better.
const LEARNING_RATE: f64 = 2e-3;

/// A head begins at random and sees the hidden states change below it: it learns faster than LoRA.
const HEAD_RATE: f64 = 3.0;

/// A mean over about the last 200 steps: on `mit_restaurant` worth more than one point of F1, at no cost.
const AVERAGING: f64 = 0.995;

/// Past it a small set is only learnt by heart.
const EPOCHS_MAX: u64 = 40;

/// Where one pass makes many steps, this many are enough: the averaged weights hardly move afterwards.
const STEPS_ENOUGH: u64 = 3000;

/// A large set is still read this often.
const EPOCHS_MIN: u64 = 3;

/// Steps a run should have at least, where rows are few: LoRA starts at zero and needs some hundreds of updates to move.
const STEPS_MIN: u64 = 400;

/// Steps between two validations at the least: the averaged weights hardly change in fewer.
const VALIDATE_EVERY_MIN: u64 = 25;

/// Epochs without a better score after which a run stops, where one pass makes many steps.
const PATIENCE_EPOCHS: u64 = 3;

/// The same in steps, where it makes few: three epochs of one step each are no time to get better.
const PATIENCE_STEPS_MIN: u64 = 150;

impl Recipe {
    pub(super) fn settle(family: Family, asked: &Hyperparameters, rows: usize, begins_warm: bool) -> Self {
        let batch_size = asked.batch_size.unwrap_or(auto_batch_size(rows)).max(1) as usize;
        let steps_per_epoch = rows.div_ceil(batch_size).max(1) as u64;
        let epochs = asked.epochs.unwrap_or(auto_epochs(family, steps_per_epoch)).max(1);
        let steps = steps_per_epoch * u64::from(epochs);
        Self {
            epochs,
            batch_size,
            steps_per_epoch,
            steps,
            warmup_steps: (asked.warmup_ratio * steps as f64).round() as u64,
            learning_rate: asked.learning_rate.unwrap_or(LEARNING_RATE),
            head_rate: HEAD_RATE,
            averaging: AVERAGING,
            weight_decay: asked.weight_decay,
            max_gradient_norm: asked.max_gradient_norm,
            dropout: asked.dropout,
            validate_every: steps_per_epoch * VALIDATE_EVERY_MIN.div_ceil(steps_per_epoch),
            patience_steps: match asked.early_stopping_patience {
                Auto::Auto => (PATIENCE_EPOCHS * steps_per_epoch).max(PATIENCE_STEPS_MIN),
                Auto::Set(epochs) => u64::from(epochs) * steps_per_epoch,
            },
            seed: asked.seed,
            warm_start: asked.warm_start.unwrap_or(begins_warm),
        }
    }
}

fn auto_batch_size(rows: usize) -> u32 {
    let wanted = u32::try_from(rows / STEPS_A_PASS).unwrap_or(BATCH_SIZE_MAX).clamp(BATCH_SIZE_MIN, BATCH_SIZE_MAX);
    wanted.next_power_of_two()
}

/// The usual number of passes; more where the rows are so few that they make few steps, less where one pass makes many.
fn auto_epochs(family: Family, steps_per_epoch: u64) -> u32 {
    let usual = match family {
        Family::Ner => 10,
        Family::Classify => 8,
    };
    let enough = STEPS_ENOUGH.div_ceil(steps_per_epoch).clamp(EPOCHS_MIN, usual);
    STEPS_MIN.div_ceil(steps_per_epoch).clamp(enough, EPOCHS_MAX) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_read_more_often_and_many_less() {
        let check = |family, rows: usize, epochs| {
            let recipe = Recipe::settle(family, &Hyperparameters::default(), rows, false);
            assert_eq!(recipe.epochs, epochs, "{rows} rows");
        };
        check(Family::Ner, 16, 40);
        check(Family::Ner, 128, 40);
        check(Family::Ner, 1_000, 13);
        check(Family::Ner, 7_000, 10);
        check(Family::Ner, 25_000, 4);
        check(Family::Classify, 9_000, 8);
        check(Family::Classify, 15_098, 7);
        check(Family::Classify, 36_308, 3);
        check(Family::Classify, 1_000_000, 3);
    }

    #[test]
    fn few_rows_are_taken_few_at_a_time() {
        for (rows, batch_size) in
            [(0, 4), (4, 4), (16, 4), (29, 8), (32, 8), (64, 16), (100, 32), (128, 32), (9_000, 32)]
        {
            let recipe = Recipe::settle(Family::Ner, &Hyperparameters::default(), rows, false);
            assert_eq!(recipe.batch_size, batch_size, "{rows} rows");
        }
    }

    #[test]
    fn validation_and_patience_are_counted_in_steps() {
        let settle = |rows, patience| {
            let asked = Hyperparameters { early_stopping_patience: patience, ..Hyperparameters::default() };
            let recipe = Recipe::settle(Family::Ner, &asked, rows, false);
            (recipe.steps_per_epoch, recipe.validate_every, recipe.patience_steps)
        };
        assert_eq!(settle(29, Auto::Auto), (4, 28, 150), "seven epochs, and no fewer than 150 steps");
        assert_eq!(settle(3_200, Auto::Auto), (100, 100, 300), "each epoch, and three of them");
        assert_eq!(settle(29, Auto::Set(2)), (4, 28, 8), "as asked");
        assert_eq!(settle(29, Auto::Set(0)), (4, 28, 0), "never");
    }
}

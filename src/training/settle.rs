//! What `auto` becomes: a recipe from family, rows and labels. Pure.

use crate::domain::{Family, Hyperparameters};

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
    pub weight_decay: f64,
    pub max_gradient_norm: f64,
    pub dropout: f32,
    pub patience: u32,
    pub seed: u64,
}

/// Past it a small set is only learnt by heart.
const EPOCHS_MAX: u64 = 40;

/// Steps a run should have at least, where rows are few: LoRA starts at zero and needs some hundreds of updates to move.
const STEPS_MIN: u64 = 400;

impl Recipe {
    pub(super) fn settle(family: Family, asked: &Hyperparameters, rows: usize) -> Self {
        let batch_size = asked.batch_size.unwrap_or(32).max(1) as usize;
        let steps_per_epoch = rows.div_ceil(batch_size).max(1) as u64;
        let epochs = asked.epochs.unwrap_or(auto_epochs(family, steps_per_epoch)).max(1);
        let steps = steps_per_epoch * u64::from(epochs);
        Self {
            epochs,
            batch_size,
            steps_per_epoch,
            steps,
            warmup_steps: (asked.warmup_ratio * steps as f64).round() as u64,
            learning_rate: asked.learning_rate.unwrap_or(1e-3),
            head_rate: 1.0,
            weight_decay: asked.weight_decay,
            max_gradient_norm: asked.max_gradient_norm,
            dropout: asked.dropout as f32,
            patience: asked.early_stopping_patience,
            seed: asked.seed,
        }
    }
}

/// The usual number of passes; more where the rows are so few that they make few steps.
fn auto_epochs(family: Family, steps_per_epoch: u64) -> u32 {
    let usual = match family {
        Family::Ner => 10,
        Family::Classify => 8,
    };
    STEPS_MIN.div_ceil(steps_per_epoch).clamp(usual, EPOCHS_MAX) as u32
}

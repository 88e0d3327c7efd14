//! The numbers of a study: those of every fine-tuning, and those of a pre-finetuning. What is not given stays the program's default.

use serde::{Deserialize, Serialize};

use crate::domain::{Auto, Error, Hyperparameters, Result};
use crate::training::study::spec::Layers;

/// Makes a struct of optional numbers that can be laid over another of its kind.
macro_rules! settings {
    ($(#[$outer:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $(#[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl $name {
            /// These where they are given, else those of `base`.
            #[must_use]
            pub fn over(&self, base: &Self) -> Self {
                Self { $($field: self.$field.clone().or_else(|| base.$field.clone()),)* }
            }

            pub fn is_empty(&self) -> bool {
                *self == Self::default()
            }
        }
    };
}

settings! {
    /// Of fine-tuning. A cell that starts from a primary takes rank and layers from it.
    FineTuneSettings {
        epochs: u32,
        batch_size: u32,
        learning_rate: f64,
        rank: usize,
        alpha: f64,
        layers: Layers,
        max_length: usize,
        early_stopping_patience: u32,
        dropout: f64,
        weight_decay: f64,
        warmup_ratio: f64,
        pooling: HeadPooling,
        warm_start: bool,
    }
}

/// What a classification head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadPooling {
    /// The architecture's own.
    Cls,
    Mean,
}

impl FineTuneSettings {
    pub fn hyperparameters(&self, seed: u64) -> Result<Hyperparameters> {
        let usual = Hyperparameters::default();
        let layers = self.layers.as_ref().map(Layers::choice).transpose()?;
        let settled = Hyperparameters {
            epochs: self.epochs.map_or(Auto::Auto, Auto::Set),
            batch_size: self.batch_size.map_or(Auto::Auto, Auto::Set),
            learning_rate: self.learning_rate.map_or(Auto::Auto, Auto::Set),
            rank: self.rank.unwrap_or(usual.rank),
            alpha: self.alpha.unwrap_or(usual.alpha),
            layers: layers.unwrap_or(usual.layers),
            target_modules: None,
            max_length: self.max_length.unwrap_or(usual.max_length),
            early_stopping_patience: self.early_stopping_patience.map_or(Auto::Auto, Auto::Set),
            dropout: self.dropout.unwrap_or(usual.dropout),
            weight_decay: self.weight_decay.unwrap_or(usual.weight_decay),
            warmup_ratio: self.warmup_ratio.unwrap_or(usual.warmup_ratio),
            max_gradient_norm: usual.max_gradient_norm,
            seed,
            warm_start: self.warm_start.map_or(Auto::Auto, Auto::Set),
        };
        let positive = |number: f64| number > 0.0 && number.is_finite();
        let rate = self.learning_rate.is_none_or(positive);
        if !(rate && positive(settled.alpha) && settled.rank > 0 && (0.0..1.0).contains(&settled.dropout)) {
            return Err(Error::invalid("learning_rate, alpha and rank must be above 0, dropout from 0 to below 1"));
        }
        Ok(settled)
    }

    /// None: as fine-tuning settles it.
    pub fn pools_mean(&self) -> Option<bool> {
        self.pooling.as_ref().map(|pooling| *pooling == HeadPooling::Mean)
    }
}

settings! {
    /// Of a pre-finetuning, as the job's.
    PreFinetuneSettings {
        steps: u64,
        batch_size: usize,
        layers: Layers,
        rank: usize,
        alpha: f64,
        target_modules: Vec<String>,
        backbone_learning_rate: f64,
        adapter_learning_rate: f64,
        weight_decay: f64,
        warmup_ratio: f64,
        decay: String,
        max_gradient_norm: f64,
        dropout: f64,
        max_length: usize,
        temperature: f64,
        sampling_exponent: f64,
        label_name_share: f64,
        class_pairs_max: usize,
        preserve_weight: f64,
        ner_weight: f64,
        classify_weight: f64,
        concepts_max: usize,
        measure_every: u64,
        precision: String,
        seed: u64,
    }
}

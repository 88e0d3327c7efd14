//! What a trained adapter says of itself: its LoRA configuration, its card, and the card's account of the training.
//! Holds nothing that differs between two runs of the same spec, data and seed: no clock, no job id.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::adapter::{AdapterCard, LoraConfig, TargetModules};
use crate::domain::{
    Error, Family, FineTuneSpec, HeadForm, Hyperparameters, LabelSet, LayerChoice, ProblemType, Result,
};
use crate::model::Encoder;
use crate::training::calibrate::Calibration;
use crate::training::checkpoint::State;
use crate::training::evaluate::{Evaluation, Method};
use crate::training::fine_tune::FineTuneSetup;
use crate::training::settle::Recipe;
use crate::training::trainer::metrics;

/// LoRA as `asked` for, on this encoder. A pooler stays as the backbone has it: the measured recipe trains no copy of it.
pub(super) fn lora_config(family: Family, asked: &Hyperparameters, encoder: &Encoder) -> Result<LoraConfig> {
    let layers = chosen_layers(&asked.layers, family, encoder.config().layers)?;
    let modules = asked.target_modules.clone().unwrap_or_else(|| linears_of(encoder, &layers));
    Ok(LoraConfig {
        rank: asked.rank,
        alpha: asked.alpha,
        lora_dropout: asked.dropout,
        target_modules: TargetModules::Suffixes(modules),
        layers_to_transform: Some(layers),
        ..LoraConfig::default()
    })
}

/// The top layers that `auto` means. NER: on `mit_restaurant` four of six are worth three points of F1 over two; classification:
/// on `banking77` two are enough, and leave a longer trunk to share.
fn auto_layers(family: Family) -> usize {
    match family {
        Family::Ner => 4,
        Family::Classify => 2,
    }
}

/// Layer numbers, ascending.
pub(super) fn chosen_layers(choice: &LayerChoice, family: Family, layers: usize) -> Result<Vec<usize>> {
    let chosen: BTreeSet<usize> = match choice {
        LayerChoice::Auto => (layers.saturating_sub(auto_layers(family))..layers).collect(),
        LayerChoice::Last(count) => (layers.saturating_sub(*count)..layers).collect(),
        LayerChoice::All => (0..layers).collect(),
        LayerChoice::These(these) => these.iter().copied().collect(),
    };
    match chosen.last() {
        None => Err(Error::unprocessable("layers names none; at least one is wanted")),
        Some(&highest) if highest >= layers => {
            Err(Error::unprocessable(format!("layers names layer {highest}; the backbone has 0 to {}", layers - 1)))
        }
        Some(_) => Ok(chosen.into_iter().collect()),
    }
}

/// The names of all linears in `layers`, below their layer: `attention.self.query`.
fn linears_of(encoder: &Encoder, layers: &[usize]) -> Vec<String> {
    let sites = encoder.sites().into_iter().filter(|site| layers.contains(&site.layer));
    let names = sites.filter_map(|site| {
        let path = encoder.config().architecture.module_path(site);
        path.split_once(&format!(".{}.", site.layer)).map(|(_, name)| name.to_owned())
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// A card without its account of the training.
pub(super) fn card(setup: &FineTuneSetup, labels: &LabelSet, pools_mean: bool) -> AdapterCard {
    let is_multi_label = setup.train.multi_label;
    AdapterCard {
        family: setup.spec.family,
        head: HeadForm::Labels,
        labels: labels.as_slice().to_vec(),
        problem_type: if is_multi_label { ProblemType::MultiLabel } else { ProblemType::SingleLabel },
        backbone_fingerprint: setup.fingerprint.clone(),
        max_length: setup.max_length(),
        pooling: if pools_mean { "mean" } else { "cls" }.to_owned(),
        thresholds: Default::default(),
        training: None,
    }
}

/// What the card tells of a run.
pub(super) struct Account<'a> {
    pub spec: &'a FineTuneSpec,
    pub recipe: &'a Recipe,
    /// Trained on.
    pub rows: usize,
    pub state: &'a State,
    /// The run's digest: the same for every job with this spec, data and seed.
    pub run: &'a str,
    pub validation: &'a Evaluation,
    pub test: Option<&'a Evaluation>,
    pub calibration: Option<&'a Calibration>,
    pub warnings: &'a [String],
}

/// What reports and cards say of a calibration.
pub(super) fn calibration_to_json(calibration: &Calibration) -> Value {
    json!({
        "temperature": calibration.temperature,
        "ece_before": calibration.ece_before,
        "ece_after": calibration.ece_after,
    })
}

/// Which rows a figure is of, and where the true one may be.
fn measured(evaluation: &Evaluation) -> Value {
    json!({
        "rows": evaluation.rows,
        "method": evaluation.method.as_str(),
        "metric": evaluation.interval_metric,
        "interval": evaluation.interval,
        "confidence": evaluation.confidence,
    })
}

/// The card's `training`.
pub(super) fn account(account: &Account<'_>) -> Value {
    let Account { spec, recipe, rows, state, run, validation, test, calibration, warnings } = account;
    let figures = |evaluation: &Evaluation| -> serde_json::Map<String, Value> {
        metrics(evaluation).into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
    };
    json!({
        "data": {
            "train": spec.train.to_string(),
            "validation": spec.validation.as_ref().map_or_else(|| held_out(validation.method).to_owned(), ToString::to_string),
            "test": spec.test.as_ref().map(ToString::to_string),
            "rows": rows,
            "validation_rows": validation.rows,
        },
        "init_from": spec.init_from.as_ref().map(ToString::to_string),
        "seed": recipe.seed,
        "hyperparameters": {
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "learning_rate": recipe.learning_rate,
            "head_learning_rate": recipe.learning_rate * recipe.head_rate,
            "weight_averaging": recipe.averaging,
            "warmup_steps": recipe.warmup_steps,
            "dropout": recipe.dropout,
            "weight_decay": recipe.weight_decay,
            "max_gradient_norm": recipe.max_gradient_norm,
            "early_stopping_patience_steps": recipe.patience_steps,
            "warm_start": recipe.warm_start,
        },
        "steps": state.step,
        "best_step": state.best.as_ref().map(|best| best.step),
        "metrics": { "validation": figures(validation), "test": test.map(figures) },
        "validation": measured(validation),
        "test": test.map(measured),
        "calibration": calibration.map(calibration_to_json),
        "warnings": warnings,
        "job": { "kind": "fine_tune", "run": run },
    })
}

/// What validated where the spec names no split.
fn held_out(method: Method) -> &'static str {
    match method {
        Method::Split => "a tenth of train",
        Method::CrossValidation => "cross-validation of train",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_from_the_bottom() {
        let check = |choice: LayerChoice, expected: &str| {
            let got = match chosen_layers(&choice, Family::Ner, 6) {
                Ok(layers) => format!("{layers:?}"),
                Err(error) => error.message().to_owned(),
            };
            assert_eq!(got, expected);
        };
        check(LayerChoice::Auto, "[2, 3, 4, 5]");
        check(LayerChoice::Last(2), "[4, 5]");
        check(LayerChoice::Last(9), "[0, 1, 2, 3, 4, 5]");
        check(LayerChoice::All, "[0, 1, 2, 3, 4, 5]");
        check(LayerChoice::These(vec![3, 1, 3]), "[1, 3]");
        check(LayerChoice::Last(0), "layers names none; at least one is wanted");
        check(LayerChoice::These(vec![6]), "layers names layer 6; the backbone has 0 to 5");
    }
}

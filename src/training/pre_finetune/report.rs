//! What a run tells of itself: the file beside the weights, and the report with its plots. The first holds nothing that differs
//! between two runs of one setup: no clock, no paths.

use serde_json::{Value, json};

use crate::domain::{Family, MixedSet};
use crate::telemetry::{Line, Plot};
use crate::training::pre_finetune::calibrate::Calibrated;
use crate::training::pre_finetune::conflict::{self, Conflict};
use crate::training::pre_finetune::pool::Pool;
use crate::training::pre_finetune::run::PreFinetuneSetup;
use crate::training::pre_finetune::series::Measurement;
use crate::training::pre_finetune::state::State;

/// A run at its end.
pub(super) struct Account<'a> {
    pub setup: &'a PreFinetuneSetup,
    pub pool: &'a Pool,
    pub state: &'a State,
    pub calibrated: Option<&'a Calibrated>,
    pub conflicts: &'a Conflicts,
}

/// How the families' mean gradients agree before the first step and after the last; None where one family is trained alone.
pub(super) struct Conflicts {
    pub begin: Option<Conflict>,
    pub end: Option<Conflict>,
}

impl Conflicts {
    fn to_json(&self, steps: u64) -> Option<Value> {
        let (begin, end) = (self.begin.as_ref()?, self.end.as_ref()?);
        Some(json!({ "batches": conflict::batches(steps), "begin": begin.to_json(), "end": end.to_json() }))
    }

    fn plot(&self) -> Plot {
        let line = |name: &str, conflict: &Conflict| Line { name: name.to_owned(), points: conflict.points() };
        let lines = [("begin", &self.begin), ("end", &self.end)];
        Plot {
            title: "Cosine between the families' mean gradients on the backbone, noise of batches taken out".to_owned(),
            x_label: "layer, from the bottom".to_owned(),
            y_label: "cosine".to_owned(),
            lines: lines.into_iter().filter_map(|(name, conflict)| Some(line(name, conflict.as_ref()?))).collect(),
        }
    }
}

/// Parent, spec, data and seed.
pub(super) fn provenance(account: &Account<'_>) -> Value {
    let (setup, spec) = (account.setup, &account.setup.spec);
    let asked = &spec.hyperparameters;
    let digests: serde_json::Map<String, Value> =
        account.pool.digests.iter().map(|(name, digest)| (name.clone(), json!(digest.as_str()))).collect();
    let mix = |family: Family| -> Vec<Value> {
        let set = |set: &MixedSet| json!({"name": set.data.to_string(), "weight": set.weight});
        spec.mix(family).iter().map(set).collect()
    };
    json!({
        "kind": "pre_finetune",
        "parent": setup.fingerprint.as_str(),
        "strategy": spec.strategy.as_str(),
        "seed": asked.seed,
        "data": { "ner": mix(Family::Ner), "classify": mix(Family::Classify), "digests": digests },
        "hyperparameters": {
            "steps": asked.steps,
            "batch_size": asked.batch_size,
            "rank": asked.rank,
            "alpha": asked.alpha,
            "layers": format!("{:?}", asked.layers),
            "target_modules": asked.target_modules,
            "backbone_learning_rate": asked.backbone_learning_rate,
            "adapter_learning_rate": asked.adapter_learning_rate,
            "weight_decay": asked.weight_decay,
            "warmup_ratio": asked.warmup_ratio,
            "decay": asked.decay.as_str(),
            "max_gradient_norm": asked.max_gradient_norm,
            "dropout": asked.dropout,
            "max_length": asked.max_length,
            "temperature": asked.temperature,
            "sampling_exponent": asked.sampling_exponent,
            "label_name_share": asked.label_name_share,
            "class_pairs_max": asked.class_pairs_max,
            "preserve_weight": asked.preserve_weight,
            "ner_weight": asked.ner_weight,
            "classify_weight": asked.classify_weight,
            "concepts_max": asked.concepts_max,
            "precision": asked.precision.as_str(),
        },
        "metrics": {
            "concept_threshold": account.calibrated.map(|calibrated| calibrated.threshold),
            "held_out_f1": account.calibrated.map(|calibrated| calibrated.f1),
            "held_out_rows": account.calibrated.map(|calibrated| calibrated.rows),
            "last": account.state.series.points.last().map(Measurement::to_json),
        },
    })
}

pub(super) fn report(account: &Account<'_>) -> Value {
    let points = &account.state.series.points;
    json!({
        "pre_finetune": {
            "strategy": account.setup.spec.strategy.as_str(),
            "seed": account.setup.spec.hyperparameters.seed,
            "steps": account.state.step,
            "concepts": account.pool.ner.concepts.len(),
            "calibration": account.calibrated.map(|calibrated| json!({
                "threshold": calibrated.threshold,
                "entity_f1": calibrated.f1,
                "rows": calibrated.rows,
            })),
            "series": points.iter().map(Measurement::to_json).collect::<Vec<_>>(),
            "conflict": account.conflicts.to_json(account.setup.spec.hyperparameters.steps),
            "plots": {
                "conflict.svg": account.conflicts.plot().to_svg(),
                "cosine.svg": cosine_plot(points).to_svg(),
                "losses.svg": loss_plot(points).to_svg(),
            },
        }
    })
}

fn cosine_plot(points: &[Measurement]) -> Plot {
    let layers = points.iter().map(|point| point.cosine.len()).max().unwrap_or(0);
    let line = |layer: usize| Line {
        name: format!("layer {layer}"),
        points: points.iter().filter_map(|p| Some((p.step as f64, *p.cosine.get(layer)?))).collect(),
    };
    Plot {
        title: "Cosine between the families' gradients on the backbone, by layer".to_owned(),
        x_label: "step".to_owned(),
        y_label: "cosine".to_owned(),
        lines: (0..layers).map(line).collect(),
    }
}

fn loss_plot(points: &[Measurement]) -> Plot {
    let line = |name: &str, of: fn(&Measurement) -> Option<f64>| Line {
        name: name.to_owned(),
        points: points.iter().filter_map(|p| Some((p.step as f64, of(p)?))).collect(),
    };
    Plot {
        title: "Losses, in units of their value at chance".to_owned(),
        x_label: "step".to_owned(),
        y_label: "loss".to_owned(),
        lines: vec![line("NER", |p| p.ner_loss), line("classification", |p| p.classify_loss)],
    }
}

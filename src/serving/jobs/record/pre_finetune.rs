//! A pre-finetuning job's spec as JSON.

use serde_json::{Value, json};

use super::{layers_to_json, publish_word, read_layers, read_publish, read_target_modules};
use crate::domain::{
    DataRef, Error, Family, MixedSet, PreFinetuneHyperparameters, PreFinetuneOutputs, PreFinetuneSpec, Publish, Result,
};
use crate::serving::jobs::fields::{Fields, list, number, parsed, text, whole};

/// The split of a dataset that is named alone.
const SPLIT: &str = "train";

pub(super) fn read(mut job: Fields) -> Result<PreFinetuneSpec> {
    let backbone = job.optional("backbone", text)?.unwrap_or_else(|| "default".to_owned());
    let strategy = job.optional("strategy", parsed)?.unwrap_or_default();
    let ner = job.object("ner")?.map_or_else(|| Ok(Vec::new()), read_mix)?;
    let classify = job.object("classify")?.map_or_else(|| Ok(Vec::new()), read_mix)?;
    let hyperparameters =
        job.object("hyperparameters")?.map_or_else(|| Ok(Default::default()), read_hyperparameters)?;
    let outputs = job.object("outputs")?.ok_or_else(|| Error::invalid("outputs: this field is required"))?;
    let outputs = read_outputs(outputs)?;
    let publish = job.optional("publish", read_publish)?.unwrap_or(Publish::Stage);
    job.finish()?;
    Ok(PreFinetuneSpec { backbone, strategy, ner, classify, hyperparameters, outputs, publish })
}

pub(super) fn to_json(spec: &PreFinetuneSpec) -> Value {
    let mix = |family: Family| {
        let set = |set: &MixedSet| json!({"name": set.data.to_string(), "weight": set.weight});
        json!({ "datasets": spec.mix(family).iter().map(set).collect::<Vec<_>>() })
    };
    json!({
        "kind": "pre_finetune",
        "backbone": spec.backbone,
        "strategy": spec.strategy.as_str(),
        "ner": mix(Family::Ner),
        "classify": mix(Family::Classify),
        "hyperparameters": hyperparameters_to_json(&spec.hyperparameters),
        "outputs": {
            "backbone": spec.outputs.backbone.as_str(),
            "ner_primary": spec.outputs.ner_primary.as_str(),
            "classify_primary": spec.outputs.classify_primary.as_str(),
        },
        "publish": publish_word(spec.publish),
    })
}

fn read_mix(mut fields: Fields) -> Result<Vec<MixedSet>> {
    let sets = fields.optional("datasets", list(read_set))?.unwrap_or_default();
    fields.finish()?;
    Ok(sets)
}

/// `{"name": "crossner-ai", "weight": 1.0}`; the name may name a split, as in `crossner-ai:dev`.
fn read_set(value: Value) -> Result<MixedSet> {
    let mut fields = Fields::of("dataset", value)?;
    let name = fields.required("name", text)?;
    let data = match name.contains(':') {
        true => name.parse()?,
        false if name.is_empty() => return Err(Error::invalid("name: a dataset's name is wanted")),
        false => DataRef { dataset: name, split: SPLIT.to_owned() },
    };
    let weight = fields.optional("weight", number)?.unwrap_or(1.0);
    fields.finish()?;
    Ok(MixedSet { data, weight })
}

fn read_outputs(mut fields: Fields) -> Result<PreFinetuneOutputs> {
    let outputs = PreFinetuneOutputs {
        backbone: fields.required("backbone", parsed)?,
        ner_primary: fields.required("ner_primary", parsed)?,
        classify_primary: fields.required("classify_primary", parsed)?,
    };
    fields.finish()?;
    Ok(outputs)
}

fn read_hyperparameters(mut fields: Fields) -> Result<PreFinetuneHyperparameters> {
    let or = PreFinetuneHyperparameters::default();
    let read = PreFinetuneHyperparameters {
        steps: fields.optional("steps", whole)?.unwrap_or(or.steps),
        batch_size: fields.optional("batch_size", whole)?.unwrap_or(or.batch_size),
        layers: fields.optional("layers", read_layers)?.unwrap_or(or.layers),
        rank: fields.optional("rank", whole)?.unwrap_or(or.rank),
        alpha: fields.optional("alpha", number)?.unwrap_or(or.alpha),
        target_modules: fields.optional("target_modules", read_target_modules)?.unwrap_or(or.target_modules),
        backbone_learning_rate: fields.optional("backbone_learning_rate", number)?.unwrap_or(or.backbone_learning_rate),
        adapter_learning_rate: fields.optional("adapter_learning_rate", number)?.unwrap_or(or.adapter_learning_rate),
        weight_decay: fields.optional("weight_decay", number)?.unwrap_or(or.weight_decay),
        warmup_ratio: fields.optional("warmup_ratio", number)?.unwrap_or(or.warmup_ratio),
        decay: fields.optional("decay", parsed)?.unwrap_or(or.decay),
        max_gradient_norm: fields.optional("max_gradient_norm", number)?.unwrap_or(or.max_gradient_norm),
        dropout: fields.optional("dropout", number)?.unwrap_or(or.dropout),
        max_length: fields.optional("max_length", whole)?.unwrap_or(or.max_length),
        temperature: fields.optional("temperature", number)?.unwrap_or(or.temperature),
        sampling_exponent: fields.optional("sampling_exponent", number)?.unwrap_or(or.sampling_exponent),
        label_name_share: fields.optional("label_name_share", number)?.unwrap_or(or.label_name_share),
        class_pairs_max: fields.optional("class_pairs_max", whole)?.unwrap_or(or.class_pairs_max),
        preserve_weight: fields.optional("preserve_weight", number)?.unwrap_or(or.preserve_weight),
        ner_weight: fields.optional("ner_weight", number)?.unwrap_or(or.ner_weight),
        classify_weight: fields.optional("classify_weight", number)?.unwrap_or(or.classify_weight),
        concepts_max: fields.optional("concepts_max", whole)?.unwrap_or(or.concepts_max),
        precision: fields.optional("precision", parsed)?.unwrap_or(or.precision),
        measure_every: fields.optional("measure_every", whole)?.unwrap_or(or.measure_every),
        seed: fields.optional("seed", whole)?.unwrap_or(or.seed),
    };
    fields.finish()?;
    Ok(read)
}

fn hyperparameters_to_json(h: &PreFinetuneHyperparameters) -> Value {
    json!({
        "steps": h.steps,
        "batch_size": h.batch_size,
        "layers": layers_to_json(&h.layers),
        "rank": h.rank,
        "alpha": h.alpha,
        "target_modules": h.target_modules.as_ref().map_or_else(|| json!("auto"), |modules| json!(modules)),
        "backbone_learning_rate": h.backbone_learning_rate,
        "adapter_learning_rate": h.adapter_learning_rate,
        "weight_decay": h.weight_decay,
        "warmup_ratio": h.warmup_ratio,
        "decay": h.decay.as_str(),
        "max_gradient_norm": h.max_gradient_norm,
        "dropout": h.dropout,
        "max_length": h.max_length,
        "temperature": h.temperature,
        "sampling_exponent": h.sampling_exponent,
        "label_name_share": h.label_name_share,
        "class_pairs_max": h.class_pairs_max,
        "preserve_weight": h.preserve_weight,
        "ner_weight": h.ner_weight,
        "classify_weight": h.classify_weight,
        "concepts_max": h.concepts_max,
        "precision": h.precision.as_str(),
        "measure_every": h.measure_every,
        "seed": h.seed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobSpec, LayerChoice, Strategy};
    use crate::serving::jobs::record::{parse_spec, spec_from_json, spec_to_json};

    /// The contract's own example.
    const CONTRACT: &str = r#"{"kind": "pre_finetune", "backbone": "default", "strategy": "task_primary",
        "ner": {"datasets": [{"name": "crossner-ai", "weight": 1.0}]}, "classify": {"datasets": [{"name": "paraphrases"}]},
        "hyperparameters": {"steps": 2000, "batch_size": 32, "layers": "last:2", "rank": 16, "backbone_learning_rate": 2e-5, "adapter_learning_rate": 2e-4, "seed": 42},
        "outputs": {"backbone": "minilm-mtpf", "ner_primary": "ner-primary", "classify_primary": "classify-primary"}, "publish": "stage"}"#;

    fn spec(json: &str) -> PreFinetuneSpec {
        match spec_from_json(json.as_bytes()).unwrap() {
            JobSpec::PreFinetune(spec) => spec,
            JobSpec::FineTune(_) => panic!("a pre-finetuning job"),
        }
    }

    #[test]
    fn the_contracts_example_reads_as_it_is_meant() {
        let spec = spec(CONTRACT);
        assert_eq!((spec.strategy, spec.publish), (Strategy::TaskPrimary, Publish::Stage));
        assert_eq!(spec.ner[0].data.to_string(), "crossner-ai:train");
        assert_eq!((spec.classify[0].data.dataset.as_str(), spec.classify[0].weight), ("paraphrases", 1.0));
        assert_eq!(spec.outputs.ner_primary.as_str(), "ner-primary");
        let meant = PreFinetuneHyperparameters {
            layers: LayerChoice::Last(2),
            backbone_learning_rate: 2e-5,
            ..PreFinetuneHyperparameters::default()
        };
        assert_eq!(spec.hyperparameters, meant, "the rest of it is the default");
    }

    #[test]
    fn a_spec_survives_json_whatever_it_holds() {
        let other = r#"{"kind":"pre_finetune","strategy":"ner_only","ner":{"datasets":[{"name":"a:dev","weight":0.5},{"name":"b"}]},
            "hyperparameters":{"steps":7,"layers":[4,5],"target_modules":["query"],"decay":"cosine","alpha":8,"temperature":0.1,
            "sampling_exponent":0,"label_name_share":1,"class_pairs_max":3,"preserve_weight":0.5,"ner_weight":2,"concepts_max":12,"measure_every":1,"dropout":0.2,"precision":"bf16"},
            "outputs":{"backbone":"x","ner_primary":"n","classify_primary":"c"},"publish":"never"}"#;
        for json in [CONTRACT, other] {
            let spec = spec_from_json(json.as_bytes()).unwrap();
            assert_eq!(parse_spec(spec_to_json(&spec)).unwrap(), spec, "{json}");
        }
        assert_eq!(spec(other).hyperparameters.layers, LayerChoice::These(vec![4, 5]));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let with = |pointer: &str, value: &str| {
            let mut job: Value = serde_json::from_str(CONTRACT).unwrap();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            job.pointer_mut(parent).unwrap()[field] = serde_json::from_str(value).unwrap();
            parse_spec(job).unwrap_err().message().to_owned()
        };
        for (pointer, value, message) in [
            ("/strategy", r#""both""#, "strategy: strategy \"both\" is none of task_primary, joint"),
            ("/ner/datasets", "7", "ner.datasets: 7 is not a list"),
            ("/ner/datasets/0/name", r#""""#, "ner.datasets: item 0: name"),
            ("/ner/datasets/0/wait", "1", "ner.datasets: item 0: dataset.wait: unknown field"),
            ("/outputs/backbone", "null", "outputs.backbone: this field is required"),
            ("/hyperparameters/decay", r#""steps""#, "hyperparameters.decay: decay \"steps\""),
            ("/hyperparameters/epochs", "3", "hyperparameters.epochs: unknown field"),
        ] {
            let got = with(pointer, value);
            assert!(got.starts_with(message), "{pointer} = {value}: {got}");
        }
    }
}

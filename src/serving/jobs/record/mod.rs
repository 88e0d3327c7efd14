//! A job's spec as JSON, in the shape of the contract: what callers send, what files hold and what the journal keeps.

mod pre_finetune;

use std::str::FromStr;

use serde_json::{Value, json};

use crate::domain::{
    Auto, Error, FineTuneSpec, Gate, GateMetric, Hyperparameters, JobSpec, LayerChoice, Publish, Result,
};
use crate::serving::jobs::fields::{Fields, auto, flag, list, number, parsed, text, whole};

/// Counts the shapes [`spec_to_json`] has had; the journal writes it beside each spec.
pub(super) const SPEC_VERSION: u32 = 1;

/// Reads a job's spec. `invalid_request` names the field by its path; `unprocessable` for a kind this version cannot run.
pub fn spec_from_json(bytes: &[u8]) -> Result<JobSpec> {
    let value =
        serde_json::from_slice(bytes).map_err(|error| Error::invalid(format!("the job is not JSON: {error}")))?;
    parse_spec(value)
}

/// [`spec_from_json`] of a value that is parsed already.
pub fn parse_spec(value: Value) -> Result<JobSpec> {
    let mut job = Fields::of("", value)?;
    match job.required("kind", text)?.as_str() {
        "fine_tune" => fine_tune(job).map(JobSpec::FineTune),
        "pre_finetune" => pre_finetune::read(job).map(JobSpec::PreFinetune),
        other => Err(Error::invalid(format!("kind: {other:?} is neither \"fine_tune\" nor \"pre_finetune\""))),
    }
}

/// The spec with every default filled in; [`parse_spec`] reads it back.
pub fn spec_to_json(spec: &JobSpec) -> Value {
    match spec {
        JobSpec::FineTune(spec) => fine_tune_to_json(spec),
        JobSpec::PreFinetune(spec) => pre_finetune::to_json(spec),
    }
}

fn fine_tune_to_json(spec: &FineTuneSpec) -> Value {
    json!({
        "kind": "fine_tune",
        "adapter": spec.adapter.as_str(),
        "family": spec.family.as_str(),
        "init_from": spec.init_from.as_ref().map(ToString::to_string),
        "data": {
            "train": spec.train.to_string(),
            "validation": spec.validation.as_ref().map(ToString::to_string),
            "test": spec.test.as_ref().map(ToString::to_string),
        },
        "hyperparameters": hyperparameters_to_json(&spec.hyperparameters),
        "gate": spec.gate.as_ref().map(|gate| json!({
            "metric": gate.metric.as_str(),
            "min": gate.min,
            "not_worse_than_active": gate.not_worse_than_active,
            "confidence": gate.confidence,
            "on": gate.on.as_str(),
        })),
        "publish": publish_word(spec.publish),
    })
}

fn fine_tune(mut job: Fields) -> Result<FineTuneSpec> {
    let adapter = job.required("adapter", parsed)?;
    let family = job.required("family", parsed)?;
    let init_from = job.optional("init_from", parsed)?;
    let mut data = job.object("data")?.ok_or_else(|| Error::invalid("data: this field is required"))?;
    let hyperparameters =
        job.object("hyperparameters")?.map_or_else(|| Ok(Hyperparameters::default()), read_hyperparameters)?;
    let gate = job.object("gate")?.map(read_gate).transpose()?;
    let publish = job.optional("publish", read_publish)?.unwrap_or_default();
    job.finish()?;
    let spec = FineTuneSpec {
        adapter,
        family,
        init_from,
        train: data.required("train", parsed)?,
        validation: data.optional("validation", parsed)?,
        test: data.optional("test", parsed)?,
        hyperparameters,
        gate,
        publish,
    };
    data.finish()?;
    Ok(spec)
}

fn read_hyperparameters(mut fields: Fields) -> Result<Hyperparameters> {
    let or = Hyperparameters::default();
    let read = Hyperparameters {
        epochs: fields.optional("epochs", auto(whole))?.unwrap_or(or.epochs),
        batch_size: fields.optional("batch_size", auto(whole))?.unwrap_or(or.batch_size),
        learning_rate: fields.optional("learning_rate", auto(number))?.unwrap_or(or.learning_rate),
        rank: fields.optional("rank", whole)?.unwrap_or(or.rank),
        alpha: fields.optional("alpha", number)?.unwrap_or(or.alpha),
        layers: fields.optional("layers", read_layers)?.unwrap_or(or.layers),
        target_modules: fields.optional("target_modules", read_target_modules)?.unwrap_or(or.target_modules),
        max_length: fields.optional("max_length", whole)?.unwrap_or(or.max_length),
        early_stopping_patience: fields
            .optional("early_stopping_patience", auto(whole))?
            .unwrap_or(or.early_stopping_patience),
        dropout: fields.optional("dropout", number)?.unwrap_or(or.dropout),
        weight_decay: fields.optional("weight_decay", number)?.unwrap_or(or.weight_decay),
        warmup_ratio: fields.optional("warmup_ratio", number)?.unwrap_or(or.warmup_ratio),
        max_gradient_norm: fields.optional("max_gradient_norm", number)?.unwrap_or(or.max_gradient_norm),
        seed: fields.optional("seed", whole)?.unwrap_or(or.seed),
        warm_start: fields.optional("warm_start", auto(flag))?.unwrap_or(or.warm_start),
    };
    fields.finish()?;
    Ok(read)
}

fn hyperparameters_to_json(h: &Hyperparameters) -> Value {
    json!({
        "epochs": auto_to_json(h.epochs),
        "batch_size": auto_to_json(h.batch_size),
        "learning_rate": auto_to_json(h.learning_rate),
        "rank": h.rank,
        "alpha": h.alpha,
        "layers": layers_to_json(&h.layers),
        "target_modules": h.target_modules.as_ref().map_or_else(|| json!("auto"), |modules| json!(modules)),
        "max_length": h.max_length,
        "early_stopping_patience": auto_to_json(h.early_stopping_patience),
        "dropout": h.dropout,
        "weight_decay": h.weight_decay,
        "warmup_ratio": h.warmup_ratio,
        "max_gradient_norm": h.max_gradient_norm,
        "seed": h.seed,
        "warm_start": auto_to_json(h.warm_start),
    })
}

fn auto_to_json<T: Into<Value>>(value: Auto<T>) -> Value {
    match value {
        Auto::Auto => json!("auto"),
        Auto::Set(value) => value.into(),
    }
}

/// `"auto"`, `"all"`, `"last:2"` or `[4, 5]`.
pub(super) fn read_layers(value: Value) -> Result<LayerChoice> {
    let wanted =
        |got: &Value| Error::invalid(format!("{got} is none of \"auto\", \"all\", \"last:N\" and a list of layers"));
    match &value {
        Value::Array(_) => list(whole)(value).map(LayerChoice::These),
        Value::String(text) if text == "auto" => Ok(LayerChoice::Auto),
        Value::String(text) if text == "all" => Ok(LayerChoice::All),
        Value::String(text) => {
            let last = text.strip_prefix("last:").and_then(|number| usize::from_str(number).ok());
            last.map(LayerChoice::Last).ok_or_else(|| wanted(&value))
        }
        other => Err(wanted(other)),
    }
}

pub(super) fn layers_to_json(layers: &LayerChoice) -> Value {
    match layers {
        LayerChoice::Auto => json!("auto"),
        LayerChoice::All => json!("all"),
        LayerChoice::Last(count) => json!(format!("last:{count}")),
        LayerChoice::These(layers) => json!(layers),
    }
}

pub(super) fn read_target_modules(value: Value) -> Result<Option<Vec<String>>> {
    auto(list(text))(value).map(|modules| match modules {
        Auto::Auto => None,
        Auto::Set(modules) => Some(modules),
    })
}

fn read_gate(mut fields: Fields) -> Result<Gate> {
    let gate = Gate {
        metric: fields.required("metric", parsed::<GateMetric>)?,
        min: fields.optional("min", number)?.unwrap_or(0.0),
        not_worse_than_active: fields.optional("not_worse_than_active", flag)?.unwrap_or(false),
        confidence: fields.optional("confidence", number)?,
        on: fields.optional("on", parsed)?.unwrap_or_default(),
    };
    fields.finish()?;
    Ok(gate)
}

pub(super) fn read_publish(value: Value) -> Result<Publish> {
    [Publish::Activate, Publish::Stage, Publish::Never]
        .into_iter()
        .find(|&publish| value.as_str() == Some(publish_word(publish)))
        .ok_or_else(|| Error::invalid(format!("{value} is none of \"activate\", \"stage\", \"never\"")))
}

pub(super) fn publish_word(publish: Publish) -> &'static str {
    match publish {
        Publish::Activate => "activate",
        Publish::Stage => "stage",
        Publish::Never => "never",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ErrorKind, GateSplit};

    /// The contract's own example.
    const CONTRACT: &str = r#"{"kind": "fine_tune", "adapter": "bank-intents", "family": "classify", "init_from": "classify-primary",
        "data": {"train": "banking77:train", "validation": "banking77:dev", "test": "banking77:test"},
        "hyperparameters": {"epochs": "auto", "batch_size": "auto", "learning_rate": "auto", "rank": 8, "alpha": 16, "layers": "last:2",
                            "target_modules": "auto", "max_length": 128, "early_stopping_patience": 3, "seed": 42},
        "gate": {"metric": "macro_f1", "min": 0.80, "not_worse_than_active": true}, "publish": "activate"}"#;

    #[test]
    fn the_contracts_example_reads_as_it_is_meant() {
        let JobSpec::FineTune(spec) = spec_from_json(CONTRACT.as_bytes()).unwrap() else { panic!("a fine-tuning job") };
        assert_eq!(spec.adapter.as_str(), "bank-intents");
        assert_eq!(spec.init_from.unwrap().to_string(), "classify-primary");
        assert_eq!(spec.test.unwrap().to_string(), "banking77:test");
        let meant = Hyperparameters {
            layers: LayerChoice::Last(2),
            early_stopping_patience: Auto::Set(3),
            ..Hyperparameters::default()
        };
        assert_eq!(spec.hyperparameters, meant);
        let gate = Gate {
            metric: GateMetric::MacroF1,
            min: 0.8,
            not_worse_than_active: true,
            confidence: None,
            on: GateSplit::Auto,
        };
        assert_eq!(spec.gate, Some(gate));
        assert_eq!(spec.publish, Publish::Activate);
    }

    #[test]
    fn a_spec_survives_json_whatever_it_holds() {
        let small = r#"{"kind":"fine_tune","adapter":"a","family":"ner","data":{"train":"d:t"}}"#;
        let full = r#"{"kind":"fine_tune","adapter":"a","family":"ner","init_from":"b@3","data":{"train":"d:t"},"publish":"never",
            "hyperparameters":{"epochs":3.0,"batch_size":16,"learning_rate":0.001,"layers":[4,5],"target_modules":["query","value"],
            "seed":18446744073709551615,"dropout":0,"weight_decay":0.1,"warmup_ratio":0.5,"max_gradient_norm":2},
            "gate":{"metric":"f1","min":0.5,"confidence":0.9,"on":"test"}}"#;
        let all_layers = r#"{"kind":"fine_tune","adapter":"a","family":"ner","data":{"train":"d:t"},"hyperparameters":{"layers":"all"}}"#;
        for json in [CONTRACT, small, full, all_layers] {
            let spec = spec_from_json(json.as_bytes()).unwrap();
            assert_eq!(parse_spec(spec_to_json(&spec)).unwrap(), spec, "{json}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let with = |field: &str, value: &str| {
            let mut job: Value = serde_json::from_str(CONTRACT).unwrap();
            let value = serde_json::from_str(value).unwrap();
            match field.split_once('.') {
                Some((outer, inner)) => job[outer][inner] = value,
                None => job[field] = value,
            }
            parse_spec(job).unwrap_err()
        };
        for (field, value, message) in [
            ("kind", r#""tune""#, r#"kind: "tune" is neither"#),
            ("family", r#""pairs""#, r#"family: family "pairs" is neither"#),
            ("adapter", r#""../x""#, "adapter: adapter name"),
            ("adapter", "null", "adapter: this field is required"),
            ("colour", "1", "colour: unknown field; known here: kind, adapter"),
            ("data", "7", "data: 7 is not a JSON object"),
            ("data.train", r#""banking77""#, "data.train: \"banking77\" is not DATASET:SPLIT"),
            ("data.dev", r#""a:b""#, "data.dev: unknown field; known here: train, validation, test"),
            ("hyperparameters.epochs", r#""ten""#, "hyperparameters.epochs: \"ten\" is not a whole number"),
            ("hyperparameters.epochs", "-1", "hyperparameters.epochs: -1 is not a whole number"),
            ("hyperparameters.rank", "1e300", "hyperparameters.rank: 1e+300 is not a whole number"),
            ("hyperparameters.rank", "8.5", "hyperparameters.rank: 8.5 is not a whole number"),
            ("hyperparameters.layers", r#""last:x""#, "hyperparameters.layers: \"last:x\" is none of"),
            ("hyperparameters.layers", "[1, true]", "hyperparameters.layers: item 1: true is not"),
            ("hyperparameters.target_modules", "[1]", "hyperparameters.target_modules: item 0: 1 is not a string"),
            ("hyperparameters.lr", "1", "hyperparameters.lr: unknown field"),
            ("gate.metric", r#""bleu""#, "gate.metric: gate metric \"bleu\""),
            ("gate.min", r#""high""#, "gate.min: \"high\" is not a number"),
            ("gate.on", r#""train""#, "gate.on: \"train\" is none of"),
            ("publish", r#""now""#, "publish: \"now\" is none of"),
        ] {
            let error = with(field, value);
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{field} = {value}");
            assert!(error.message().starts_with(message), "{field} = {value}: {error}");
        }
    }
}

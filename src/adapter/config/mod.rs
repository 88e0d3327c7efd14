//! PEFT's `adapter_config.json`: what we honour of it, and a refusal by name of everything else that would change the numbers.
//! Leaves to `targets` which modules it means, and how many patterns may say so.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::adapter::targets;
use crate::disk::without_mark;
use crate::domain::{Error, Family, Problems, Result};

/// Ranks past this cost more than the backbone's own product at any hidden size we serve.
pub(crate) const RANK_MAX: usize = 512;

/// `adapter_config.json` in bytes: PEFT's own is about 1 KiB.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Keys that say how an adapter came to be, not what it computes; any value will do.
const HISTORY: [&str; 12] = [
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// The task of an adapter without rows of labels: PEFT then wraps the encoder itself, so its tensors' names have no task model's
/// prefix.
pub(crate) const FEATURE_EXTRACTION: &str = "FEATURE_EXTRACTION";

/// Initialisations that leave the backbone's weights as they are. The others (PiSSA, OLoRA, CorDA, LoftQ, …) move a part of them
/// into the adapter, which is then no adapter of the backbone on disk; PEFT writes `true` once such an adapter was converted.
const PLAIN_INITIALISATIONS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// What we honour of `adapter_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    pub alpha: f64,
    pub use_rslora: bool,
    /// Of the backbone's stored weight; without effect on linears, which is all we have.
    pub fan_in_fan_out: bool,
    /// `none`, `all` or `lora_only`.
    pub bias: String,
    /// Whether B has a bias of its own, scaled as the update is.
    pub lora_bias: bool,
    pub lora_dropout: f64,
    pub target_modules: TargetModules,
    pub exclude_modules: Option<TargetModules>,
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names of the list that holds the layers (`layer`); none: any.
    pub layers_pattern: Vec<String>,
    /// Regular expression of a module's name, or of its end → rank there. The first that matches counts, in the order of the keys,
    /// which is the order PEFT writes.
    pub rank_pattern: BTreeMap<String, usize>,
    /// As `rank_pattern`, for alpha.
    pub alpha_pattern: BTreeMap<String, f64>,
    pub modules_to_save: Vec<String>,
    /// `TOKEN_CLS`, `SEQ_CLS` or `FEATURE_EXTRACTION`.
    pub task_type: Option<String>,
    pub base_model_name_or_path: Option<String>,
}

/// PEFT takes a list of suffixes, one regular expression, or `all-linear`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    Suffixes(Vec<String>),
    Regex(String),
    AllLinear,
}

/// PEFT's defaults, on query and value.
impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            use_rslora: false,
            fan_in_fan_out: false,
            bias: "none".to_owned(),
            lora_bias: false,
            lora_dropout: 0.0,
            target_modules: TargetModules::Suffixes(vec!["query".to_owned(), "value".to_owned()]),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            modules_to_save: Vec::new(),
            task_type: None,
            base_model_name_or_path: None,
        }
    }
}

impl LoraConfig {
    /// `unprocessable` with every key that is wrong or not supported.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        if json.len() > CONFIG_BYTES_MAX {
            return Err(Error::unprocessable(format!(
                "adapter_config.json has {} bytes; at most {CONFIG_BYTES_MAX} are read",
                json.len()
            )));
        }
        let map = serde_json::from_slice(without_mark(json))
            .map_err(|e| Error::unprocessable(format!("adapter_config.json is not a JSON object: {e}")))?;
        let mut keys = Keys { map, problems: Problems::new() };
        let config = Self::take_from(&mut keys);
        keys.refuse_the_rest();
        config.check(keys.problems).map(|()| config)
    }

    fn take_from(keys: &mut Keys) -> Self {
        let defaults = Self::default();
        let targets = keys.take::<Selector>("target_modules").map(TargetModules::from);
        if targets.is_none() {
            keys.problems.push("target_modules is missing");
        }
        if keys.take::<String>("peft_type").is_none_or(|kind| kind != "LORA") {
            keys.problems.push("peft_type is not \"LORA\", the only one supported");
        }
        keys.refuse_moved_weights();
        Self {
            rank: keys.take("r").unwrap_or(defaults.rank),
            alpha: keys.take("lora_alpha").unwrap_or(defaults.alpha),
            use_rslora: keys.take("use_rslora").unwrap_or_default(),
            fan_in_fan_out: keys.take("fan_in_fan_out").unwrap_or_default(),
            bias: keys.take("bias").unwrap_or(defaults.bias),
            lora_bias: keys.take("lora_bias").unwrap_or_default(),
            lora_dropout: keys.take("lora_dropout").unwrap_or_default(),
            target_modules: targets.unwrap_or(defaults.target_modules),
            exclude_modules: keys
                .take::<Selector>("exclude_modules")
                .filter(|s| !s.is_empty())
                .map(Selector::excluding),
            layers_to_transform: keys.take_list("layers_to_transform"),
            layers_pattern: keys.take_list("layers_pattern").unwrap_or_default(),
            rank_pattern: keys.take("rank_pattern").unwrap_or_default(),
            alpha_pattern: keys.take("alpha_pattern").unwrap_or_default(),
            modules_to_save: keys.take_list("modules_to_save").unwrap_or_default(),
            task_type: keys.take("task_type"),
            base_model_name_or_path: keys.take("base_model_name_or_path"),
        }
    }

    /// What a single key cannot know; fails with these problems and those found before.
    pub(crate) fn check(&self, mut problems: Problems) -> Result<()> {
        problems.extend(targets::check(self));
        let mut refuse_if = |bad: bool, problem: String| problems.extend(bad.then_some(problem));
        for (name, &rank) in std::iter::once(("r", &self.rank)).chain(self.rank_pattern.iter().map(|(k, v)| (&**k, v)))
        {
            refuse_if(!(1..=RANK_MAX).contains(&rank), format!("rank {rank} of {name:?} is not 1 to {RANK_MAX}"));
        }
        let alphas = std::iter::once(("lora_alpha", &self.alpha));
        for (name, &alpha) in alphas.chain(self.alpha_pattern.iter().map(|(k, v)| (&**k, v))) {
            refuse_if(!alpha.is_finite(), format!("alpha {alpha} of {name:?} is not finite"));
        }
        refuse_if(
            self.lora_bias && self.bias != "none",
            "lora_bias and bias both change the same biases; one of them is supported".to_owned(),
        );
        refuse_if(
            !matches!(&*self.bias, "none" | "all" | "lora_only"),
            format!("bias {:?} is none of \"none\", \"all\", \"lora_only\"", self.bias),
        );
        refuse_if(
            !(0.0..1.0).contains(&self.lora_dropout),
            format!("lora_dropout {} is not in 0..1", self.lora_dropout),
        );
        refuse_if(
            !matches!(self.task_type.as_deref(), None | Some("TOKEN_CLS" | "SEQ_CLS" | FEATURE_EXTRACTION)),
            format!(
                "task_type {:?} is none of \"TOKEN_CLS\", \"SEQ_CLS\" and {FEATURE_EXTRACTION:?}",
                self.task_type.as_deref().unwrap_or("")
            ),
        );
        let by_name = matches!(self.target_modules, TargetModules::Suffixes(_));
        let by_layer = self.layers_to_transform.is_some() || !self.layers_pattern.is_empty();
        refuse_if(
            by_layer && !by_name,
            "layers_to_transform and layers_pattern need target_modules to be a list of names".to_owned(),
        );
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::unprocessable("adapter_config.json is not one we can run").with_problems(problems))
    }

    /// Whether the adapter is of the encoder itself rather than of a task model, so that its tensors' names have no prefix.
    pub(crate) fn wraps_encoder(&self) -> bool {
        self.task_type.as_deref() == Some(FEATURE_EXTRACTION)
    }

    /// The family that `task_type` stands for.
    pub fn family(&self) -> Option<Family> {
        match self.task_type.as_deref() {
            Some("TOKEN_CLS") => Some(Family::Ner),
            Some("SEQ_CLS") => Some(Family::Classify),
            _ => None,
        }
    }

    /// `alpha / rank`, or `alpha / √rank` (rsLoRA).
    pub(crate) fn scale(&self, alpha: f64, rank: usize) -> f64 {
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// As PEFT writes it: keys sorted, two spaces. Keys that younger versions of PEFT brought are left out unless used, so that older ones read it too.
    pub fn to_json(&self) -> Vec<u8> {
        let mut file = json!({
            "alpha_pattern": self.alpha_pattern.iter().map(|(k, &v)| (k.clone(), number(v))).collect::<Map<_, _>>(),
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": self.bias,
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": (!self.layers_pattern.is_empty()).then_some(&self.layers_pattern),
            "layers_to_transform": self.layers_to_transform,
            "lora_alpha": number(self.alpha),
            "lora_dropout": self.lora_dropout,
            "modules_to_save": (!self.modules_to_save.is_empty()).then_some(&self.modules_to_save),
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": self.rank_pattern,
            "revision": null,
            "target_modules": self.target_modules.to_json(),
            "task_type": self.task_type,
            "use_rslora": self.use_rslora,
        });
        if let Some(exclude) = &self.exclude_modules {
            file["exclude_modules"] = exclude.to_json();
        }
        if self.lora_bias {
            file["lora_bias"] = Value::Bool(true);
        }
        serde_json::to_vec_pretty(&file).expect("a JSON value has a text")
    }
}

impl TargetModules {
    /// What has to be compiled.
    pub(crate) fn expression(&self) -> Option<&str> {
        match self {
            Self::Regex(pattern) => Some(pattern),
            Self::Suffixes(_) | Self::AllLinear => None,
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Suffixes(names) => json!(names),
            Self::Regex(pattern) => json!(pattern),
            Self::AllLinear => json!("all-linear"),
        }
    }
}

/// PEFT means integers where it says `16`; it divides all the same.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The object's keys; those that were read are gone.
struct Keys {
    map: Map<String, Value>,
    problems: Problems,
}

impl Keys {
    /// None for a key that is missing, null, or (noted) of the wrong type.
    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.map.remove(key).filter(|value| !value.is_null())?;
        serde_json::from_value(value).map_err(|e| self.problems.push(format_args!("{key}: {e}"))).ok()
    }

    /// A list, or one item that stands for a list; an empty one of either is none at all.
    fn take_list<T: DeserializeOwned>(&mut self, key: &str) -> Option<Vec<T>> {
        let value = self.map.get_mut(key).filter(|value| !is_off(value))?;
        if !value.is_array() {
            *value = Value::Array(vec![value.take()]);
        }
        self.take(key)
    }

    fn refuse_moved_weights(&mut self) {
        let plain = match self.map.remove("init_lora_weights") {
            Some(Value::String(name)) => PLAIN_INITIALISATIONS.contains(&&*name).then_some(()).ok_or(name),
            Some(Value::Bool(_) | Value::Null) | None => Ok(()),
            Some(other) => Err(other.to_string()),
        };
        if let Err(name) = plain {
            self.problems.push(format_args!(
                "init_lora_weights {name:?} changes the backbone's own weights, which is not supported: convert the adapter to plain LoRA"
            ));
        }
    }

    /// A key we do not know is harmless only as long as it is switched off.
    fn refuse_the_rest(&mut self) {
        let used = |(key, value): &(&String, &Value)| !HISTORY.contains(&key.as_str()) && !is_off(value);
        for (key, value) in self.map.iter().filter(used) {
            self.problems.push(format_args!("{key} = {} is not supported", shorten(value)));
        }
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn shorten(value: &Value) -> String {
    /// Enough to recognise the value by.
    const CHARS_MAX: usize = 60;
    value.to_string().chars().take(CHARS_MAX).collect()
}

/// A list of names, or a string that is a regular expression.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a list of module names or one regular expression is wanted")]
enum Selector {
    Names(Vec<String>),
    Pattern(String),
}

impl Selector {
    fn is_empty(&self) -> bool {
        match self {
            Self::Names(names) => names.is_empty(),
            Self::Pattern(pattern) => pattern.is_empty(),
        }
    }

    /// `all-linear` has no meaning when it excludes.
    fn excluding(self) -> TargetModules {
        match self {
            Self::Names(names) => TargetModules::Suffixes(names),
            Self::Pattern(pattern) => TargetModules::Regex(pattern),
        }
    }
}

impl From<Selector> for TargetModules {
    fn from(selector: Selector) -> Self {
        match selector {
            Selector::Pattern(pattern) if pattern.eq_ignore_ascii_case("all-linear") => Self::AllLinear,
            other => other.excluding(),
        }
    }
}

#[cfg(test)]
mod tests;

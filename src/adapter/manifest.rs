//! The two JSON files of an adapter folder: PEFT's `adapter_config.json` and our `trunkline.json`.

use std::collections::BTreeMap;

use crate::domain::{Digest, Family, ProblemType, Result};

/// What we honour of `adapter_config.json`; everything unsupported is refused by name when parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    pub alpha: f64,
    pub use_rslora: bool,
    pub fan_in_fan_out: bool,
    /// `none`, `all` or `lora_only`.
    pub bias: String,
    pub lora_dropout: f64,
    pub target_modules: TargetModules,
    pub layers_to_transform: Option<Vec<usize>>,
    pub layers_pattern: Option<String>,
    pub rank_pattern: BTreeMap<String, usize>,
    pub alpha_pattern: BTreeMap<String, f64>,
    pub modules_to_save: Vec<String>,
    /// `TOKEN_CLS` or `SEQ_CLS`.
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

/// `trunkline.json`: what PEFT's format has no place for.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterCard {
    pub family: Family,
    /// In head order.
    pub labels: Vec<String>,
    pub problem_type: ProblemType,
    pub backbone_fingerprint: Digest,
    /// Tokens, special ones included.
    pub max_length: usize,
    /// `cls` (the architecture's own) or `mean`.
    pub pooling: String,
    /// Label → score below which it is not reported.
    pub thresholds: BTreeMap<String, f32>,
    /// Data, seed, metrics, job: shown as it is.
    pub training: Option<serde_json::Value>,
}

impl LoraConfig {
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let _ = json;
        todo!()
    }

    /// As PEFT writes it, keys sorted.
    pub fn to_json(&self) -> Vec<u8> {
        todo!()
    }
}

impl AdapterCard {
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let _ = json;
        todo!()
    }

    pub fn to_json(&self) -> Vec<u8> {
        todo!()
    }
}

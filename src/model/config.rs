//! What `config.json` says of an encoder.

use crate::domain::Result;
use crate::model::Site;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Bert,
    /// RoBERTa and XLM-RoBERTa.
    Roberta,
    DistilBert,
    Electra,
    ModernBert,
}

impl Architecture {
    /// What the reference library's task models put before the encoder's module names, as PEFT files show it: `bert.` and so on.
    pub fn task_prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta => "roberta.",
            Self::DistilBert => "distilbert.",
            Self::Electra => "electra.",
            Self::ModernBert => "model.",
        }
    }

    /// The reference library's name of a linear below the encoder: `encoder.layer.4.attention.self.query`.
    pub fn module_path(self, site: Site) -> String {
        let _ = site;
        todo!()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate_size: usize,
    /// The longest sequence in tokens, special ones included (RoBERTa: without its padding offset).
    pub max_length: usize,
    pub layer_norm_eps: f64,
    // the model layer adds what its architectures need
}

impl EncoderConfig {
    /// From `config.json`; an unknown `model_type` or activation is refused by name.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let _ = json;
        todo!()
    }
}

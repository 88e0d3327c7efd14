//! What `config.json` says of an encoder.

use crate::domain::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Bert,
    /// RoBERTa and XLM-RoBERTa.
    Roberta,
    DistilBert,
    Electra,
    ModernBert,
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

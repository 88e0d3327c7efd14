//! What `config.json` says of an encoder, in one set of words for every architecture; their own words are in `dialects`.

mod dialects;
mod sizes;

use serde_json::Value;

use crate::disk::without_mark;
use crate::domain::{Error, Result};
use crate::model::config::dialects::{Bert, DistilBert, ModernBert};
use crate::model::config::sizes::refuse_too_large;
use crate::model::{Architecture, Linear};

/// The function between a feed-forward block's two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), with the error function.
    Gelu,
    /// GELU's tanh approximation (`gelu_new`).
    GeluTanh,
    Relu,
}

/// How one layer attends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerAttention {
    /// A token sees those at most so far away; None: all of its sequence.
    pub window: Option<usize>,
    /// The base of its rotary positions; None: positions are in the embeddings.
    pub rope_theta: Option<f64>,
}

/// Which modules have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    pub attention: bool,
    pub feed_forward: bool,
    pub norm: bool,
    /// The dense layer before the classifier.
    pub head: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    /// Segment ids that have an embedding; 0: the architecture has none and ignores them.
    pub type_vocab_size: usize,
    /// ELECTRA's embeddings are narrower than its hidden states.
    pub embedding_size: usize,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate_size: usize,
    /// The longest sequence in tokens, special ones included (RoBERTa: without its padding offset).
    pub max_length: usize,
    /// The row of the position table that a sequence's first token takes.
    pub position_offset: usize,
    pub layer_norm_eps: f64,
    pub activation: Activation,
    /// One entry a layer.
    pub attention: Vec<LayerAttention>,
    pub biases: Biases,
    /// ModernBERT's heads: their activation, and whether they read the mean of all tokens instead of the first.
    pub head_activation: Activation,
    pub head_pools_mean: bool,
    /// What the model was called where it was saved: `_name_or_path`.
    pub origin: Option<String>,
}

impl EncoderConfig {
    /// From `config.json`; an unknown `model_type` or activation is refused by name.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let refused = |e: serde_json::Error| Error::unprocessable(format!("config.json: {e}")).with_source(e);
        let value: Value = serde_json::from_slice(without_mark(json)).map_err(refused)?;
        let architecture = Architecture::from_model_type(value["model_type"].as_str().unwrap_or_default())?;
        refuse_too_large(&value)?;
        let origin = value["_name_or_path"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        let config = match architecture {
            Architecture::DistilBert => serde_json::from_value::<DistilBert>(value).map_err(refused)?.into_config(),
            Architecture::ModernBert => serde_json::from_value::<ModernBert>(value).map_err(refused)?.into_config(),
            _ => serde_json::from_value::<Bert>(value).map_err(refused)?.into_config(architecture),
        }?;
        Self { origin, ..config }.checked()
    }

    pub fn head_size(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// (out, in) of a layer's linear.
    pub(super) fn linear_shape(&self, linear: Linear) -> (usize, usize) {
        let (hidden, wide) = (self.hidden_size, self.intermediate_size);
        match linear {
            Linear::Query | Linear::Key | Linear::Value | Linear::AttentionOutput => (hidden, hidden),
            Linear::Qkv => (3 * hidden, hidden),
            // gate and up projection in one
            Linear::Intermediate if self.architecture == Architecture::ModernBert => (2 * wide, hidden),
            Linear::Intermediate => (wide, hidden),
            Linear::Output => (hidden, wide),
        }
    }

    pub(super) fn has_bias(&self, linear: Linear) -> bool {
        match linear {
            Linear::Intermediate | Linear::Output => self.biases.feed_forward,
            _ => self.biases.attention,
        }
    }

    fn checked(self) -> Result<Self> {
        let counts =
            [self.vocab_size, self.hidden_size, self.layers, self.heads, self.intermediate_size, self.max_length];
        if counts.contains(&0) || !self.hidden_size.is_multiple_of(self.heads) {
            let (hidden, heads) = (self.hidden_size, self.heads);
            return Err(Error::unprocessable(format!(
                "config.json: sizes must be positive and heads divide the hidden size, got {hidden} for {heads} heads"
            )));
        }
        let is_small = |value: f64| value.is_finite() && value >= 0.0;
        let thetas = self.attention.iter().filter_map(|layer| layer.rope_theta);
        if !is_small(self.layer_norm_eps) || thetas.clone().any(|theta| !(theta.is_finite() && theta > 0.0)) {
            return Err(Error::unprocessable(
                "config.json: an epsilon must not be negative, and a rope_theta must be positive",
            ));
        }
        if self.attention.iter().any(|layer| layer.rope_theta.is_some()) && !self.head_size().is_multiple_of(2) {
            return Err(Error::unprocessable("config.json: rotary positions need an even head size"));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERT: &str = r#"{"model_type": "bert", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 514, "hidden_act": "gelu", "pad_token_id": 1}"#;
    const MODERN: &str = r#"{"model_type": "modernbert", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 4,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 512 EXTRA}"#;

    fn parse(json: &str) -> Result<EncoderConfig> {
        EncoderConfig::from_json(json.as_bytes())
    }

    #[test]
    fn robertas_positions_begin_after_the_padding_row() {
        for (model_type, offset, max_length) in [("bert", 0, 514), ("roberta", 2, 512), ("xlm-roberta", 2, 512)] {
            let config = parse(&BERT.replace("\"bert\"", &format!("{model_type:?}"))).unwrap();
            assert_eq!((config.position_offset, config.max_length), (offset, max_length), "{model_type}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (from, to, named) in [
            ("\"bert\"", "\"gpt2\"", "gpt2"),
            ("\"gelu\"", "\"swish\"", "swish"),
            ("\"hidden_size\": 8", "\"hidden_size\": 9", "9 for 2 heads"),
            ("\"vocab_size\": 9", "\"vocab\": 9", "vocab_size"),
            ("\"pad_token_id\": 1", "\"position_embedding_type\": \"relative_key\"", "relative_key"),
        ] {
            let error = parse(&BERT.replace(from, to)).unwrap_err();
            assert!(error.message().contains(named), "{error}");
        }
    }

    #[test]
    fn a_size_that_no_machine_holds_is_refused_before_anything_is_built() {
        for (from, to, named) in [
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000000000", "num_hidden_layers is 1000000000"),
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1e300", "num_hidden_layers is 1e+300"),
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", "sizes must be positive"),
            ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": -1", "-1"),
            ("\"hidden_size\": 8", "\"hidden_size\": 1099511627776", "hidden_size"),
            ("\"vocab_size\": 9", "\"vocab_size\": 18446744073709551615", "vocab_size"),
            ("\"intermediate_size\": 16", "\"intermediate_size\": 4294967296", "intermediate_size"),
            ("\"max_position_embeddings\": 514", "\"max_position_embeddings\": 100000000", "max_position_embeddings"),
            ("\"max_position_embeddings\": 514", "\"max_position_embeddings\": 1", "sizes must be positive"),
            ("\"pad_token_id\": 1", "\"pad_token_id\": 18446744073709551615", "pad_token_id"),
            ("\"pad_token_id\": 1", "\"type_vocab_size\": 18446744073709551615", "type_vocab_size"),
            ("\"pad_token_id\": 1", "\"layer_norm_eps\": -1.0", "epsilon"),
        ] {
            for model_type in ["bert", "roberta"] {
                let json = BERT.replace(from, to).replace("\"bert\"", &format!("{model_type:?}"));
                match parse(&json) {
                    Err(error) => {
                        assert!(error.message().contains(named) || named.contains("positive"), "{to}: {error}")
                    }
                    Ok(config) => assert!(model_type == "bert" && named.contains("positive"), "{to}: {config:?}"),
                }
            }
        }
        for (field, named) in [
            (r#", "local_attention": 18446744073709551615"#, "local_attention"),
            (r#", "global_rope_theta": 0.0"#, "rope_theta"),
            (r#", "rope_parameters": {"full_attention": {"rope_theta": -1.0}}"#, "rope_theta"),
        ] {
            let error = parse(&MODERN.replace("EXTRA", field)).unwrap_err();
            assert!(error.message().contains(named), "{field}: {error}");
        }
        let distil = r#"{"model_type": "distilbert", "vocab_size": 9, "dim": 8, "n_layers": 1000000000, "n_heads": 2, "hidden_dim": 16,
            "max_position_embeddings": 512, "activation": "gelu"}"#;
        let error = parse(distil).unwrap_err();
        assert!(error.message().contains("n_layers is 1000000000; at most 256"), "{error}");
    }

    #[test]
    fn modernbert_reads_old_and_new_rotary_keys() {
        let old = r#", "global_rope_theta": 5.0, "local_rope_theta": 3.0, "global_attn_every_n_layers": 2, "local_attention": 10"#;
        let new = r#", "local_attention": 10, "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": {"rope_theta": 5.0, "rope_type": "default"}, "sliding_attention": {"rope_theta": 3.0}}"#;
        for extra in [old, new] {
            let attention = parse(&MODERN.replace("EXTRA", extra)).unwrap().attention;
            let seen: Vec<_> = attention.iter().map(|layer| (layer.window, layer.rope_theta)).collect();
            let (global, local) = ((None, Some(5.0)), (Some(5), Some(3.0)));
            assert_eq!(seen, [global, local, global, local]);
        }
    }
}

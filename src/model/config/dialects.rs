//! The words of each architecture's `config.json`, and what is not supported in them. Where a key may be absent, its default is
//! the reference library's.

use serde::Deserialize;

use crate::domain::{Error, Result};
use crate::model::{Activation, Architecture, Biases, EncoderConfig, LayerAttention};

fn activation(name: &str) -> Result<Activation> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        _ => Err(Error::unprocessable(format!(
            "config.json: activation {name:?} is not supported, only gelu, gelu_new, gelu_pytorch_tanh, gelu_fast and relu"
        ))),
    }
}

/// Learned positions in the embeddings, every token sees its whole sequence.
fn full_attention(layers: usize) -> Vec<LayerAttention> {
    vec![LayerAttention { window: None, rope_theta: None }; layers]
}

const ALL_BIASES: Biases = Biases { attention: true, feed_forward: true, norm: true, head: true };

/// BERT, RoBERTa, XLM-RoBERTa and ELECTRA share their words.
#[derive(Deserialize)]
pub(super) struct Bert {
    vocab_size: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    embedding_size: Option<usize>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "tiny")]
    layer_norm_eps: f64,
    hidden_act: String,
    position_embedding_type: Option<String>,
    pad_token_id: Option<usize>,
}

impl Bert {
    pub(super) fn into_config(self, architecture: Architecture) -> Result<EncoderConfig> {
        if let Some(positions) = self.position_embedding_type.filter(|kind| kind != "absolute") {
            return Err(Error::unprocessable(format!(
                "config.json: position_embedding_type {positions:?} is not supported, only \"absolute\""
            )));
        }
        // RoBERTa counts positions from the row after the padding token's
        let position_offset =
            if architecture == Architecture::Roberta { self.pad_token_id.unwrap_or(1) + 1 } else { 0 };
        let is_electra = architecture == Architecture::Electra;
        Ok(EncoderConfig {
            architecture,
            vocab_size: self.vocab_size,
            type_vocab_size: self.type_vocab_size,
            embedding_size: self.embedding_size.filter(|_| is_electra).unwrap_or(self.hidden_size),
            hidden_size: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            max_length: self.max_position_embeddings.saturating_sub(position_offset),
            position_offset,
            layer_norm_eps: self.layer_norm_eps,
            activation: activation(&self.hidden_act)?,
            attention: full_attention(self.num_hidden_layers),
            biases: ALL_BIASES,
            head_activation: Activation::Gelu,
            head_pools_mean: false,
            origin: None,
        })
    }
}

#[derive(Deserialize)]
pub(super) struct DistilBert {
    vocab_size: usize,
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    max_position_embeddings: usize,
    activation: String,
}

impl DistilBert {
    pub(super) fn into_config(self) -> Result<EncoderConfig> {
        Ok(EncoderConfig {
            architecture: Architecture::DistilBert,
            vocab_size: self.vocab_size,
            type_vocab_size: 0,
            embedding_size: self.dim,
            hidden_size: self.dim,
            layers: self.n_layers,
            heads: self.n_heads,
            intermediate_size: self.hidden_dim,
            max_length: self.max_position_embeddings,
            position_offset: 0,
            layer_norm_eps: tiny(), // a constant of the architecture, not a setting
            activation: activation(&self.activation)?,
            attention: full_attention(self.n_layers),
            biases: ALL_BIASES,
            head_activation: Activation::Relu,
            head_pools_mean: false,
            origin: None,
        })
    }
}

#[derive(Deserialize)]
pub(super) struct ModernBert {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "small")]
    norm_eps: f64,
    #[serde(default = "gelu")]
    hidden_activation: String,
    #[serde(default = "gelu")]
    classifier_activation: String,
    #[serde(default)]
    classifier_pooling: String,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    classifier_bias: bool,
    #[serde(default = "three")]
    global_attn_every_n_layers: usize,
    #[serde(default = "local")]
    local_attention: usize,
    layer_types: Option<Vec<String>>,
    global_rope_theta: Option<f64>,
    local_rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
}

/// Rotary settings by layer type, as newer files write them.
#[derive(Deserialize)]
struct RopeParameters {
    full_attention: Option<Rope>,
    sliding_attention: Option<Rope>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: f64,
    rope_type: Option<String>,
}

impl ModernBert {
    pub(super) fn into_config(self) -> Result<EncoderConfig> {
        Ok(EncoderConfig {
            architecture: Architecture::ModernBert,
            vocab_size: self.vocab_size,
            type_vocab_size: 0,
            embedding_size: self.hidden_size,
            hidden_size: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            max_length: self.max_position_embeddings,
            position_offset: 0,
            layer_norm_eps: self.norm_eps,
            activation: activation(&self.hidden_activation)?,
            attention: self.attention()?,
            biases: Biases {
                attention: self.attention_bias,
                feed_forward: self.mlp_bias,
                norm: self.norm_bias,
                head: self.classifier_bias,
            },
            head_activation: activation(&self.classifier_activation)?,
            head_pools_mean: self.classifier_pooling == "mean",
            origin: None,
        })
    }

    fn attention(&self) -> Result<Vec<LayerAttention>> {
        let ropes = self.rope_parameters.as_ref();
        let global = theta(ropes.and_then(|r| r.full_attention.as_ref()), self.global_rope_theta, 160_000.0)?;
        let local = theta(ropes.and_then(|r| r.sliding_attention.as_ref()), self.local_rope_theta, 10_000.0)?;
        let of_layer = |layer| {
            Ok(if self.is_global(layer)? {
                LayerAttention { window: None, rope_theta: Some(global) }
            } else {
                // the setting counts both sides
                LayerAttention { window: Some(self.local_attention / 2), rope_theta: Some(local) }
            })
        };
        (0..self.num_hidden_layers).map(of_layer).collect()
    }

    fn is_global(&self, layer: usize) -> Result<bool> {
        let Some(types) = &self.layer_types else { return Ok(layer.is_multiple_of(self.global_attn_every_n_layers)) };
        match types.get(layer).map(String::as_str) {
            Some("full_attention") => Ok(true),
            Some("sliding_attention") => Ok(false),
            other => Err(Error::unprocessable(format!(
                "config.json: layer_types[{layer}] is {other:?}, wanted \"full_attention\" or \"sliding_attention\""
            ))),
        }
    }
}

fn theta(new: Option<&Rope>, old: Option<f64>, default: f64) -> Result<f64> {
    let kind = new.and_then(|rope| rope.rope_type.as_deref()).unwrap_or("default");
    if kind != "default" {
        return Err(Error::unprocessable(format!(
            "config.json: rope_type {kind:?} is not supported, only \"default\""
        )));
    }
    Ok(new.map(|rope| rope.rope_theta).or(old).unwrap_or(default))
}

fn two() -> usize {
    2
}

fn three() -> usize {
    3
}

fn local() -> usize {
    128
}

fn tiny() -> f64 {
    1e-12
}

fn small() -> f64 {
    1e-5
}

fn gelu() -> String {
    "gelu".to_owned()
}

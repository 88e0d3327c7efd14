//! How large the numbers of a `config.json` may be, whichever architecture's words they are: what they say is allocated and counted
//! with before the weights are looked at.

use serde_json::Value;

use crate::domain::{Error, Result};

/// Several times the largest encoders there are (XLM-RoBERTa XXL: 48 layers, hidden size 4096, 250,002 tokens).
const LAYERS_MAX: f64 = 256.0;
const HEADS_MAX: f64 = 1024.0;
const WIDTH_MAX: f64 = 65_536.0;
const VOCABULARY_MAX: f64 = 4_194_304.0;
const SEGMENTS_MAX: f64 = 1024.0;
/// Rotary positions are tables of that many rows, made from this number alone.
const POSITIONS_MAX: f64 = 131_072.0;

/// Key and the largest number it may have. Whether a number is whole, and not negative, is seen where it is read.
const SIZES: [(&str, f64); 15] = [
    ("dim", WIDTH_MAX),
    ("embedding_size", WIDTH_MAX),
    ("global_attn_every_n_layers", LAYERS_MAX),
    ("hidden_dim", WIDTH_MAX),
    ("hidden_size", WIDTH_MAX),
    ("intermediate_size", WIDTH_MAX),
    ("local_attention", POSITIONS_MAX),
    ("max_position_embeddings", POSITIONS_MAX),
    ("n_heads", HEADS_MAX),
    ("n_layers", LAYERS_MAX),
    ("num_attention_heads", HEADS_MAX),
    ("num_hidden_layers", LAYERS_MAX),
    ("pad_token_id", VOCABULARY_MAX),
    ("type_vocab_size", SEGMENTS_MAX),
    ("vocab_size", VOCABULARY_MAX),
];

/// `unprocessable`, with the key's name, for the first number that is too large.
pub(super) fn refuse_too_large(config: &Value) -> Result<()> {
    for (key, max) in SIZES {
        let number = &config[key];
        if number.as_f64().is_some_and(|size| size > max) {
            return Err(Error::unprocessable(format!("config.json: {key} is {number}; at most {max} is served")));
        }
    }
    Ok(())
}

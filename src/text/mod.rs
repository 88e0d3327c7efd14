//! Strings to tokens and back, offsets never lost. Knows no model and no adapter.

mod concepts;
mod invisible;
mod names;
mod reading;
mod tags;
mod template;
mod tokenizer;
mod windows;

pub use concepts::concept_entities;
pub use names::spoken_name;
pub use reading::{PIECE_BYTES, Reading};
pub use tags::{entities, softmax_rows};
pub use tokenizer::{Encoding, Tokenizer};
pub use windows::{Cut, Fitted, Layout, Window, fit, merge};

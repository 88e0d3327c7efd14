//! Arithmetic on plain slices, one thread, and the only `unsafe` of the package. Knows no tensors: `layers` gives it their
//! numbers. Each kernel stands beside a plain twin and is tested against it at odd sizes.

mod activation;
mod attention;
mod dropout;
mod lanes;
mod matrix;
mod norm;
pub mod packed;
mod product;
mod rotary;
mod softmax;
#[cfg(test)]
pub(in crate::model) mod testing;
mod threads;

pub use activation::{activate, activate_backward, add, scale};
pub use attention::{Gradients, Inputs, Scope, attention, attention_backward};
pub use dropout::{Dropout, mix};
pub use matrix::{Mat, MatMut};
pub use norm::{NormWeights, layer_norm, layer_norm_backward};
pub use product::{multiply, multiply_add};
pub use rotary::{Angles, Turn, rotate};
pub use threads::{give_back_memory, keep_large_blocks, lower_priority, single_threaded_pools};

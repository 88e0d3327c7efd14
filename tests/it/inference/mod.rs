//! Engine, scheduler and registry together, on the tiny BERT of the fixtures with adapters of random weights.

mod agreement;
mod backbones;
mod engine;
mod lifecycle;
mod mixes;
mod requests;
pub(crate) mod shelf;
pub(crate) mod world;
mod zero_shot;

//! Multi-task pre-finetuning with task-primary LoRA (Zhu et al. 2025): a token–concept contrast over many NER sets and a contrast
//! between texts over many sets of pairs and classes train one backbone; each family may have LoRA of its own meanwhile.
//! Leaves where the backbone's folder goes, and its fingerprint, to the caller.

mod calibrate;
mod conflict;
mod draw;
mod gradient;
mod pool;
mod primary;
mod read;
mod report;
mod run;
mod series;
mod shard;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod trainer;

pub use pool::PoolSet;
pub use run::{PreFinetuneOutcome, PreFinetuneSetup, PreFinetuned, pre_finetune};
pub use series::Measurement;

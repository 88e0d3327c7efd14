//! From dataset to evaluated adapter: formats and their doctor, losses, the loop, evaluation, checkpoints. Plain synchronous code; leaves queueing and publishing to `serving`.

mod batches;
mod calibrate;
mod card;
mod checkpoint;
mod collate;
mod cross_validate;
mod data;
pub mod dataset;
mod doubts;
mod evaluate;
mod fine_tune;
mod labels;
mod objective;
mod optimizer;
mod pace;
mod plan;
mod pre_finetune;
mod predict;
mod prefix;
mod schedule;
mod settle;
pub mod study;
mod trainer;
mod variables;
mod warm_start;
mod workers;

pub use evaluate::{
    ClassificationReport, ClassificationRow, Confusion, Evaluation, Method, NerReport, NerRow, Scores, Span,
    WorstError, evaluate_classification, evaluate_ner, spans,
};
pub use fine_tune::{
    Control, FineTuneSetup, Observer, Outcome, TrainedAdapter, TrainingEvent, Validated, evaluate_adapter, fine_tune,
};
pub use pre_finetune::{Measurement, PoolSet, PreFinetuneOutcome, PreFinetuneSetup, PreFinetuned, pre_finetune};
pub use workers::yield_to_inference;

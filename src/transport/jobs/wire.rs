//! The JSON of jobs. The spec's own reader and writer are `serving`'s: its journal keeps the same shape.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::serving;
use crate::serving::jobs::spec_to_json;
use crate::transport::schema;
use crate::transport::wire::Time;

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Job {
    #[schema(example = "job_01938d2c7f1a7c7e8b1d2f3a4b5c6d7e")]
    id: String,
    #[schema(example = "job")]
    object: &'static str,
    #[schema(example = "fine_tune")]
    kind: &'static str,
    /// `queued`, `validating`, `running`, `paused`, `evaluating`, `publishing`, `succeeded`, `rejected`, `failed` or `cancelled`.
    #[schema(example = "running")]
    status: &'static str,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Time>,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Time>,
    #[schema(value_type = Option<String>, format = DateTime)]
    estimated_finish: Option<Time>,
    progress: Progress,
    /// Latest training and validation figures.
    metrics: BTreeMap<String, f64>,
    /// As created, with every default filled in.
    #[schema(value_type = JobSpec)]
    spec: serde_json::Value,
    result: Option<JobResult>,
    error: Option<JobFailure>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Progress {
    step: u64,
    steps: u64,
    epoch: u32,
}

/// What was published.
#[derive(Debug, Serialize, ToSchema)]
struct JobResult {
    adapter: String,
    version: u32,
    digest: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct JobFailure {
    code: String,
    message: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Event {
    /// Counts the job's events, from 1.
    id: u64,
    #[schema(example = "job.event")]
    object: &'static str,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// `info`, `warn` or `error`.
    level: &'static str,
    /// `message`, `metrics` or `state`.
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
    /// Of metrics: `step`, `loss`, `learning_rate`, `validation`, `tokens_per_second`.
    data: serde_json::Value,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Checkpoint {
    step: u64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    bytes: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::transport) struct JobsQuery {
    /// The last job of the page before.
    pub(in crate::transport) after: Option<String>,
    /// 1 to 100; default 20.
    #[param(minimum = 1, maximum = 100)]
    pub(in crate::transport) limit: Option<u32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::transport) struct EventsQuery {
    /// The last event seen.
    #[param(maximum = 18446744073709551615u64)]
    pub(in crate::transport) after: Option<u64>,
    /// Of a list: 1 to 1000; default 1000.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::transport) limit: Option<u32>,
}

/// A job, by its kind.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub(in crate::transport) enum JobSpec {
    FineTune(FineTuneSpec),
    PreFinetune(PreFinetuneSpec),
}

/// A fine-tuning run, for the document: `serving` reads it.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(in crate::transport) struct FineTuneSpec {
    #[schema(value_type = schema::FineTuneKind, example = "fine_tune")]
    kind: String,
    /// The adapter whose next version this makes.
    #[schema(value_type = schema::AdapterName, example = "bank-intents")]
    adapter: String,
    /// `ner` or `classify`.
    #[schema(value_type = schema::FamilyWord, example = "classify")]
    family: String,
    /// An adapter to start from.
    #[schema(value_type = Option<schema::AdapterReference>)]
    init_from: Option<String>,
    data: JobData,
    hyperparameters: Option<Hyperparameters>,
    gate: Option<Gate>,
    /// `activate` (default), `stage` or `never`.
    #[schema(value_type = Option<schema::PublishWord>, example = "activate")]
    publish: Option<String>,
}

/// `dataset:split` each.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct JobData {
    #[schema(value_type = schema::SplitReference, example = "banking77:train")]
    train: String,
    /// Default: of up to 300 training rows, all are cross-validated (four folds; the adapter learns from all of them); of more, a tenth
    /// of each label's is held out.
    #[schema(value_type = Option<schema::SplitReference>, example = "banking77:dev")]
    validation: Option<String>,
    #[schema(value_type = Option<schema::SplitReference>)]
    test: Option<String>,
}

/// Every field is optional; `auto` is settled from the data.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Hyperparameters {
    /// A number or `"auto"`.
    #[schema(value_type = Option<schema::AutoEpochs>, example = "auto")]
    epochs: Option<u32>,
    /// A number or `"auto"`.
    #[schema(value_type = Option<schema::AutoBatchSize>, example = "auto")]
    batch_size: Option<u32>,
    /// A number or `"auto"`.
    #[schema(value_type = Option<schema::AutoRate>, example = "auto")]
    learning_rate: Option<f64>,
    #[schema(default = 8, minimum = 1, maximum = 256)]
    rank: Option<u32>,
    #[schema(value_type = Option<schema::AboveZero>, default = 16.0)]
    alpha: Option<f64>,
    /// `"auto"` (default), `"last:N"`, `"all"` or a list of layers from 0.
    #[schema(value_type = Option<schema::LayersChoice>, example = "last:2")]
    layers: Option<String>,
    /// A list of module names or `"auto"`.
    #[schema(value_type = Option<schema::ModulesChoice>, example = "auto")]
    target_modules: Option<String>,
    /// Tokens, special ones included; at most what the backbone reads.
    #[schema(default = 128, minimum = 8)]
    max_length: Option<u32>,
    /// Epochs without a better validation score before training stops, counted after the warm-up; 0: never. `"auto"` (default): three
    /// epochs, and no fewer than 150 steps.
    #[schema(value_type = Option<schema::AutoPatience>, example = "auto")]
    early_stopping_patience: Option<u32>,
    #[schema(value_type = Option<schema::DropoutShare>, default = 0.1)]
    dropout: Option<f64>,
    #[schema(default = 0.01, minimum = 0, maximum = 1)]
    weight_decay: Option<f64>,
    #[schema(default = 0.06, minimum = 0, maximum = 1)]
    warmup_ratio: Option<f64>,
    #[schema(value_type = Option<schema::AboveZero>, default = 1.0)]
    max_gradient_norm: Option<f64>,
    #[schema(default = 42, maximum = 18446744073709551615u64)]
    seed: Option<u64>,
    /// true, false or `"auto"` (default: where rows are at most 64 a label, or the adapter to start from compares with names).
    /// Before the first step a classifier's LoRA is contrasted between the classes' texts and its head begins at the classes'
    /// centres; a tagger's head begins at its types' names, where the adapter to start from knows names.
    #[schema(value_type = Option<schema::AutoFlag>, example = "auto")]
    warm_start: Option<bool>,
}

/// The score a new version must reach before it is published.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Gate {
    /// NER: `f1`, `macro_f1`, `precision`, `recall`; classification: `accuracy`, `macro_f1`, `weighted_f1`.
    #[schema(value_type = schema::MetricWord, example = "macro_f1")]
    metric: String,
    #[schema(example = 0.8, minimum = 0, maximum = 1)]
    min: Option<f64>,
    not_worse_than_active: Option<bool>,
    /// Not the figure itself is compared with `min`, but the lower end of the interval that holds the true one so surely.
    #[schema(example = 0.9, minimum = 0.5, maximum = 0.999)]
    confidence: Option<f64>,
    /// The rows it is measured on: `test`, `validation`, or `auto` (default): `test` where the job has one.
    #[schema(value_type = Option<schema::GateSplitWord>, example = "auto")]
    on: Option<String>,
}

/// A pre-finetuning run of the backbone itself.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub(in crate::transport) struct PreFinetuneSpec {
    #[schema(value_type = schema::PreFinetuneKind, example = "pre_finetune")]
    kind: String,
    /// `default`: the active one.
    #[schema(example = "default")]
    backbone: Option<String>,
    /// `task_primary` (default), `joint`, `ner_only` or `classify_only`.
    #[schema(value_type = Option<schema::StrategyWord>, example = "task_primary")]
    strategy: Option<String>,
    ner: Option<Mix>,
    /// Labelled texts, and pairs of texts that belong together.
    classify: Option<Mix>,
    hyperparameters: Option<PreFinetuneHyperparameters>,
    outputs: PreFinetuneOutputs,
    /// `stage` (default): the primaries are published, not active, and their backbone is resident beside the active one;
    /// `activate`: all three are active; `never`: the backbone is left in its folder alone.
    #[schema(value_type = Option<schema::PublishWord>, example = "stage")]
    publish: Option<String>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Mix {
    #[schema(min_items = 1, max_items = 256)]
    datasets: Vec<MixedSet>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct MixedSet {
    /// A dataset, or `dataset:split`; its `train` split if none is named.
    #[schema(value_type = schema::MixReference, example = "crossner-ai")]
    name: String,
    /// How much more often it is drawn than its size says.
    #[schema(value_type = Option<schema::AboveZero>, default = 1.0)]
    weight: Option<f64>,
}

/// What the results are called.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct PreFinetuneOutputs {
    #[schema(value_type = schema::AdapterName, example = "minilm-mtpf")]
    backbone: String,
    #[schema(value_type = schema::AdapterName, example = "ner-primary")]
    ner_primary: String,
    #[schema(value_type = schema::AdapterName, example = "classify-primary")]
    classify_primary: String,
}

/// Every field is optional.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct PreFinetuneHyperparameters {
    #[schema(default = 2000, minimum = 1, maximum = 1000000)]
    steps: Option<u64>,
    /// Rows of NER, and pairs of classification, in each step.
    #[schema(default = 32, minimum = 2, maximum = 256)]
    batch_size: Option<u32>,
    /// Where families have LoRA of their own (`"last:4"` if nothing is said): `"auto"`, `"last:N"`, `"all"` or a list of layers from 0.
    #[schema(value_type = Option<schema::LayersChoice>, example = "last:4")]
    layers: Option<String>,
    #[schema(default = 16, minimum = 1, maximum = 256)]
    rank: Option<u32>,
    #[schema(value_type = Option<schema::AboveZero>, default = 32.0)]
    alpha: Option<f64>,
    /// A list of module names or `"auto"`.
    #[schema(value_type = Option<schema::ModulesChoice>, example = "auto")]
    target_modules: Option<String>,
    #[schema(value_type = Option<schema::Rate>, default = 5e-5)]
    backbone_learning_rate: Option<f64>,
    #[schema(value_type = Option<schema::Rate>, default = 2e-4)]
    adapter_learning_rate: Option<f64>,
    #[schema(default = 0.01, minimum = 0, maximum = 1)]
    weight_decay: Option<f64>,
    #[schema(default = 0.06, minimum = 0, maximum = 1)]
    warmup_ratio: Option<f64>,
    /// `linear` (default) or `cosine`.
    #[schema(value_type = Option<schema::DecayWord>, example = "linear")]
    decay: Option<String>,
    #[schema(value_type = Option<schema::AboveZero>, default = 1.0)]
    max_gradient_norm: Option<f64>,
    #[schema(value_type = Option<schema::DropoutShare>, default = 0.0)]
    dropout: Option<f64>,
    /// Tokens, special ones included; at most what the backbone reads.
    #[schema(default = 64, minimum = 8)]
    max_length: Option<u32>,
    /// Of the contrast between texts.
    #[schema(value_type = Option<schema::AboveZero>, default = 0.05)]
    temperature: Option<f64>,
    /// A dataset is drawn in proportion to its weight times its rows to this power.
    #[schema(default = 0.5, minimum = 0, maximum = 1)]
    sampling_exponent: Option<f64>,
    /// How many batches of labelled texts pair each text with its label's name.
    #[schema(default = 0.3, minimum = 0, maximum = 1)]
    label_name_share: Option<f64>,
    /// Pairs of one class in a batch at most each time that a set is drawn; further sets fill the batch.
    #[schema(default = 2, minimum = 1, maximum = 256)]
    class_pairs_max: Option<u32>,
    /// How much it counts, beside the contrast between texts, that their similarities stay what the backbone began with
    /// (distillation); 0: not at all.
    #[schema(default = 0.0, minimum = 0)]
    preserve_weight: Option<f64>,
    #[schema(value_type = Option<schema::AboveZero>, default = 1.0)]
    ner_weight: Option<f64>,
    #[schema(value_type = Option<schema::AboveZero>, default = 1.0)]
    classify_weight: Option<f64>,
    /// Entity types that a batch is compared with, at most 256.
    #[schema(default = 96, minimum = 1, maximum = 256)]
    concepts_max: Option<u32>,
    /// Of products with the backbone's weights: `f32` (default) or `bf16`, where the machine has it.
    #[schema(value_type = Option<schema::PrecisionWord>, example = "f32")]
    precision: Option<String>,
    /// Steps between two measurements of gradients.
    #[schema(default = 20, minimum = 1, maximum = 1000000)]
    measure_every: Option<u64>,
    #[schema(default = 42, maximum = 18446744073709551615u64)]
    seed: Option<u64>,
}

impl From<serving::jobs::JobView> for Job {
    fn from(view: serving::jobs::JobView) -> Self {
        Self {
            id: view.id.to_string(),
            object: "job",
            kind: view.spec.kind(),
            status: view.status.as_str(),
            created_at: Time(view.created_at),
            started_at: view.started_at.map(Time),
            finished_at: view.finished_at.map(Time),
            estimated_finish: view.estimated_finish.map(Time),
            progress: Progress { step: view.step, steps: view.steps, epoch: view.epoch },
            metrics: view.metrics.into_iter().collect(),
            spec: spec_to_json(&view.spec),
            result: view.result.map(Into::into),
            error: view.error.map(|(code, message)| JobFailure { code, message }),
        }
    }
}

impl From<serving::PublishedVersion> for JobResult {
    fn from(published: serving::PublishedVersion) -> Self {
        Self { adapter: published.name.to_string(), version: published.version, digest: published.digest.to_string() }
    }
}

impl From<serving::jobs::JobEvent> for Event {
    fn from(event: serving::jobs::JobEvent) -> Self {
        Self {
            id: event.id,
            object: "job.event",
            created_at: Time(event.created_at),
            level: event.level,
            kind: event.kind,
            message: event.message,
            data: event.data,
        }
    }
}

impl From<serving::jobs::CheckpointView> for Checkpoint {
    fn from(view: serving::jobs::CheckpointView) -> Self {
        Self { step: view.step, created_at: Time(view.created_at), bytes: view.bytes }
    }
}

//! Multi-task pre-finetuning: what a run is asked for.

use std::str::FromStr;

use crate::domain::{AdapterName, DataRef, Error, Family, LayerChoice, Publish};

/// Which objectives train the backbone, and whether each family has LoRA of its own meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Both objectives train the backbone; each family has LoRA in the last layers, trained by its own objective alone.
    #[default]
    TaskPrimary,
    /// Both objectives train the backbone, and nothing is a family's own.
    Joint,
    NerOnly,
    ClassifyOnly,
}

impl Strategy {
    pub const ALL: [Self; 4] = [Self::TaskPrimary, Self::Joint, Self::NerOnly, Self::ClassifyOnly];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::TaskPrimary => "task_primary",
            Self::Joint => "joint",
            Self::NerOnly => "ner_only",
            Self::ClassifyOnly => "classify_only",
        }
    }

    /// Whose objectives are trained, in this order.
    pub fn families(self) -> &'static [Family] {
        match self {
            Self::TaskPrimary | Self::Joint => &[Family::Ner, Family::Classify],
            Self::NerOnly => &[Family::Ner],
            Self::ClassifyOnly => &[Family::Classify],
        }
    }

    /// Whether families have LoRA of their own while the backbone is trained.
    pub fn has_family_lora(self) -> bool {
        self == Self::TaskPrimary
    }
}

impl FromStr for Strategy {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|strategy| strategy.as_str() == s).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::invalid(format!("strategy {s:?} is none of {known}"))
        })
    }
}

/// A dataset of the mix.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedSet {
    pub data: DataRef,
    /// How much more often it is drawn than its size says; 1 is neutral.
    pub weight: f64,
}

/// How a learning rate ends after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decay {
    #[default]
    Linear,
    Cosine,
}

impl Decay {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }
}

impl FromStr for Decay {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        [Self::Linear, Self::Cosine]
            .into_iter()
            .find(|decay| decay.as_str() == s)
            .ok_or_else(|| Error::invalid(format!("decay {s:?} is neither \"linear\" nor \"cosine\"")))
    }
}

/// What products with the backbone's weights are computed in; weights, sums, gradients and moments are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainingPrecision {
    #[default]
    F32,
    /// Where the machine has instructions for it, else f32.
    Bf16,
}

impl TrainingPrecision {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl FromStr for TrainingPrecision {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        [Self::F32, Self::Bf16]
            .into_iter()
            .find(|precision| precision.as_str() == s)
            .ok_or_else(|| Error::invalid(format!("precision {s:?} is neither \"f32\" nor \"bf16\"")))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct PreFinetuneHyperparameters {
    pub steps: u64,
    /// Rows of NER, and pairs of classification, in each step.
    pub batch_size: usize,
    /// Where families have LoRA.
    pub layers: LayerChoice,
    pub rank: usize,
    pub alpha: f64,
    /// None: `auto`, every linear of the chosen layers.
    pub target_modules: Option<Vec<String>>,
    pub backbone_learning_rate: f64,
    /// Of LoRA; heads learn faster.
    pub adapter_learning_rate: f64,
    pub weight_decay: f64,
    pub warmup_ratio: f64,
    pub decay: Decay,
    /// Of the whole gradient of the backbone, and of each family's own.
    pub max_gradient_norm: f64,
    /// Before LoRA's A.
    pub dropout: f64,
    /// Tokens, special ones included.
    pub max_length: usize,
    /// Of the contrast between texts.
    pub temperature: f64,
    /// A dataset is drawn in proportion to its weight times its rows to this power.
    pub sampling_exponent: f64,
    /// How many of the batches of labelled texts pair each text with its label's name rather than with another text of its class.
    pub label_name_share: f64,
    /// Pairs of one class in a batch at most each time that a set is drawn; further sets fill the batch.
    pub class_pairs_max: usize,
    /// How much it counts, beside the contrast between texts, that their similarities stay what the backbone began with.
    pub preserve_weight: f64,
    /// What each objective counts, after division by its value at chance.
    pub ner_weight: f64,
    pub classify_weight: f64,
    /// Entity types that a batch is compared with.
    pub concepts_max: usize,
    pub precision: TrainingPrecision,
    /// Steps between two measurements of gradients.
    pub measure_every: u64,
    pub seed: u64,
}

impl PreFinetuneHyperparameters {
    /// A batch encodes each of its entity types; more would cost more than its rows.
    pub const CONCEPTS_MAX: usize = 256;
}

/// Layers, rank, modules and the backbone's rate are what `docs/study/ablation` chose.
impl Default for PreFinetuneHyperparameters {
    fn default() -> Self {
        Self {
            steps: 2000,
            batch_size: 32,
            layers: LayerChoice::Last(4),
            rank: 16,
            alpha: 32.0,
            target_modules: None,
            backbone_learning_rate: 5e-5,
            adapter_learning_rate: 2e-4,
            weight_decay: 0.01,
            warmup_ratio: 0.06,
            decay: Decay::Linear,
            max_gradient_norm: 1.0,
            dropout: 0.0,
            max_length: 64,
            temperature: 0.05,
            sampling_exponent: 0.5,
            label_name_share: 0.3,
            class_pairs_max: 2,
            preserve_weight: 0.0,
            ner_weight: 1.0,
            classify_weight: 1.0,
            concepts_max: 96,
            precision: TrainingPrecision::F32,
            measure_every: 20,
            seed: 42,
        }
    }
}

/// What the results are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreFinetuneOutputs {
    /// A folder's name.
    pub backbone: AdapterName,
    pub ner_primary: AdapterName,
    pub classify_primary: AdapterName,
}

impl PreFinetuneOutputs {
    pub fn primary(&self, family: Family) -> &AdapterName {
        match family {
            Family::Ner => &self.ner_primary,
            Family::Classify => &self.classify_primary,
        }
    }
}

/// One pre-finetuning run.
#[derive(Clone, Debug, PartialEq)]
pub struct PreFinetuneSpec {
    /// `default`, or the resident backbone's name.
    pub backbone: String,
    pub strategy: Strategy,
    pub ner: Vec<MixedSet>,
    pub classify: Vec<MixedSet>,
    pub hyperparameters: PreFinetuneHyperparameters,
    pub outputs: PreFinetuneOutputs,
    /// The backbone's folder is left whatever this says. `Stage` publishes the primaries beside what is active, and the backbone
    /// is resident for them; `Activate` makes all three active; `Never` publishes nothing.
    pub publish: Publish,
}

impl PreFinetuneSpec {
    /// The datasets of a family.
    pub fn mix(&self, family: Family) -> &[MixedSet] {
        match family {
            Family::Ner => &self.ner,
            Family::Classify => &self.classify,
        }
    }
}

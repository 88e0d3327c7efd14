//! One family's own part of a run: its LoRA and its head, as variables and as one flat vector.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::adapter::{AdapterBundle, AdapterCard};
use crate::domain::{
    Digest, Error, Family, HeadForm, Hyperparameters, PreFinetuneHyperparameters, ProblemType, Result, Strategy,
};
use crate::model::{ConceptHead, Encoder, LoraWeights};
use crate::training::card::lora_config;
use crate::training::objective::Loss;
use crate::training::optimizer::Group;
use crate::training::pre_finetune::shard::Compared;
use crate::training::variables::Variables;

/// A head begins as the identity and must find its own scale: it learns faster than LoRA.
const HEAD_RATE: f64 = 5.0;

pub(super) struct Primary {
    pub family: Family,
    /// Before training; its tensors are no variables.
    fresh: AdapterBundle,
    /// Made of `variables`.
    adapter: AdapterBundle,
    pub variables: Variables,
    /// Whether the backbone is trained with its LoRA in place.
    has_lora: bool,
}

/// What one comparison gives.
pub(super) struct Verdict {
    /// By what was compared.
    pub slopes: Compared,
    /// By the head's variables; the others' places are zero.
    pub gradient: Vec<f32>,
}

impl Primary {
    pub(super) fn new(
        family: Family,
        strategy: Strategy,
        asked: &PreFinetuneHyperparameters,
        encoder: &Encoder,
        fingerprint: &Digest,
    ) -> Result<Self> {
        let lora = Hyperparameters {
            rank: asked.rank,
            alpha: asked.alpha,
            layers: asked.layers.clone(),
            target_modules: asked.target_modules.clone(),
            dropout: asked.dropout,
            ..Hyperparameters::default()
        };
        let card = AdapterCard {
            family,
            head: match family {
                Family::Ner => HeadForm::Concepts,
                Family::Classify => HeadForm::Similarity,
            },
            labels: Vec::new(),
            problem_type: ProblemType::SingleLabel,
            backbone_fingerprint: fingerprint.clone(),
            max_length: encoder.config().max_length,
            pooling: "mean".to_owned(),
            thresholds: Default::default(),
            training: None,
        };
        let config = lora_config(family, &lora, encoder)?;
        let mut fresh = AdapterBundle::fresh(config, card, encoder, asked.seed)?;
        if family == Family::Classify {
            let scale = Tensor::new((1.0 / asked.temperature).ln() as f32, encoder.device())?;
            fresh = fresh.with_tensors(encoder, &HashMap::from([("log_scale".to_owned(), scale)]))?;
        }
        let (adapter, variables) = Variables::of(&fresh, encoder)?;
        Ok(Self { family, fresh, adapter, variables, has_lora: strategy.has_family_lora() })
    }

    /// What runs in the layers, if anything of the family's own does.
    pub(super) fn lora(&self) -> Option<&LoraWeights> {
        self.has_lora.then_some(&self.adapter.lora)
    }

    pub(super) fn head(&self) -> Result<&ConceptHead> {
        self.adapter.head.concepts().ok_or_else(|| Error::internal("a primary's head compares with names"))
    }

    /// LoRA at the asked rate, the head faster, without decay; a temperature is a choice and stays.
    pub(super) fn groups(&self, asked: &PreFinetuneHyperparameters) -> Vec<Group> {
        self.variables.groups_by(|name| {
            let is_lora = name.contains("lora_");
            let rate = match (is_lora, self.family) {
                (true, _) => f64::from(u8::from(self.has_lora)),
                (false, Family::Ner) => HEAD_RATE,
                (false, Family::Classify) => 0.0,
            };
            (rate, if is_lora { asked.weight_decay } else { 0.0 })
        })
    }

    /// Logits (rows, names) of what is `compared`, their loss by `loss`, and where it slopes to.
    pub(super) fn judge(
        &self,
        compared: &Compared,
        width: usize,
        loss: impl FnOnce(&[f32]) -> Loss,
    ) -> Result<Verdict> {
        let head = self.head()?;
        let leaf = |numbers: &[f32]| -> Result<Var> {
            Ok(Var::from_slice(numbers, (numbers.len() / width, width), &Device::Cpu)?)
        };
        let (rows, names) = (leaf(&compared.rows)?, leaf(&compared.names)?);
        let logits = head.row_logits(rows.as_tensor(), &head.concepts(names.as_tensor())?)?;
        let loss = loss(&logits.flatten_all()?.to_vec1::<f32>()?);
        let slope = Tensor::from_vec(loss.slope, logits.shape(), logits.device())?;
        // Σ logits·slope has the loss's gradient
        let gradients = (logits * slope)?.sum_all()?.backward()?;
        let of = |leaf: &Var| -> Result<Vec<f32>> {
            let missing = || Error::internal("no gradient reaches what was compared");
            Ok(gradients.get(leaf.as_tensor()).ok_or_else(missing)?.flatten_all()?.to_vec1::<f32>()?)
        };
        let slopes = Compared { rows: of(&rows)?, names: of(&names)? };
        let gradient = self.variables.gradient_where(&gradients, |name| !name.contains("lora_"))?;
        Ok(Verdict { slopes, gradient })
    }

    /// By the variables of its LoRA, as a backward pass through the layers left it; zero where it has none in them.
    pub(super) fn lora_gradient(&self, gradients: &GradStore) -> Result<Vec<f32>> {
        self.variables.gradient_where(gradients, |name| self.has_lora && name.contains("lora_"))
    }

    /// The adapter with these numbers, and what its card is to say.
    pub(super) fn finished(
        &self,
        numbers: &[f32],
        encoder: &Encoder,
        card: impl FnOnce(AdapterCard) -> AdapterCard,
    ) -> Result<AdapterBundle> {
        let trained = self.fresh.with_tensors(encoder, &self.variables.tensors(numbers)?)?;
        let card = card(trained.card.clone());
        Ok(trained.with_card(card))
    }

    /// Logits of what is `compared`, row after row.
    pub(super) fn scores(&self, compared: &Compared, width: usize) -> Result<Vec<f32>> {
        let matrix = |numbers: &[f32]| -> Result<Tensor> {
            Ok(Tensor::from_slice(numbers, (numbers.len() / width, width), &Device::Cpu)?)
        };
        let head = self.head()?;
        let logits = head.row_logits(&matrix(&compared.rows)?, &head.concepts(&matrix(&compared.names)?)?)?;
        Ok(logits.flatten_all()?.to_vec1()?)
    }
}

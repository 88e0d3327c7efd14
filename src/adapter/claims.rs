//! The tensors of an adapter, claimed one by one by what they are for; what is missing, misshapen or left over is noted, so that a
//! refusal lists everything at once.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;

use crate::adapter::bundle::Target;
use crate::adapter::files::CONCEPTS_NAME;
use crate::adapter::names::{lora_a, lora_b, lora_b_bias, module_name};
use crate::adapter::pooler::Pooler;
use crate::adapter::weights::{NamedTensors, file_name};
use crate::adapter::{AdapterCard, LoraConfig};
use crate::domain::{Error, Problems, Result};
use crate::model::{ConceptHead, Delta, Encoder, Head, HeadKind, Site};

/// Tensors not claimed yet, by their name in the task model.
pub(crate) struct Claims {
    tensors: NamedTensors,
    /// Of `concept_head.safetensors`.
    concepts: NamedTensors,
    pub(crate) problems: Problems,
}

impl Claims {
    pub(crate) fn new(tensors: NamedTensors, problems: Problems) -> Self {
        Self { tensors, concepts: NamedTensors::new(), problems }
    }

    pub(crate) fn with_concepts(self, concepts: NamedTensors) -> Self {
        Self { concepts, ..self }
    }

    pub(crate) fn put(&mut self, name: String, tensor: Tensor) {
        self.tensors.insert(name, tensor);
    }

    /// Whether there is either half of a module's update.
    pub(crate) fn has_update(&self, module: &str) -> bool {
        [lora_a(module), lora_b(module)].iter().any(|name| self.tensors.contains_key(name))
    }

    /// The adapter's own tensor of this shape; None if it brings none, and leaves one of another shape for who will refuse it.
    pub(crate) fn own(&self, name: &str, shape: &[usize]) -> Option<Tensor> {
        self.tensors.get(name).filter(|tensor| tensor.dims() == shape).cloned()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Both halves of a module's update.
    pub(crate) fn take_delta(&mut self, target: &Target) -> Option<(Site, Delta)> {
        let a = self.take(&lora_a(&target.module), &[target.rank, target.inputs]);
        let b = self.take(&lora_b(&target.module), &[target.outputs, target.rank]);
        Some((target.site, Delta { a: a?, b: b?, scale: target.scale }))
    }

    /// What the adapter adds to the biases of linears, (out) each. After [`Claims::take_head`], whose biases are its own.
    pub(crate) fn take_bias_deltas(
        &mut self,
        config: &LoraConfig,
        targets: &[Target],
        encoder: &Encoder,
    ) -> Result<BTreeMap<Site, Tensor>> {
        if config.lora_bias {
            return self.take_lora_biases(targets);
        }
        match &*config.bias {
            "all" => {
                let deltas = self.take_trained_biases(&encoder.sites(), encoder)?;
                self.drop_unchanged_biases(encoder);
                Ok(deltas)
            }
            "lora_only" => {
                let sites: Vec<Site> = targets.iter().map(|target| target.site).collect();
                self.take_trained_biases(&sites, encoder)
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    /// B's own biases, scaled as the update is.
    fn take_lora_biases(&mut self, targets: &[Target]) -> Result<BTreeMap<Site, Tensor>> {
        let mut deltas = BTreeMap::new();
        for target in targets {
            if let Some(bias) = self.take(&lora_b_bias(&target.module), &[target.outputs]) {
                deltas.insert(target.site, (bias * target.scale)?);
            }
        }
        Ok(deltas)
    }

    /// Biases that were trained in place, less the backbone's. PEFT forgets to save them under `lora_only` and then runs the
    /// backbone's; so do we.
    fn take_trained_biases(&mut self, sites: &[Site], encoder: &Encoder) -> Result<BTreeMap<Site, Tensor>> {
        let mut deltas = BTreeMap::new();
        for &site in sites {
            let name = format!("{}.bias", module_name(encoder.config().architecture, site));
            let Some(base) = encoder.backbone_tensor(&name).filter(|_| self.tensors.contains_key(&name)) else {
                continue;
            };
            if let Some(bias) = self.take(&name, base.dims()) {
                deltas.insert(site, (bias - base)?);
            }
        }
        Ok(deltas)
    }

    /// Under `all` PEFT saves every bias there is. Those of norms cannot be changed here, but may be there as they were.
    fn drop_unchanged_biases(&mut self, encoder: &Encoder) {
        let is_as_it_was = |name: &str, bias: &Tensor| {
            let base = encoder.backbone_tensor(name).filter(|base| base.dims() == bias.dims());
            base.is_some_and(|base| matches!((values(&base), values(bias)), (Ok(base), Ok(bias)) if base == bias))
        };
        self.tensors.retain(|name, bias| !(name.ends_with(".bias") && is_as_it_was(name, bias)));
    }

    /// The head's tensors by name, and the pooler's where the adapter trained a copy of it.
    pub(crate) fn take_head(
        &mut self,
        config: &LoraConfig,
        card: &AdapterCard,
        encoder: &Encoder,
        kind: HeadKind,
    ) -> HashMap<String, Tensor> {
        let mut wanted = Head::required(kind, encoder, &card.pooling, card.labels.len());
        if Pooler::is_saved(config) {
            wanted.extend(Pooler::of(card, encoder).iter().flat_map(Pooler::tensors));
        }
        // Parts of the head that the backbone's file has too (ModernBERT's prediction head): the adapter's own go before.
        let of_head = self.tensors.keys().filter(|name| name.starts_with("head."));
        let own = of_head.filter_map(|name| Some((name.clone(), encoder.backbone_tensor(name)?.dims().to_vec())));
        wanted.extend(own);
        wanted.sort();
        wanted.dedup();
        wanted.into_iter().filter_map(|(name, shape)| self.take(&name, &shape).map(|tensor| (name, tensor))).collect()
    }

    /// The tensors of a head that compares with names.
    pub(crate) fn take_concepts(&mut self, kind: HeadKind, encoder: &Encoder) -> HashMap<String, Tensor> {
        let mut taken = HashMap::new();
        for (name, shape) in ConceptHead::required(kind, encoder.config().hidden_size) {
            match self.concepts.remove(name) {
                Some(tensor) if tensor.dims() == shape => drop(taken.insert(name.to_owned(), tensor)),
                Some(tensor) => {
                    let got = tensor.dims();
                    self.problems.push(format_args!("{CONCEPTS_NAME}: {name} has shape {got:?}; {shape:?} is wanted"));
                }
                None => self.problems.push(format_args!("{CONCEPTS_NAME}: {name} of shape {shape:?} is missing")),
            }
        }
        taken
    }

    /// Fails with all problems; a tensor that nobody claimed is one.
    pub(crate) fn finish(mut self) -> Result<()> {
        for name in self.tensors.keys() {
            self.problems.push(format_args!(
                "{} is nothing that this configuration lets an adapter change in this backbone",
                file_name(name)
            ));
        }
        for name in self.concepts.keys() {
            self.problems.push(format_args!("{CONCEPTS_NAME}: {name} is nothing that the card's head has"));
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(Error::unprocessable("the adapter's weights do not fit its configuration and the backbone")
            .with_problems(self.problems))
    }

    /// A tensor of this shape; if there is none, that is noted.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Option<Tensor> {
        match self.tensors.remove(name) {
            Some(tensor) if tensor.dims() == shape => Some(tensor),
            Some(tensor) => {
                let got = tensor.dims();
                self.problems.push(format_args!("{} has shape {got:?}; {shape:?} is wanted", file_name(name)));
                None
            }
            None => {
                self.problems.push(format_args!("{} is missing", file_name(name)));
                None
            }
        }
    }
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

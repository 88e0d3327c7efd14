//! An adapter checked against its backbone: configuration, LoRA weights and head, ready to run or to train.
//! Leaves the files' formats to `config`, `card` and `weights`, fresh weights to `fresh`.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;

use crate::adapter::claims::Claims;
use crate::adapter::config::FEATURE_EXTRACTION;
use crate::adapter::heads;
use crate::adapter::names::{lora_a, lora_b, lora_b_bias, module_name};
use crate::adapter::targets::resolve;
use crate::adapter::weights::{self, NamedTensors};
use crate::adapter::{AdapterCard, AdapterFiles, LoraConfig};
use crate::domain::{Digest, Error, Family, HeadForm, LabelSet, Problems, Result};
use crate::model::{Architecture, ConceptHead, Delta, Encoder, Head, HeadKind, LoraWeights, Site, TaskHead};

/// Everything an engine or trainer needs of one adapter version. Tensors are f32 on the encoder's device.
#[derive(Clone, Debug)]
pub struct AdapterBundle {
    pub config: LoraConfig,
    pub card: AdapterCard,
    /// None for a head that compares with names.
    pub labels: LabelSet,
    pub lora: LoraWeights,
    pub head: TaskHead,
    /// Trained numbers: LoRA and head.
    pub parameters: usize,
    architecture: Architecture,
}

/// A linear that the configuration chooses.
pub(crate) struct Target {
    pub(crate) site: Site,
    /// Its name in the task model: `bert.encoder.layer.4.attention.self.query`.
    pub(crate) module: String,
    pub(crate) rank: usize,
    pub(crate) scale: f64,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
}

impl AdapterBundle {
    /// Reads and checks all of it; `unprocessable` with every problem found, by tensor name; `conflict` if made for another backbone.
    /// Nothing is ever initialised that the files lack.
    pub fn read(files: &AdapterFiles, encoder: &Encoder, fingerprint: &Digest) -> Result<Self> {
        let config = LoraConfig::from_json(&files.config)?;
        let card = files.read_card()?;
        if card.backbone_fingerprint != *fingerprint {
            return Err(Error::conflict(format!(
                "the adapter was made for backbone {}; the resident one is {fingerprint}",
                card.backbone_fingerprint
            )));
        }
        let mut problems = Problems::new();
        let mut tensors = weights::parse(&files.weights, encoder.device(), &mut problems)?;
        if config.wraps_encoder() {
            let prefix = encoder.config().architecture.task_prefix();
            tensors = tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
        }
        let concepts = match &files.concepts {
            Some(bytes) => weights::parse_concepts(bytes, encoder.device(), &mut problems)?,
            None => NamedTensors::new(),
        };
        Self::assemble(config, card, encoder, Claims::new(tensors, problems).with_concepts(concepts))
    }

    /// From all the tensors of an adapter, by their names in the task model.
    pub(crate) fn assemble(
        config: LoraConfig,
        card: AdapterCard,
        encoder: &Encoder,
        mut claims: Claims,
    ) -> Result<Self> {
        check_card(&config, &card, encoder, &mut claims.problems);
        let kind = head_kind(card.family);
        let config = heads::merge(config, &card, (encoder, kind), &mut claims)?;
        let projection = heads::take_projection(&config, encoder, &mut claims)?;
        let targets = targets_of(&config, encoder)?;
        if targets.is_empty() && projection.is_none() {
            claims.problems.push("target_modules matches no module of the backbone");
        }
        let deltas = targets.iter().filter_map(|target| claims.take_delta(target)).collect();
        let head = match card.head {
            HeadForm::Labels => claims.take_head(&config, &card, encoder, kind),
            HeadForm::Concepts | HeadForm::Similarity => claims.take_concepts(kind, encoder),
        };
        let bias_deltas = claims.take_bias_deltas(&config, &targets, encoder)?;
        claims.finish()?;
        let (head, labels) = match card.head {
            HeadForm::Labels => {
                let head = Head::from_tensors(kind, encoder, &card.pooling, card.labels.len(), &head)?;
                (TaskHead::Labels(head), LabelSet::new(card.labels.clone())?)
            }
            HeadForm::Concepts | HeadForm::Similarity => {
                (TaskHead::Concepts(ConceptHead::from_tensors(kind, encoder, &head)?), LabelSet::none())
            }
        };
        let lora = LoraWeights::new(deltas, bias_deltas).with_projection(projection);
        Ok(Self::new(config, card, labels, lora, head, encoder))
    }

    fn new(
        config: LoraConfig,
        card: AdapterCard,
        labels: LabelSet,
        lora: LoraWeights,
        head: TaskHead,
        encoder: &Encoder,
    ) -> Self {
        let architecture = encoder.config().architecture;
        let mut bundle = Self { config, card, labels, lora, head, parameters: 0, architecture };
        let projection = bundle.lora.projection().into_iter().flat_map(|delta| [&delta.a, &delta.b]);
        let biases = bundle.lora.bias_deltas().values().chain(projection).map(Tensor::elem_count);
        bundle.parameters = bundle.trainable().iter().map(|(_, tensor)| tensor.elem_count()).chain(biases).sum();
        bundle
    }

    /// The tensors that training changes, by their names in the task model, always in the same order: `….lora_A.weight` (rank, in) and
    /// `….lora_B.weight` (out, rank) of each site, then the head's.
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        let of_site = |(&site, delta): (&Site, &Delta)| {
            let module = module_name(self.architecture, site);
            [(lora_a(&module), delta.a.clone()), (lora_b(&module), delta.b.clone())]
        };
        self.lora.deltas().iter().flat_map(of_site).chain(self.head.tensors()).collect()
    }

    /// The same adapter with some of its [`AdapterBundle::trainable`] tensors replaced by name: a trainer's variables, through which
    /// gradients then flow, or what they became. A name that is not there, or another shape, is an internal error.
    pub fn with_tensors(&self, encoder: &Encoder, tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let mut own: HashMap<String, Tensor> = self.trainable().into_iter().collect();
        for (name, tensor) in tensors {
            match own.get_mut(name) {
                Some(old) if old.dims() == tensor.dims() => *old = tensor.clone(),
                old => {
                    let (got, wanted) = (tensor.dims(), old.map(|old| old.dims()));
                    return Err(Error::internal(format!("tensor {name} has shape {got:?}; {wanted:?} is wanted")));
                }
            }
        }
        let mut deltas = self.lora.deltas().clone();
        for (&site, delta) in &mut deltas {
            let module = module_name(self.architecture, site);
            delta.a = own[&lora_a(&module)].clone();
            delta.b = own[&lora_b(&module)].clone();
        }
        let head: HashMap<_, _> =
            self.head.tensors().into_iter().map(|(name, _)| (name.clone(), own[&name].clone())).collect();
        let head = self.head.with_tensors(encoder, &self.card.pooling, &head)?;
        let lora = LoraWeights::new(deltas, self.lora.bias_deltas().clone());
        let lora = lora.with_projection(self.lora.projection().cloned());
        Ok(Self { lora, head, ..self.clone() })
    }

    /// The same adapter with another account of itself; what its head and labels are must stay.
    #[must_use]
    pub fn with_card(self, card: AdapterCard) -> Self {
        Self { card, ..self }
    }

    /// The files of this adapter, as PEFT writes them. Same weights, same bytes.
    pub fn to_files(&self, encoder: &Encoder) -> Result<AdapterFiles> {
        let of_head: BTreeMap<String, Tensor> = self.head.tensors().into_iter().collect();
        let is_apart = self.head.concepts().is_some();
        let mut tensors: NamedTensors = self.trainable().into_iter().collect();
        tensors.retain(|name, _| !is_apart || !of_head.contains_key(name));
        if let Some(delta) = self.lora.projection() {
            let module = heads::projection_name(self.architecture);
            tensors.extend([(lora_a(&module), delta.a.clone()), (lora_b(&module), delta.b.clone())]);
        }
        for (&site, delta) in self.lora.bias_deltas() {
            let (name, bias) = self.file_bias(site, delta, encoder)?;
            tensors.insert(name, bias);
        }
        let mut config = self.config.clone();
        config.modules_to_save = saved_modules(&self.config, &self.head, encoder);
        config.task_type = Some(task_type(self.family(), self.card.head).to_owned());
        if config.wraps_encoder() {
            let prefix = encoder.config().architecture.task_prefix();
            let bare = |name: String| name.strip_prefix(prefix).map(str::to_owned).unwrap_or(name);
            tensors = tensors.into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
        }
        Ok(AdapterFiles {
            config: config.to_json(),
            weights: weights::write(&tensors)?,
            card: Some(self.card.to_json()),
            concepts: is_apart.then(|| weights::write_concepts(&of_head)).transpose()?,
        })
    }

    /// A bias as the file keeps it: B's own, before scaling; or the linear's, which is inside PEFT's wrapper where there is an update.
    fn file_bias(&self, site: Site, delta: &Tensor, encoder: &Encoder) -> Result<(String, Tensor)> {
        let module = module_name(self.architecture, site);
        let update = self.lora.deltas().get(&site);
        if let (true, Some(update)) = (self.config.lora_bias, update) {
            return Ok((lora_b_bias(&module), (delta / update.scale)?));
        }
        let base = encoder.backbone_tensor(&format!("{module}.bias"));
        let base = base.ok_or_else(|| Error::internal(format!("{module} has no bias to change")))?;
        let wrapper = if update.is_some() { ".base_layer" } else { "" };
        Ok((format!("{module}{wrapper}.bias"), (base + delta)?))
    }

    pub fn family(&self) -> Family {
        self.card.family
    }
}

/// The linears that `config` chooses, ascending.
pub(crate) fn targets_of(config: &LoraConfig, encoder: &Encoder) -> Result<Vec<Target>> {
    let sites = encoder.sites();
    let modules: Vec<String> = sites.iter().map(|&site| module_name(encoder.config().architecture, site)).collect();
    let updates = resolve(config, &modules)?;
    let target = |((site, module), update): ((Site, String), Option<(usize, f64)>)| {
        let (rank, scale) = update?;
        let (outputs, inputs) = encoder.site_shape(site);
        Some(Target { site, module, rank, scale, outputs, inputs })
    };
    Ok(sites.into_iter().zip(modules).zip(updates).filter_map(target).collect())
}

pub(crate) fn head_kind(family: Family) -> HeadKind {
    match family {
        Family::Ner => HeadKind::Token,
        Family::Classify => HeadKind::Sequence,
    }
}

fn task_type(family: Family, head: HeadForm) -> &'static str {
    match (head, family) {
        (HeadForm::Labels, Family::Ner) => "TOKEN_CLS",
        (HeadForm::Labels, Family::Classify) => "SEQ_CLS",
        (HeadForm::Concepts | HeadForm::Similarity, _) => FEATURE_EXTRACTION,
    }
}

fn check_card(config: &LoraConfig, card: &AdapterCard, encoder: &Encoder, problems: &mut Problems) {
    if config.family().is_some_and(|family| family != card.family) {
        let task_type = config.task_type.as_deref().unwrap_or_default();
        problems.push(format_args!("family {} contradicts task_type {task_type:?}", card.family));
    }
    if config.task_type.is_some() && config.wraps_encoder() == (card.head == HeadForm::Labels) {
        let (head, task_type) = (card.head.as_str(), config.task_type.as_deref().unwrap_or_default());
        problems.push(format_args!("head {head:?} contradicts task_type {task_type:?}"));
    }
    let max_length = encoder.config().max_length;
    if card.max_length > max_length {
        problems.push(format_args!("max_length {} is over the backbone's {max_length}", card.max_length));
    }
}

/// The names PEFT needs to find the head again: its own defaults, and the module of every tensor the head brings.
fn saved_modules(config: &LoraConfig, head: &TaskHead, encoder: &Encoder) -> Vec<String> {
    if head.concepts().is_some() {
        return config.modules_to_save.clone();
    }
    let prefix = encoder.config().architecture.task_prefix();
    let module = |name: String| name.strip_prefix(prefix).unwrap_or(&name).split('.').next().map(str::to_owned);
    let defaults = ["classifier", "score"].map(str::to_owned);
    let of_head = head.tensors().into_iter().filter_map(|(name, _)| module(name));
    let all = config.modules_to_save.iter().cloned().chain(defaults).chain(of_head);
    all.map(|name| (name, ())).collect::<BTreeMap<_, _>>().into_keys().collect()
}

#[cfg(test)]
mod tests;

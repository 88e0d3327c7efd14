//! From a checkpoint's tensors to the encoder's parts, under the reference library's names.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::domain::Result;
use crate::model::kernels::packed::Kernel;
use crate::model::layers::{Block, BlockShape, Embeddings, Linear, Master, Norm, Rotary, TrainedLinear, TrainedNorm};
use crate::model::weights::Weights;
use crate::model::{Architecture, EncoderConfig, LayerAttention, Linear as Role, Site};

/// Of the reference library's classes for sequence and token classification.
const HEAD_LINEARS: [&str; 4] = ["pre_classifier", "classifier", "classifier.dense", "classifier.out_proj"];

/// Reads the parts of one encoder.
pub(super) struct Loader<'a> {
    pub(super) config: &'a EncoderConfig,
    pub(super) weights: &'a Weights,
    pub(super) device: &'a Device,
    /// Of training's products with frozen weights.
    pub(super) kernel: Kernel,
    /// Takes the weights of all layers, if they are to be trained.
    pub(super) master: Option<&'a Arc<Master>>,
}

impl Loader<'_> {
    pub(super) fn embeddings(&self) -> Result<Embeddings> {
        let config = self.config;
        let width = config.embedding_size;
        let is_modern = config.architecture == Architecture::ModernBert;
        let (words, norm) = if is_modern { ("tok_embeddings", "norm") } else { ("word_embeddings", "LayerNorm") };
        let table = |name: &str, rows: usize| self.weights.get(&format!("embeddings.{name}.weight"), &[rows, width]);
        let types = config.type_vocab_size;
        Ok(Embeddings {
            words: table(words, config.vocab_size)?,
            positions: if is_modern { None } else { Some(table("position_embeddings", self.positions())?) },
            types: if types == 0 { None } else { Some(table("token_type_embeddings", types)?) },
            norm: self.norm(&format!("embeddings.{norm}"), width)?,
            projection: self.projection()?,
            position_offset: config.position_offset,
        })
    }

    /// One after the other, each read when it is its turn.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Result<Block>> {
        let mut rotaries: Vec<(f64, Rotary)> = Vec::new(); // one a theta: there are two, or none
        let layers = self.config.attention.iter().enumerate();
        layers.map(move |(layer, attention)| self.block(layer, *attention, &mut rotaries))
    }

    /// The norm after the last layer, where there is one.
    pub(super) fn final_norm(&self) -> Result<Option<Norm>> {
        let has_one = self.config.architecture == Architecture::ModernBert;
        has_one.then(|| self.norm("final_norm", self.config.hidden_size)).transpose()
    }

    /// What adapters may bring their own copy of, by its name in the reference library's task model: every bias, and what
    /// the file carries for heads (BERT's pooler, ModernBERT's prediction head).
    pub(super) fn shared(&self) -> Result<HashMap<String, Tensor>> {
        let prefix = self.config.architecture.task_prefix();
        let biases = self.modules().into_iter().map(|module| format!("{module}.bias"));
        let mut shared = HashMap::new();
        for name in biases.chain(["pooler.dense.weight", "pooler.dense.bias"].map(str::to_owned)) {
            if let Some(tensor) = self.weights.find_below(&name)? {
                shared.insert(format!("{prefix}{name}"), tensor);
            }
        }
        for name in ["head.dense.weight", "head.dense.bias", "head.norm.weight", "head.norm.bias"] {
            if let Some(tensor) = self.weights.find_beside(name)? {
                shared.insert(name.to_owned(), tensor);
            }
        }
        Ok(shared)
    }

    /// Linears of a head that the file has beside the encoder, as one saved for classification does. An adapter's update adds to them.
    pub(super) fn beside(&self) -> Result<HashMap<String, Tensor>> {
        let mut beside = HashMap::new();
        for module in HEAD_LINEARS {
            for name in [format!("{module}.weight"), format!("{module}.bias")] {
                beside.extend(self.weights.find_beside(&name)?.map(|tensor| (name, tensor)));
            }
        }
        Ok(beside)
    }

    /// The names of all linears and norms below the encoder.
    fn modules(&self) -> Vec<String> {
        let architecture = self.config.architecture;
        let (attention_norm, feed_forward_norm) = architecture.norms();
        let below = architecture.linears().iter().map(|(_, name)| *name).chain([attention_norm, feed_forward_norm]);
        let layer_path = architecture.layer_path();
        let of_layer = |name: &str| (0..self.config.layers).map(move |i| format!("{layer_path}.{i}.{name}")).collect();
        let of_layers = below.flat_map(|name| -> Vec<String> { of_layer(name) });
        let others = ["embeddings.LayerNorm", "embeddings.norm", "embeddings_project", "final_norm"].map(str::to_owned);
        of_layers.chain(others).collect()
    }

    fn positions(&self) -> usize {
        self.config.max_length + self.config.position_offset
    }

    fn projection(&self) -> Result<Option<(Tensor, Tensor)>> {
        let (from, to) = (self.config.embedding_size, self.config.hidden_size);
        if from == to {
            return Ok(None);
        }
        let weight = self.weights.get("embeddings_project.weight", &[to, from])?;
        Ok(Some((weight, self.weights.get("embeddings_project.bias", &[to])?)))
    }

    fn block(&self, layer: usize, attention: LayerAttention, rotaries: &mut Vec<(f64, Rotary)>) -> Result<Block> {
        let config = self.config;
        let (_, feed_forward_norm) = config.architecture.norms();
        Ok(Block {
            shape: self.shape(layer, attention, rotaries)?,
            attention_output: self.linear(layer, Role::AttentionOutput)?,
            intermediate: self.linear(layer, Role::Intermediate)?,
            output: self.linear(layer, Role::Output)?,
            feed_forward_norm: self.layer_norm(layer, feed_forward_norm)?,
            activation: config.activation,
            heads: config.heads,
            window: attention.window,
        })
    }

    fn shape(&self, layer: usize, attention: LayerAttention, rotaries: &mut Vec<(f64, Rotary)>) -> Result<BlockShape> {
        let (norm, _) = self.config.architecture.norms();
        if self.config.architecture != Architecture::ModernBert {
            let linear = |role| self.linear(layer, role);
            let qkv = [linear(Role::Query)?, linear(Role::Key)?, linear(Role::Value)?];
            return Ok(BlockShape::PostNorm { qkv, attention_norm: self.layer_norm(layer, norm)? });
        }
        let rotary = attention.rope_theta.map(|theta| self.rotary(theta, rotaries)).transpose()?;
        // the embeddings are normalised already
        let attention_norm = (layer > 0).then(|| self.layer_norm(layer, norm)).transpose()?;
        Ok(BlockShape::PreNorm { qkv: self.linear(layer, Role::Qkv)?, rotary, attention_norm })
    }

    fn rotary(&self, theta: f64, known: &mut Vec<(f64, Rotary)>) -> Result<Rotary> {
        if let Some((_, rotary)) = known.iter().find(|(of, _)| *of == theta) {
            return Ok(rotary.clone());
        }
        let rotary = Rotary::new(self.config.max_length, self.config.head_size(), theta, self.device)?;
        known.push((theta, rotary.clone()));
        Ok(rotary)
    }

    fn linear(&self, layer: usize, role: Role) -> Result<Linear> {
        let site = Site { layer, linear: role };
        let path = self.config.architecture.module_path(site);
        let (out, width) = self.config.linear_shape(role);
        let weight = self.weights.get(&format!("{path}.weight"), &[out, width])?;
        let bias = self.weights.get_if(self.config.has_bias(role), &format!("{path}.bias"), &[out])?;
        Ok(match self.master {
            Some(master) => Linear::trained(site, TrainedLinear::new(master, &path, &weight, bias.as_ref())?),
            None => Linear::new(site, &weight, bias, self.kernel)?,
        })
    }

    fn layer_norm(&self, layer: usize, name: &str) -> Result<Norm> {
        let path = format!("{}.{layer}.{name}", self.config.architecture.layer_path());
        let (gain, bias) = self.norm_weights(&path, self.config.hidden_size)?;
        let eps = self.config.layer_norm_eps;
        Ok(match self.master {
            Some(master) => Norm::Trained(TrainedNorm::new(master, &path, &gain, bias.as_ref(), eps)?),
            None => Norm::new(gain, bias, eps),
        })
    }

    fn norm(&self, path: &str, width: usize) -> Result<Norm> {
        let (gain, bias) = self.norm_weights(path, width)?;
        Ok(Norm::new(gain, bias, self.config.layer_norm_eps))
    }

    fn norm_weights(&self, path: &str, width: usize) -> Result<(Tensor, Option<Tensor>)> {
        let gain = self.weights.get(&format!("{path}.weight"), &[width])?;
        let bias = self.weights.get_if(self.config.biases.norm, &format!("{path}.bias"), &[width])?;
        Ok((gain, bias))
    }
}

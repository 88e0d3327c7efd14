//! The encoder: packed tokens in, hidden states out, adapters as an argument.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};

use crate::disk;
use crate::domain::{Error, Result};
use crate::model::kernels::packed::Kernel;
use crate::model::layers::{Block, Embeddings, Master, Norm, Pass};
use crate::model::loading::Loader;
use crate::model::lora::tensor_bytes;
use crate::model::packing::PackedLayers;
use crate::model::weights::Weights;
use crate::model::{EncoderConfig, LoraWeights, SegmentAdapters, Site};

/// `config.json` in bytes: one of a few hundred labels has some ten thousand.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Sequences end to end, no padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    pub ids: Vec<u32>,
    pub type_ids: Vec<u32>,
    /// Sequence `i` is tokens `bounds[i]..bounds[i + 1]`; begins with 0.
    pub bounds: Vec<usize>,
}

impl Packed {
    /// From `(ids, type_ids)` of each sequence.
    pub fn new<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [u32])>) -> Self {
        let mut packed = Self { bounds: vec![0], ..Self::default() };
        for (ids, type_ids) in sequences {
            packed.ids.extend_from_slice(ids);
            packed.type_ids.extend_from_slice(type_ids);
            packed.bounds.push(packed.ids.len());
        }
        packed
    }

    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    pub fn sequences(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }
}

/// Whether dropout is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Eval,
    /// Dropout before every adapter's A and before a head's dense layers; the frozen network itself drops nothing.
    /// Where no variable is, nothing is dropped. `seed` names the draw (a counter-based generator): same seed, same mask.
    Train {
        dropout: f32,
        seed: u64,
    },
}

/// The resident network. Base weights never change after loading; share it by `Arc`.
pub struct Encoder {
    config: EncoderConfig,
    device: Device,
    embeddings: Embeddings,
    /// The layers as training runs them. On the CPU read when they are first needed: a server that never trains never has them.
    blocks: OnceLock<Vec<Block>>,
    /// After the last layer.
    final_norm: Option<Norm>,
    /// What adapters may bring their own copy of, by its name in the task model.
    shared: HashMap<String, Tensor>,
    /// What the file holds of a head, which an adapter's update adds to; no adapter uses it as it is unless it says so.
    beside: HashMap<String, Tensor>,
    /// The layers again, for passes without gradients; on the CPU.
    packed: Option<PackedLayers>,
    kernel: Kernel,
    weights: Arc<Weights>,
}

impl Encoder {
    /// Reads `config.json` and `model.safetensors` of a Hugging Face folder; a missing tensor is named. Computes in f32.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::load_for(folder, device, Kernel::best(false))
    }

    /// The same with `kernel` for passes without gradients on the CPU. `unprocessable` if the machine has no such
    /// instructions, or the backbone has sizes they do not take.
    pub fn load_for(folder: &Path, device: &Device, kernel: Kernel) -> Result<Self> {
        if !kernel.is_available() {
            return Err(Error::unprocessable(format!(
                "kernel {}: this machine has no such instructions",
                kernel.name()
            )));
        }
        let file = folder.join("config.json");
        let json = disk::read(&file, CONFIG_BYTES_MAX).map_err(|e| disk::failed(&file, e))?;
        let config = EncoderConfig::from_json(&json).map_err(|e| e.context(folder.display()))?;
        let weights = Weights::open(&folder.join("model.safetensors"), device)?;
        Self::build(config, weights, device, kernel).map_err(|e| e.context(folder.display()))
    }

    fn build(config: EncoderConfig, weights: Weights, device: &Device, kernel: Kernel) -> Result<Self> {
        let loader = Loader { config: &config, weights: &weights, device, kernel, master: None };
        let (embeddings, final_norm, shared) = (loader.embeddings()?, loader.final_norm()?, loader.shared()?);
        let beside = loader.beside()?;
        let (packed, blocks) = if device.is_cpu() {
            (Some(PackedLayers::new(kernel, loader.blocks(), &config)?), OnceLock::new())
        } else {
            (None, OnceLock::from(loader.blocks().collect::<Result<Vec<_>>>()?))
        };
        let device = device.clone();
        let weights = Arc::new(weights);
        Ok(Self { config, device, embeddings, blocks, final_norm, shared, beside, packed, kernel, weights })
    }

    /// The same network in f32, layers read anew and everything else shared.
    pub fn in_f32(&self) -> Result<Self> {
        let kernel = Kernel::best(false);
        let packed = match &self.packed {
            Some(_) => Some(PackedLayers::new(kernel, self.loader(None).blocks(), &self.config)?),
            None => None,
        };
        Ok(Self {
            config: self.config.clone(),
            device: self.device.clone(),
            embeddings: self.embeddings.clone(),
            blocks: OnceLock::new(),
            final_norm: self.final_norm.clone(),
            shared: self.shared.clone(),
            beside: self.beside.clone(),
            packed,
            kernel,
            weights: self.weights.clone(),
        })
    }

    fn blocks(&self) -> Result<&[Block]> {
        if let Some(blocks) = self.blocks.get() {
            return Ok(blocks);
        }
        let blocks = self.loader(None).blocks().collect::<Result<_>>()?;
        Ok(self.blocks.get_or_init(|| blocks))
    }

    fn loader<'a>(&'a self, master: Option<&'a Arc<Master>>) -> Loader<'a> {
        let Self { config, weights, device, kernel, .. } = self;
        Loader { config, weights, device, kernel: *kernel, master }
    }

    /// The layers once more, read into `master` to be trained.
    pub(super) fn trained_blocks(&self, master: &Arc<Master>) -> Result<Vec<Block>> {
        self.loader(Some(master)).blocks().collect()
    }

    pub(super) fn norm_at_the_end(&self) -> Option<&Norm> {
        self.final_norm.as_ref()
    }

    pub(super) fn file(&self) -> &Weights {
        &self.weights
    }

    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Every linear an adapter may change, ascending.
    pub fn sites(&self) -> Vec<Site> {
        let linears = self.config.architecture.linears();
        let of_layer = |layer| linears.iter().map(move |(linear, _)| Site { layer, linear: *linear });
        (0..self.config.layers).flat_map(of_layer).collect()
    }

    /// (out, in) of a linear.
    pub fn site_shape(&self, site: Site) -> (usize, usize) {
        self.config.linear_shape(site.linear)
    }

    /// Bytes of the weights in memory.
    pub fn memory_bytes(&self) -> usize {
        let blocks = self.blocks.get().into_iter().flatten();
        let layers = blocks.flat_map(Block::tensors).chain(self.final_norm.iter().flat_map(Norm::tensors));
        let heads = self.shared.iter().filter(|(name, _)| is_of_head(name)).chain(&self.beside).map(|(_, t)| t);
        let all = self.embeddings.tensors().chain(layers).chain(heads);
        let tensors: usize = all.map(tensor_bytes).sum();
        tensors + self.packed.as_ref().map_or(0, PackedLayers::bytes)
    }

    /// What multiplies the matrices, for `backbone_info`: `avx512-bf16`, `avx2-f32`…
    pub fn kernel_name(&self) -> &'static str {
        self.packed.as_ref().map_or("candle", |packed| packed.kernel().name())
    }

    /// What products are computed in: `f32` or `bf16` (with sums, norms, softmax and the residual stream in f32).
    pub fn precision(&self) -> &'static str {
        if self.packed.as_ref().is_some_and(|packed| packed.kernel().is_bf16()) { "bf16" } else { "f32" }
    }

    /// Gives `lora` the form this encoder computes with, once, off the path of requests; it can then be neither trained nor
    /// run by another encoder. An adapter that was not prepared is packed anew for each pass.
    pub fn prepare(&self, lora: LoraWeights) -> Result<LoraWeights> {
        match &self.packed {
            Some(packed) => packed.pack(&lora, &self.config).map(|packed| lora.into_packed(packed)),
            None => Ok(lora),
        }
    }

    /// Token embeddings, (tokens, hidden), after the embedding norm.
    pub fn embed(&self, input: &Packed) -> Result<Tensor> {
        self.check_input(input)?;
        Ok(self.embeddings.forward(input)?)
    }

    /// `hidden`, (tokens, hidden), through `layers`; after the last layer the final norm, where the architecture has one.
    /// `bounds` as in [`Packed`]. Differentiable in `hidden` and in the adapters' variables.
    pub fn forward(
        &self,
        hidden: &Tensor,
        bounds: &[usize],
        adapters: &SegmentAdapters<'_>,
        layers: Range<usize>,
        mode: Mode,
    ) -> Result<Tensor> {
        let tokens = hidden.dim(0)?;
        check_bounds(bounds, tokens)?;
        adapters.check(tokens)?;
        let count = self.config.layers;
        let ends = layers.end == count;
        if layers.start > layers.end || layers.end > count {
            return Err(Error::internal(format!("layers {layers:?} of an encoder with {count}")));
        }
        let is_tracked = hidden.track_op() || adapters.0.iter().any(|(_, lora)| lora.is_tracked());
        let hidden = match &self.packed {
            Some(packed) if mode == Mode::Eval && !is_tracked => {
                packed.forward(hidden, bounds, adapters, layers, &self.config)?
            }
            _ if adapters.0.iter().any(|(_, lora)| lora.packed.is_some()) => {
                return Err(Error::internal("an adapter that was prepared for serving cannot be trained"));
            }
            _ => {
                let pass = Pass { bounds: Arc::from(bounds), adapters, mode, sink: None };
                self.blocks()?[layers].iter().try_fold(hidden.clone(), |hidden, block| block.forward(&hidden, &pass))?
            }
        };
        Ok(match &self.final_norm {
            Some(norm) if ends => norm.forward(&hidden, None)?,
            _ => hidden,
        })
    }

    /// The backbone's own tensor that an adapter may bring its copy of, by its name in the task model: every bias of linears
    /// and norms (`bert.encoder.layer.4.attention.self.query.bias`), BERT's pooler (`bert.pooler.dense.weight`, `….bias`),
    /// ModernBERT's prediction head (`head.dense.weight`). None for every other name, and for what the backbone has not.
    pub fn backbone_tensor(&self, name: &str) -> Option<Tensor> {
        self.shared.get(name).cloned()
    }

    /// The tensor of a head's linear that the backbone's file holds, by its name in the task model: what
    /// [`Encoder::backbone_tensor`] has of it, and the head of a file that was saved for a task (`pre_classifier.weight`).
    pub fn head_tensor(&self, name: &str) -> Option<Tensor> {
        self.backbone_tensor(name).or_else(|| self.beside.get(name).cloned())
    }

    /// (out, in) of the linear between the embeddings and the first layer, where the architecture has one (ELECTRA).
    pub fn projection_shape(&self) -> Option<(usize, usize)> {
        let (weight, _) = self.embeddings.projection.as_ref()?;
        weight.dims2().ok()
    }

    /// [`Encoder::embed`] for one adapter, which may change the linear between the embeddings and the first layer.
    pub fn embed_for(&self, input: &Packed, adapter: &LoraWeights) -> Result<Tensor> {
        self.check_input(input)?;
        Ok(self.embeddings.forward_with(input, adapter.projection())?)
    }

    /// Whether every id is within its table and every sequence within the positions.
    fn check_input(&self, input: &Packed) -> Result<()> {
        check_bounds(&input.bounds, input.tokens())?;
        let (types, vocab) = (self.config.type_vocab_size, self.config.vocab_size);
        if let Some(id) = input.ids.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::internal(format!("token id {id} is outside the vocabulary of {vocab}")));
        }
        if types > 0 && input.type_ids.len() != input.tokens() {
            let (got, tokens) = (input.type_ids.len(), input.tokens());
            return Err(Error::internal(format!("{got} segment ids for {tokens} tokens")));
        }
        if let Some(id) = input.type_ids.iter().find(|id| types > 0 && **id as usize >= types) {
            return Err(Error::internal(format!("segment id {id} is outside the {types} the backbone has")));
        }
        let longest = input.bounds.windows(2).map(|sequence| sequence[1] - sequence[0]).max().unwrap_or(0);
        if longest > self.config.max_length {
            let limit = self.config.max_length;
            return Err(Error::unprocessable(format!(
                "a sequence of {longest} tokens is longer than the backbone's {limit}"
            )));
        }
        Ok(())
    }
}

/// Biases are counted with their modules; these have none in the encoder.
fn is_of_head(name: &str) -> bool {
    name.starts_with("head.") || name.contains("pooler.")
}

/// Whether `bounds` cut `tokens` into sequences, none of them empty, from 0.
pub(super) fn check_bounds(bounds: &[usize], tokens: usize) -> Result<()> {
    if bounds.first() == Some(&0) && bounds.last() == Some(&tokens) && bounds.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    Err(Error::internal(format!("bounds {bounds:?} do not cut {tokens} tokens into sequences")))
}

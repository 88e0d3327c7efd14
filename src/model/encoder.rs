//! The encoder: packed tokens in, hidden states out, adapters as an argument.

use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::domain::Result;
use crate::model::{EncoderConfig, SegmentAdapters, Site};

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
    /// `seed` names the draw (a counter-based generator): same seed, same mask.
    Train {
        dropout: f32,
        seed: u64,
    },
}

/// The resident network. Base weights never change after loading; share it by `Arc`.
pub struct Encoder {
    config: EncoderConfig,
    device: Device,
}

impl Encoder {
    /// Reads `config.json` and `model.safetensors` of a Hugging Face folder; a missing tensor is named.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let _ = (folder, device);
        todo!()
    }

    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Every linear an adapter may change, ascending.
    pub fn sites(&self) -> Vec<Site> {
        todo!()
    }

    /// (out, in) of a linear.
    pub fn site_shape(&self, site: Site) -> (usize, usize) {
        let _ = site;
        todo!()
    }

    /// Bytes of the weights.
    pub fn memory_bytes(&self) -> usize {
        todo!()
    }

    /// What multiplies the matrices, for `backbone_info`: `gemm-avx512`, `gemm-avx2`…
    pub fn kernel_name(&self) -> &'static str {
        todo!()
    }

    /// Token embeddings, (tokens, hidden), after the embedding norm.
    pub fn embed(&self, input: &Packed) -> Result<Tensor> {
        let _ = input;
        todo!()
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
        let _ = (hidden, bounds, adapters, layers, mode);
        todo!()
    }
}

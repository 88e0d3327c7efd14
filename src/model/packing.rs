//! From the layers' tensors and adapters' to the packed form that `inference` runs. Knows both sides; computes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::Tensor;

use crate::domain::{Error, Result};
use crate::model::inference::{
    DeltaParts, LayerParts, LinearParts, Network, NormParts, Order, PackedUpdates, Product, RotaryParts, Segment,
    UpdateParts, network,
};
use crate::model::kernels::packed::Kernel;
use crate::model::layers::{Block, BlockShape, Linear, Norm};
use crate::model::{EncoderConfig, Linear as Role, LoraWeights, SegmentAdapters, Site};

/// An encoder's layers, packed.
pub(super) struct PackedLayers {
    network: Box<dyn Network>,
    kernel: Kernel,
    /// Tells what this network packed from what others did.
    id: u64,
    width: usize,
}

/// An adapter's updates as one network packed them.
#[derive(Debug)]
pub(super) struct PackedLora {
    network: u64,
    updates: PackedUpdates,
}

impl PackedLora {
    pub(super) fn bytes(&self) -> usize {
        self.updates.bytes()
    }
}

impl PackedLayers {
    /// Each block is given up once it is packed.
    pub(super) fn new(
        kernel: Kernel,
        blocks: impl Iterator<Item = Result<Block>>,
        config: &EncoderConfig,
    ) -> Result<Self> {
        static NETWORKS: AtomicU64 = AtomicU64::new(0);
        check_kernel(kernel, config)?;
        let mut parts = blocks.enumerate().map(|(layer, block)| -> Result<_> { Ok(layer_parts(layer, &block?)?) });
        let network = network(kernel, &mut parts)?;
        Ok(Self { network, kernel, id: NETWORKS.fetch_add(1, Ordering::Relaxed), width: config.hidden_size })
    }

    pub(super) fn kernel(&self) -> Kernel {
        self.kernel
    }

    pub(super) fn bytes(&self) -> usize {
        self.network.bytes()
    }

    /// `hidden`, (tokens, width), through `layers`; without gradients.
    pub(super) fn forward(
        &self,
        hidden: &Tensor,
        bounds: &[usize],
        adapters: &SegmentAdapters<'_>,
        layers: std::ops::Range<usize>,
        shapes: &EncoderConfig,
    ) -> Result<Tensor> {
        let packed = adapters.0.iter().map(|(_, lora)| self.packed(lora, shapes)).collect::<Result<Vec<_>>>()?;
        let segment =
            |((rows, _), packed): (&(std::ops::Range<usize>, _), &Arc<PackedLora>)| (rows.clone(), packed.clone());
        let segments: Vec<_> = adapters.0.iter().zip(&packed).map(segment).collect();
        let segments: Vec<_> =
            segments.iter().map(|(rows, packed)| Segment { rows: rows.clone(), updates: &packed.updates }).collect();
        let mut numbers = hidden.flatten_all()?.to_vec1::<f32>()?;
        self.network.forward(&mut numbers, bounds, &segments, layers);
        Ok(Tensor::from_vec(numbers, (hidden.dim(0)?, self.width), hidden.device())?)
    }

    /// What was prepared for this network, or packed now for one pass.
    fn packed(&self, lora: &LoraWeights, shapes: &EncoderConfig) -> Result<Arc<PackedLora>> {
        match &lora.packed {
            Some(packed) if packed.network == self.id => Ok(packed.clone()),
            Some(_) => Err(Error::internal("an adapter that was prepared for another encoder")),
            None => self.pack(lora, shapes).map(Arc::new),
        }
    }

    pub(super) fn pack(&self, lora: &LoraWeights, shapes: &EncoderConfig) -> Result<PackedLora> {
        let updates = self.network.pack(&update_parts(lora, shapes)?);
        Ok(PackedLora { network: self.id, updates })
    }
}

/// bf16 instructions take numbers in pairs.
fn check_kernel(kernel: Kernel, config: &EncoderConfig) -> Result<()> {
    let sizes = [config.hidden_size, config.head_size(), config.intermediate_size];
    if kernel.is_bf16() && sizes.iter().any(|size| !size.is_multiple_of(2)) {
        return Err(Error::unprocessable(format!(
            "bf16 wants even sizes, the backbone's hidden, head and intermediate sizes are {sizes:?}; use f32"
        )));
    }
    Ok(())
}

fn layer_parts(layer: usize, block: &Block) -> candle_core::Result<LayerParts> {
    let (qkv, order) = match &block.shape {
        BlockShape::PostNorm { qkv, attention_norm } => {
            (qkv.as_slice(), Order::PostNorm { attention_norm: norm_parts(attention_norm)? })
        }
        BlockShape::PreNorm { qkv, rotary, attention_norm } => {
            let rotary = rotary.as_ref().map(|rotary| rotary_parts(rotary.tables())).transpose()?;
            let attention_norm = attention_norm.as_ref().map(norm_parts).transpose()?;
            (std::slice::from_ref(qkv), Order::PreNorm { attention_norm, rotary })
        }
    };
    Ok(LayerParts {
        layer,
        qkv: linear_parts(qkv)?,
        attention_output: linear_parts(std::slice::from_ref(&block.attention_output))?,
        intermediate: linear_parts(std::slice::from_ref(&block.intermediate))?,
        output: linear_parts(std::slice::from_ref(&block.output))?,
        feed_forward_norm: norm_parts(&block.feed_forward_norm)?,
        order,
        activation: block.activation,
        heads: block.heads,
        window: block.window,
    })
}

fn linear_parts(linears: &[Linear]) -> candle_core::Result<LinearParts> {
    let mut parts = LinearParts { weights: Vec::new(), biases: Vec::new(), width: 0 };
    for linear in linears {
        let (weight, bias) = linear.weights()?;
        parts.width = weight.dim(0)?;
        parts.weights.push(numbers(weight)?);
        parts.biases.extend(bias.map(numbers).transpose()?);
    }
    Ok(parts)
}

fn norm_parts(norm: &Norm) -> candle_core::Result<NormParts> {
    let (gain, bias, eps) = norm.parts()?;
    Ok(NormParts { gain: numbers(gain)?, bias: bias.map(numbers).transpose()?, eps: eps as f32 })
}

fn rotary_parts([cos, sin]: [&Tensor; 2]) -> candle_core::Result<RotaryParts> {
    Ok(RotaryParts { cos: numbers(cos)?.into(), sin: numbers(sin)?.into(), half: cos.dim(1)? })
}

fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Refuses updates that do not fit their linears.
fn update_parts(lora: &LoraWeights, config: &EncoderConfig) -> Result<UpdateParts> {
    let mut parts = UpdateParts::default();
    for (site, delta) in lora.deltas() {
        let (out, width) = config.linear_shape(site.linear);
        let rank = delta.a.dims().first().copied().unwrap_or(0);
        if delta.a.dims() != [rank, width] || delta.b.dims() != [out, rank] {
            return Err(Error::internal(format!("an adapter's update of {site:?} does not fit its ({out}, {width})")));
        }
        let (product, start, whole) = place(config, *site);
        let mut b = numbers(&delta.b)?;
        b.iter_mut().for_each(|x| *x *= delta.scale as f32);
        let delta = DeltaParts { a: numbers(&delta.a)?, b, rank, columns: start..start + out, out: whole };
        parts.deltas.entry((site.layer, product)).or_default().push(delta);
    }
    let mut biases: BTreeMap<_, Vec<f32>> = BTreeMap::new();
    for (site, bias) in lora.bias_deltas() {
        let (out, _) = config.linear_shape(site.linear);
        if bias.dims() != [out] {
            return Err(Error::internal(format!("an adapter's bias of {site:?} does not fit its ({out})")));
        }
        let (product, start, whole) = place(config, *site);
        let all = biases.entry((site.layer, product)).or_insert_with(|| vec![0.0; whole]);
        all[start..start + out].copy_from_slice(&numbers(bias)?);
    }
    parts.biases = biases;
    Ok(parts)
}

/// The product of a site, the first of its columns there, and the product's width.
fn place(config: &EncoderConfig, site: Site) -> (Product, usize, usize) {
    let hidden = config.hidden_size;
    match site.linear {
        Role::Query => (Product::Qkv, 0, 3 * hidden),
        Role::Key => (Product::Qkv, hidden, 3 * hidden),
        Role::Value => (Product::Qkv, 2 * hidden, 3 * hidden),
        Role::Qkv => (Product::Qkv, 0, 3 * hidden),
        Role::AttentionOutput => (Product::AttentionOutput, 0, hidden),
        Role::Intermediate => (Product::Intermediate, 0, config.linear_shape(site.linear).0),
        Role::Output => (Product::Output, 0, hidden),
    }
}

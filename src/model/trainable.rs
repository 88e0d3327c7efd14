//! An encoder under training: embeddings as they were, every layer's weights in one vector that an optimizer changes in place.
//! Leaves losses and updates to `training`.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Tensor, Var};

use crate::domain::{Error, Result};
use crate::model::kernels::packed::Kernel;
use crate::model::layers::{Block, Master, Pass, Sink, Slot};
use crate::model::{Encoder, LoraWeights, Mode, Packed, SegmentAdapters};

/// A copy of an encoder's layers that can be trained; word, position and type embeddings stay the encoder's.
pub struct TrainableEncoder {
    encoder: Arc<Encoder>,
    master: Arc<Master>,
    blocks: Vec<Block>,
}

/// Hidden states of one pass, and what its backward pass starts from.
pub struct Traced {
    hidden: Tensor,
    /// Tracks the pass: without a variable below, a graph would begin at the first adapter only.
    _root: Var,
}

impl TrainableEncoder {
    /// Reads the layers anew from the encoder's file. Products run on `kernel` (f32 or bf16; sums, weights and gradients are
    /// f32). `unprocessable` where the encoder is not on the CPU.
    pub fn new(encoder: Arc<Encoder>, kernel: Kernel) -> Result<Self> {
        if !encoder.device().is_cpu() {
            return Err(Error::unprocessable(
                "a whole backbone is trained on the CPU; the encoder is on another device",
            ));
        }
        let master = Arc::new(Master::new(kernel));
        let blocks = encoder.trained_blocks(&master)?;
        Ok(Self { encoder, master, blocks })
    }

    /// The one it began as; its weights are as they were.
    pub fn origin(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// The trained tensors in the order of [`TrainableEncoder::numbers`], layer by layer.
    pub fn slots(&self) -> Vec<Slot> {
        self.master.slots()
    }

    /// The layer of each of [`TrainableEncoder::slots`], from 0.
    pub fn layer_of(&self, slot: &Slot) -> usize {
        let path = self.encoder.config().architecture.layer_path();
        let number = slot.name.strip_prefix(path).and_then(|rest| rest.trim_start_matches('.').split('.').next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// All trained weights, end to end.
    pub fn numbers(&self) -> Vec<f32> {
        self.master.numbers().clone()
    }

    /// Lets `change` change them.
    pub fn update<R>(&self, change: impl FnOnce(&mut [f32]) -> R) -> R {
        let result = change(&mut self.master.numbers_mut());
        self.blocks.iter().flat_map(Block::linears).for_each(|linear| linear.refresh());
        result
    }

    /// Every matrix becomes what products in bf16 have read of it all along, so that nothing is lost when it is kept in bf16.
    pub fn keep_bf16(&self) {
        let matrices: Vec<Slot> = self.slots().into_iter().filter(|slot| slot.shape.len() == 2).collect();
        self.update(|numbers| {
            for slot in matrices {
                numbers[slot.range].iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
            }
        });
    }

    /// `input` through all layers, with `adapter` at every token. Gradients of the trained weights will be added to `sink`.
    pub fn trace(
        &self,
        input: &Packed,
        adapter: Option<&LoraWeights>,
        mode: Mode,
        sink: Option<&Arc<Sink>>,
    ) -> Result<Traced> {
        let root = Var::from_tensor(&self.encoder.embed(input)?)?;
        let adapters = SegmentAdapters(adapter.map(|lora| (0..input.tokens(), lora)).into_iter().collect());
        let pass = Pass { bounds: Arc::from(&input.bounds[..]), adapters: &adapters, mode, sink };
        let hidden =
            self.blocks.iter().try_fold(root.as_tensor().clone(), |hidden, block| block.forward(&hidden, &pass))?;
        let hidden = match self.encoder.norm_at_the_end() {
            Some(norm) => norm.forward(&hidden, None)?,
            None => hidden,
        };
        Ok(Traced { hidden, _root: root })
    }

    /// `model.safetensors` of the encoder as it is now: the origin's tensors under their own names, all numbers as f32, the
    /// trained ones in place of theirs. Written through to the disk.
    pub fn write(&self, path: &Path) -> Result<()> {
        let numbers = self.master.numbers();
        let slots = self.master.slots();
        let trained = slots.iter().map(|slot| (slot.name.as_str(), &numbers[slot.range.clone()])).collect();
        self.encoder.file().write_with(&trained, path)
    }
}

impl Traced {
    /// (tokens, hidden)
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// The backward pass from `slope`, the derivative of the loss by the hidden states, row after row. The adapter's variables
    /// find their gradients in what is returned, the trained weights in the pass's sink.
    pub fn backward(self, slope: Vec<f32>) -> Result<candle_core::backprop::GradStore> {
        let slope = Tensor::from_vec(slope, self.hidden.shape(), self.hidden.device())?;
        // its gradient by the hidden states is the slope
        Ok((self.hidden * slope)?.sum_all()?.backward()?)
    }
}

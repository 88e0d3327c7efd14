//! One layer of the encoder: attention and a feed-forward block, each with its residual sum and norm.

use candle_core::{Result, Tensor};

use super::attention::attention;
use super::{Linear, Norm, Pass, Rotary, activate, activate_gated};
use crate::model::Activation;

/// A layer's parts.
pub(crate) struct Block {
    pub(crate) shape: BlockShape,
    pub(crate) attention_output: Linear,
    pub(crate) intermediate: Linear,
    pub(crate) output: Linear,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) activation: Activation,
    pub(crate) heads: usize,
    /// A token sees those at most so far away.
    pub(crate) window: Option<usize>,
}

/// Where the architectures differ.
pub(crate) enum BlockShape {
    /// BERT and its kin: the norm follows the residual sum.
    PostNorm { qkv: [Linear; 3], attention_norm: Norm },
    /// ModernBERT: the norm comes first (none before the first layer's attention), positions are rotary, the
    /// feed-forward block is gated.
    PreNorm { qkv: Linear, rotary: Option<Rotary>, attention_norm: Option<Norm> },
}

impl Block {
    /// (tokens, hidden) to the same.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        match &self.shape {
            BlockShape::PostNorm { qkv, attention_norm } => self.post_norm(x, qkv, attention_norm, pass),
            BlockShape::PreNorm { qkv, rotary, attention_norm } => {
                self.pre_norm(x, qkv, rotary.as_ref(), attention_norm.as_ref(), pass)
            }
        }
    }

    /// In the order of [`crate::model::Linear`].
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let qkv = match &self.shape {
            BlockShape::PostNorm { qkv, .. } => qkv.as_slice(),
            BlockShape::PreNorm { qkv, .. } => std::slice::from_ref(qkv),
        };
        qkv.iter().chain([&self.attention_output, &self.intermediate, &self.output])
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let attention_norm = match &self.shape {
            BlockShape::PostNorm { attention_norm, .. } => Some(attention_norm),
            BlockShape::PreNorm { attention_norm, .. } => attention_norm.as_ref(),
        };
        let norms = attention_norm.into_iter().chain([&self.feed_forward_norm]).flat_map(Norm::tensors);
        self.linears().flat_map(Linear::tensors).chain(norms)
    }

    fn post_norm(&self, x: &Tensor, qkv: &[Linear; 3], norm: &Norm, pass: &Pass<'_>) -> Result<Tensor> {
        let [q, k, v] = qkv;
        let (q, k, v) = (q.forward(x, pass)?, k.forward(x, pass)?, v.forward(x, pass)?);
        let mixed = attention([&q, &k, &v], &pass.bounds, self.heads, self.window)?;
        let x = norm.of_sum(&self.attention_output.forward(&mixed, pass)?, x, pass.sink)?;
        let wide = activate(&self.intermediate.forward(&x, pass)?, self.activation)?;
        self.feed_forward_norm.of_sum(&self.output.forward(&wide, pass)?, &x, pass.sink)
    }

    fn pre_norm(
        &self,
        x: &Tensor,
        qkv: &Linear,
        rotary: Option<&Rotary>,
        norm: Option<&Norm>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let normal = norm.map_or_else(|| Ok(x.clone()), |norm| norm.forward(x, pass.sink))?;
        let mut qkv = qkv.forward(&normal, pass)?;
        if let Some(rotary) = rotary {
            qkv = rotary.forward(&qkv, &pass.bounds)?;
        }
        let hidden = x.dim(1)?;
        let third = |i| qkv.narrow(1, i * hidden, hidden);
        let mixed = attention([&third(0)?, &third(1)?, &third(2)?], &pass.bounds, self.heads, self.window)?;
        let x = (x + self.attention_output.forward(&mixed, pass)?)?;
        let wide = self.intermediate.forward(&self.feed_forward_norm.forward(&x, pass.sink)?, pass)?;
        let gated = activate_gated(&wide, self.activation)?;
        &x + self.output.forward(&gated, pass)?
    }
}

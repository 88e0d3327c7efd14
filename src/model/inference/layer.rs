//! One layer of the encoder on packed weights; the same arithmetic as `layers::Block`.

use super::Chunk;
use super::room::{Room, sized};
use super::update::{Product, updates};
use crate::model::Activation;
use crate::model::kernels::packed::{Finish, Heads, Isa, Operand, Panels, attention, product, round};
use crate::model::kernels::{self, Angles, NormWeights, Scope, Turn};

/// A layer's numbers before they are packed.
pub(in crate::model) struct LayerParts {
    pub(in crate::model) layer: usize,
    /// Several linears of one operand stand side by side.
    pub(in crate::model) qkv: LinearParts,
    pub(in crate::model) attention_output: LinearParts,
    pub(in crate::model) intermediate: LinearParts,
    pub(in crate::model) output: LinearParts,
    pub(in crate::model) feed_forward_norm: NormParts,
    pub(in crate::model) order: Order,
    pub(in crate::model) activation: Activation,
    pub(in crate::model) heads: usize,
    pub(in crate::model) window: Option<usize>,
}

/// Weights, each row-major (in, out), and their biases (out), side by side.
pub(in crate::model) struct LinearParts {
    pub(in crate::model) weights: Vec<Vec<f32>>,
    pub(in crate::model) biases: Vec<Vec<f32>>,
    pub(in crate::model) width: usize,
}

#[derive(Clone, Debug)]
pub(in crate::model) struct NormParts {
    pub(in crate::model) gain: Vec<f32>,
    pub(in crate::model) bias: Option<Vec<f32>>,
    pub(in crate::model) eps: f32,
}

/// Row-major (positions, head size / 2).
#[derive(Clone, Debug)]
pub(in crate::model) struct RotaryParts {
    pub(in crate::model) cos: std::sync::Arc<[f32]>,
    pub(in crate::model) sin: std::sync::Arc<[f32]>,
    pub(in crate::model) half: usize,
}

/// Where the architectures differ.
#[derive(Clone, Debug)]
pub(in crate::model) enum Order {
    /// BERT and its kin: the norm follows the residual sum.
    PostNorm { attention_norm: NormParts },
    /// ModernBERT: the norm comes first, positions are rotary, the feed-forward block is gated.
    PreNorm { attention_norm: Option<NormParts>, rotary: Option<RotaryParts> },
}

pub(super) struct Layer<I: Isa> {
    qkv: Linear<I>,
    attention_output: Linear<I>,
    intermediate: Linear<I>,
    output: Linear<I>,
    feed_forward_norm: NormParts,
    order: Order,
    activation: Activation,
    heads: usize,
    window: Option<usize>,
}

impl<I: Isa> Layer<I> {
    pub(super) fn pack(parts: &LayerParts) -> Self {
        let linear = |product, linear| Linear::pack((parts.layer, product), linear);
        Self {
            qkv: linear(Product::Qkv, &parts.qkv),
            attention_output: linear(Product::AttentionOutput, &parts.attention_output),
            intermediate: linear(Product::Intermediate, &parts.intermediate),
            output: linear(Product::Output, &parts.output),
            feed_forward_norm: parts.feed_forward_norm.clone(),
            order: parts.order.clone(),
            activation: parts.activation,
            heads: parts.heads,
            window: parts.window,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let linears = [&self.qkv, &self.attention_output, &self.intermediate, &self.output];
        linears.iter().map(|linear| linear.panels.bytes()).sum()
    }

    /// The base's own.
    pub(super) fn bias(&self, product: Product) -> Option<&[f32]> {
        let linear = match product {
            Product::Qkv => &self.qkv,
            Product::AttentionOutput => &self.attention_output,
            Product::Intermediate => &self.intermediate,
            Product::Output => &self.output,
        };
        linear.bias.as_deref()
    }

    pub(super) fn width(&self) -> usize {
        self.attention_output.panels.cols()
    }

    /// `x`, (tokens, width), through this layer. Whatever `x` is, `room.operand` is its rounded copy before and after, if the
    /// norm comes last; a norm that comes first makes its own.
    pub(super) fn forward(&self, x: &mut [f32], chunk: &Chunk<'_, I>, room: &mut Room<I>) {
        match &self.order {
            Order::PostNorm { attention_norm } => self.post_norm(x, attention_norm, chunk, room),
            Order::PreNorm { attention_norm, rotary } => {
                self.pre_norm(x, attention_norm.as_ref(), rotary.as_ref(), chunk, room);
            }
        }
    }

    fn post_norm(&self, x: &mut [f32], attention_norm: &NormParts, chunk: &Chunk<'_, I>, room: &mut Room<I>) {
        let Room { operand, qkv, mixed, wide, ranks, .. } = room;
        let (tokens, width) = (chunk.tokens(), self.width());
        let operand = sized(operand, tokens * width);
        let qkv = sized(qkv, tokens * 3 * width);
        self.qkv.run(operand, chunk, ranks, Finish::Narrow(qkv));
        let mixed = sized(mixed, tokens * width);
        self.mix(mixed, qkv, chunk);
        self.attention_output.run(mixed, chunk, ranks, Finish::AddTo(x));
        kernels::layer_norm(x, None, attention_norm.weights());
        round::<I>(operand, x);
        let wide = sized(wide, tokens * self.output.panels.depth());
        self.intermediate.run(operand, chunk, ranks, Finish::Activate(self.activation, wide));
        self.output.run(wide, chunk, ranks, Finish::AddTo(x));
        kernels::layer_norm(x, None, self.feed_forward_norm.weights());
        round::<I>(operand, x);
    }

    fn pre_norm(
        &self,
        x: &mut [f32],
        attention_norm: Option<&NormParts>,
        rotary: Option<&RotaryParts>,
        chunk: &Chunk<'_, I>,
        room: &mut Room<I>,
    ) {
        let Room { operand, qkv, mixed, wide, floats, ranks } = room;
        let (tokens, width, inner) = (chunk.tokens(), self.width(), self.output.panels.depth());
        let operand = sized(operand, tokens * width);
        let normal = |x: &[f32], norm: Option<&NormParts>, floats: &mut Vec<f32>, operand: &mut [I::Number]| {
            let normal = sized(floats, x.len());
            normal.copy_from_slice(x);
            norm.into_iter().for_each(|norm| kernels::layer_norm(normal, None, norm.weights()));
            round::<I>(operand, normal);
        };
        normal(x, attention_norm, floats, operand);
        let turned = sized(floats, tokens * 3 * width);
        self.qkv.run(operand, chunk, ranks, Finish::Store(turned));
        if let Some(RotaryParts { cos, sin, half }) = rotary {
            let angles = Angles { cos, sin, half: *half };
            kernels::rotate(turned, 3 * width, 2 * self.heads, chunk.bounds, angles, Turn::Forth);
        }
        let qkv = sized(qkv, tokens * 3 * width);
        round::<I>(qkv, turned);
        let mixed = sized(mixed, tokens * width);
        self.mix(mixed, qkv, chunk);
        self.attention_output.run(mixed, chunk, ranks, Finish::AddTo(x));
        normal(x, Some(&self.feed_forward_norm), floats, operand);
        let both = sized(floats, tokens * 2 * inner);
        self.intermediate.run(operand, chunk, ranks, Finish::Store(both));
        self.gate(both, inner);
        let wide = sized(wide, tokens * inner);
        round::<I>(wide, &both[..tokens * inner]);
        self.output.run(wide, chunk, ranks, Finish::AddTo(x));
    }

    fn mix(&self, mixed: &mut [I::Number], qkv: &[I::Number], chunk: &Chunk<'_, I>) {
        let scope = Scope { bounds: chunk.bounds, heads: self.heads, window: self.window };
        attention::<I>(mixed, Heads { qkv, size: self.width() / self.heads }, scope);
    }

    /// From rows of 2 · `inner` numbers to as many of `inner`, at the front: f(left half)·right half.
    fn gate(&self, both: &mut [f32], inner: usize) {
        for token in 0..both.len() / (2 * inner) {
            let row = &mut both[2 * token * inner..][..2 * inner];
            let (left, right) = row.split_at_mut(inner);
            kernels::activate(self.activation, left);
            kernels::scale(left, right);
            both.copy_within(2 * token * inner..(2 * token + 1) * inner, token * inner);
        }
    }
}

struct Linear<I: Isa> {
    place: (usize, Product),
    panels: Panels<I::Number>,
    bias: Option<Vec<f32>>,
}

impl<I: Isa> Linear<I> {
    fn pack(place: (usize, Product), parts: &LinearParts) -> Self {
        let panels = Panels::side_by_side::<I>(&parts.weights, parts.width);
        Self { place, panels, bias: (!parts.biases.is_empty()).then(|| parts.biases.concat()) }
    }

    /// `x·W + b` and what the chunk's adapters add, into `finish`.
    fn run(&self, x: &[I::Number], chunk: &Chunk<'_, I>, ranks: &mut Vec<I::Number>, finish: Finish<'_, I::Number>) {
        let x = Operand { numbers: x, rows: chunk.tokens(), stride: self.panels.depth() };
        let updates = updates(&chunk.segments, self.place, x, ranks);
        product::<I>(x, &self.panels, self.bias.as_deref(), &updates, finish);
    }
}

impl NormParts {
    pub(super) fn weights(&self) -> NormWeights<'_> {
        NormWeights { gain: &self.gain, bias: self.bias.as_deref(), eps: self.eps }
    }
}

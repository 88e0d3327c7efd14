//! The layers in tensor operations that have gradients everywhere: what other devices run, and what the kernels are
//! tested against.

use std::ops::Range;

use candle_core::{D, Result, Tensor};
use candle_nn::ops::softmax;

use crate::model::{Activation, Delta};

/// `x·Wᵀ + b`
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// `scale·x·Aᵀ·Bᵀ`
pub(super) fn delta(x: &Tensor, delta: &Delta) -> Result<Tensor> {
    x.matmul(&delta.a.t()?)?.matmul(&delta.b.t()?)? * delta.scale
}

/// `(x − mean) / √(variance + eps) · gain + bias`, row by row.
pub(crate) fn layer_norm(x: &Tensor, gain: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centered.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(gain)?;
    match bias {
        Some(bias) => normal.broadcast_add(bias),
        None => Ok(normal),
    }
}

pub(super) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
    }
}

/// One sequence: `softmax(q·kᵀ / √(head size))·v`, all (tokens, heads · head size).
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, window: Option<usize>) -> Result<Tensor> {
    let (tokens, width) = q.dims2()?;
    let split = |x: &Tensor| x.reshape((tokens, heads, width / heads))?.transpose(0, 1)?.contiguous();
    let factor = 1.0 / ((width / heads) as f64).sqrt();
    let mut scores = (split(q)?.matmul(&split(k)?.t()?.contiguous()?)? * factor)?;
    if let Some(window) = window {
        let far = |i: usize, j: usize| if i.abs_diff(j) > window { f32::MIN } else { 0.0 };
        let mask: Vec<f32> = (0..tokens * tokens).map(|at| far(at / tokens, at % tokens)).collect();
        scores = scores.broadcast_add(&Tensor::from_vec(mask, (tokens, tokens), q.device())?)?;
    }
    softmax(&scores, D::Minus1)?.matmul(&split(v)?)?.transpose(0, 1)?.reshape((tokens, width))
}

/// Turns each head's pairs (i, half + i) by the rows' angles; `cos` and `sin` are (tokens, head size / 2).
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let half = cos.dim(1)?;
    let heads = x.reshape((tokens, width / (2 * half), 2 * half))?;
    let (first, second) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let turned_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let turned_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[turned_first, turned_second], 2)?.reshape((tokens, width))
}

/// The mean of each range of rows.
pub(super) fn means(hidden: &Tensor, ranges: &[Range<usize>]) -> Result<Tensor> {
    let mean = |rows: &Range<usize>| hidden.narrow(0, rows.start, rows.len())?.mean_keepdim(0);
    Tensor::cat(&ranges.iter().map(mean).collect::<Result<Vec<_>>>()?, 0)
}

/// `of(start, length)` of each sequence.
pub(super) fn per_sequence(bounds: &[usize], of: impl Fn(usize, usize) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    bounds.windows(2).map(|sequence| of(sequence[0], sequence[1] - sequence[0])).collect()
}

//! Attention on tensors.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::function::{Function, apply3};
use super::plain;
use crate::model::kernels::{self, Inputs, Mat, MatMut, Scope};

/// Attention inside each sequence of `bounds`; `q`, `k`, `v` and the result are (tokens, heads · head size).
pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    bounds: &Arc<[usize]>,
    heads: usize,
    window: Option<usize>,
) -> Result<Tensor> {
    if q.device().is_cpu() {
        return apply3(Attention { bounds: bounds.clone(), heads, window }, [q, k, v]);
    }
    let sequences = plain::per_sequence(bounds, |start, len| {
        let of = |x: &Tensor| x.narrow(0, start, len);
        plain::attention(&of(q)?, &of(k)?, &of(v)?, heads, window)
    })?;
    Tensor::cat(&sequences, 0)
}

struct Attention {
    bounds: Arc<[usize]>,
    heads: usize,
    window: Option<usize>,
}

impl Attention {
    fn scope(&self) -> Scope<'_> {
        Scope { bounds: &self.bounds, heads: self.heads, window: self.window }
    }
}

impl Function<3> for Attention {
    const NAME: &'static str = "attention";

    fn forward(&self, [q, k, v]: [Mat<'_>; 3]) -> Result<(Vec<f32>, usize)> {
        let mut out = vec![0.0; q.rows() * q.cols()];
        kernels::attention(MatMut::new(&mut out, q.rows(), q.cols()), Inputs { q, k, v }, self.scope());
        Ok((out, q.cols()))
    }

    fn backward(&self, [q, k, v]: [Mat<'_>; 3], gradient: Mat<'_>, _: [bool; 3]) -> Result<[Option<Vec<f32>>; 3]> {
        let gradients = kernels::attention_backward(gradient, Inputs { q, k, v }, self.scope());
        Ok([Some(gradients.q), Some(gradients.k), Some(gradients.v)])
    }
}

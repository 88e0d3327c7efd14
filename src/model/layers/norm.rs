//! The encoder's layer norms, alone and after a residual sum.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::function::{Function, apply1, apply2, floats};
use super::plain;
use super::trained::{Sink, TrainedNorm};
use crate::model::kernels::{self, Mat, NormWeights};

/// A norm of the encoder, frozen or trained.
#[derive(Clone)]
pub(crate) enum Norm {
    Frozen(FrozenNorm),
    Trained(TrainedNorm),
}

#[derive(Clone)]
pub(crate) struct FrozenNorm {
    gain: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl Norm {
    pub(crate) fn new(gain: Tensor, bias: Option<Tensor>, eps: f64) -> Self {
        Self::Frozen(FrozenNorm { gain, bias, eps })
    }

    fn frozen(&self) -> Option<&FrozenNorm> {
        match self {
            Self::Frozen(norm) => Some(norm),
            Self::Trained(_) => None,
        }
    }

    /// Of frozen weights.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.frozen().into_iter().flat_map(|norm| std::iter::once(&norm.gain).chain(&norm.bias))
    }

    /// The norm of each row; gradients of trained weights go to `sink`.
    pub(crate) fn forward(&self, x: &Tensor, sink: Option<&Arc<Sink>>) -> Result<Tensor> {
        match self {
            Self::Trained(norm) => norm.forward(&x.contiguous()?, sink),
            Self::Frozen(norm) if x.device().is_cpu() => apply1(Alone(norm.clone()), &x.contiguous()?),
            Self::Frozen(norm) => norm.plain(x),
        }
    }

    /// The norm of each row of `x + residual`.
    pub(super) fn of_sum(&self, x: &Tensor, residual: &Tensor, sink: Option<&Arc<Sink>>) -> Result<Tensor> {
        match self {
            Self::Trained(norm) => norm.of_sum(x, &residual.contiguous()?, sink),
            Self::Frozen(norm) if x.device().is_cpu() => apply2(Sum(norm.clone()), x, &residual.contiguous()?),
            Self::Frozen(norm) => norm.plain(&(x + residual)?),
        }
    }

    /// Gain, bias and the term that keeps the root off zero; of frozen weights.
    pub(crate) fn parts(&self) -> Result<(&Tensor, Option<&Tensor>, f64)> {
        let Some(norm) = self.frozen() else { bail!("weights under training are not packed for serving") };
        Ok((&norm.gain, norm.bias.as_ref(), norm.eps))
    }
}

impl FrozenNorm {
    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        plain::layer_norm(x, &self.gain, self.bias.as_ref(), self.eps)
    }

    fn weights<R>(&self, then: impl FnOnce(NormWeights<'_>) -> R) -> Result<R> {
        let gain = floats(&self.gain)?;
        let bias = self.bias.as_ref().map(floats).transpose()?;
        Ok(then(NormWeights { gain: &gain, bias: bias.as_deref(), eps: self.eps as f32 }))
    }

    fn forward_rows(&self, mut sums: Vec<f32>, cols: usize) -> Result<(Vec<f32>, usize)> {
        self.weights(|weights| kernels::layer_norm(&mut sums, None, weights))?;
        Ok((sums, cols))
    }

    fn backward_rows(&self, sums: &[f32], gradient: Mat<'_>) -> Result<Vec<f32>> {
        let mut gradient = gradient.to_vec();
        self.weights(|weights| kernels::layer_norm_backward(&mut gradient, sums, weights))?;
        Ok(gradient)
    }
}

struct Alone(FrozenNorm);

impl Function<1> for Alone {
    const NAME: &'static str = "layer norm";

    fn forward(&self, [x]: [Mat<'_>; 1]) -> Result<(Vec<f32>, usize)> {
        self.0.forward_rows(x.to_vec(), x.cols())
    }

    fn backward(&self, [x]: [Mat<'_>; 1], gradient: Mat<'_>, _: [bool; 1]) -> Result<[Option<Vec<f32>>; 1]> {
        Ok([Some(self.0.backward_rows(&x.to_vec(), gradient)?)])
    }
}

struct Sum(FrozenNorm);

impl Sum {
    fn sums(x: Mat<'_>, y: Mat<'_>) -> Vec<f32> {
        let mut sums = x.to_vec();
        kernels::add(&mut sums, &y.to_vec());
        sums
    }
}

impl Function<2> for Sum {
    const NAME: &'static str = "layer norm of a sum";

    fn forward(&self, [x, y]: [Mat<'_>; 2]) -> Result<(Vec<f32>, usize)> {
        self.0.forward_rows(Self::sums(x, y), x.cols())
    }

    fn backward(&self, [x, y]: [Mat<'_>; 2], gradient: Mat<'_>, wanted: [bool; 2]) -> Result<[Option<Vec<f32>>; 2]> {
        let gradient = self.0.backward_rows(&Self::sums(x, y), gradient)?;
        Ok(match wanted {
            [true, true] => [Some(gradient.clone()), Some(gradient)],
            [true, false] => [Some(gradient), None],
            _ => [None, Some(gradient)],
        })
    }
}

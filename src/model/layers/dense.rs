//! A linear that is trained whole: the heads'.

use candle_core::{Result, Tensor};

use super::function::{Function, apply3};
use super::linear::affine;
use super::plain;
use crate::model::kernels::{self, Mat, MatMut, multiply};

/// `x·Wᵀ + b` with gradients to all three: (rows, in)·(in, out) + (out).
pub(crate) fn dense(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        apply3(Dense, [&x.contiguous()?, weight, bias])
    } else {
        plain::linear(x, weight, Some(bias))
    }
}

struct Dense;

impl Function<3> for Dense {
    const NAME: &'static str = "dense";

    fn forward(&self, [x, weight, bias]: [Mat<'_>; 3]) -> Result<(Vec<f32>, usize)> {
        Ok((affine(x, weight.t(), Some(bias.row(0))), weight.rows()))
    }

    fn backward(
        &self,
        [x, weight, _]: [Mat<'_>; 3],
        gradient: Mat<'_>,
        [wants_x, ..]: [bool; 3],
    ) -> Result<[Option<Vec<f32>>; 3]> {
        let (rows, out, width) = (x.rows(), weight.rows(), weight.cols());
        let (mut dw, mut db) = (vec![0.0; out * width], vec![0.0; out]);
        multiply(MatMut::new(&mut dw, out, width), 1.0, gradient.t(), x);
        (0..rows).for_each(|row| kernels::add(&mut db, gradient.row(row)));
        let dx = wants_x.then(|| {
            let mut dx = vec![0.0; rows * width];
            multiply(MatMut::new(&mut dx, rows, width), 1.0, gradient, weight);
            dx
        });
        Ok([dx, Some(dw), Some(db)])
    }
}

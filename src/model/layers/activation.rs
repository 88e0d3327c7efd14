//! Activations, plain and gated.

use candle_core::{Result, Tensor};

use super::function::{Function, apply1};
use super::plain;
use crate::model::Activation;
use crate::model::kernels::{self, Mat};

/// `f(x)`
pub(crate) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if x.device().is_cpu() { apply1(Activate(activation), &x.contiguous()?) } else { plain::activate(x, activation) }
}

/// `f(left half)·right half` of each row.
pub(crate) fn activate_gated(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if x.device().is_cpu() {
        return apply1(Gated(activation), &x.contiguous()?);
    }
    let half = x.dim(1)? / 2;
    plain::activate(&x.narrow(1, 0, half)?, activation)? * x.narrow(1, half, half)?
}

struct Activate(Activation);

impl Function<1> for Activate {
    const NAME: &'static str = "activation";

    fn forward(&self, [x]: [Mat<'_>; 1]) -> Result<(Vec<f32>, usize)> {
        let mut y = x.to_vec();
        kernels::activate(self.0, &mut y);
        Ok((y, x.cols()))
    }

    fn backward(&self, [x]: [Mat<'_>; 1], gradient: Mat<'_>, _: [bool; 1]) -> Result<[Option<Vec<f32>>; 1]> {
        let mut dx = gradient.to_vec();
        let width = x.cols();
        (0..x.rows()).for_each(|i| kernels::activate_backward(self.0, &mut dx[i * width..][..width], x.row(i)));
        Ok([Some(dx)])
    }
}

struct Gated(Activation);

impl Function<1> for Gated {
    const NAME: &'static str = "gated activation";

    fn forward(&self, [x]: [Mat<'_>; 1]) -> Result<(Vec<f32>, usize)> {
        let half = x.cols() / 2;
        let mut y = x.block(0..x.rows(), 0..half).to_vec();
        kernels::activate(self.0, &mut y);
        (0..x.rows()).for_each(|i| kernels::scale(&mut y[i * half..][..half], &x.row(i)[half..]));
        Ok((y, half))
    }

    /// With y = f(a)·b: da = dy·b·f′(a), db = dy·f(a).
    fn backward(&self, [x]: [Mat<'_>; 1], gradient: Mat<'_>, _: [bool; 1]) -> Result<[Option<Vec<f32>>; 1]> {
        let (width, half) = (x.cols(), x.cols() / 2);
        let mut dx = x.to_vec();
        for (i, row) in dx.chunks_exact_mut(width).enumerate() {
            let (da, db) = row.split_at_mut(half);
            let (a, b) = x.row(i).split_at(half);
            kernels::activate(self.0, da); // f(a), on its way to db
            db.copy_from_slice(da);
            kernels::scale(db, gradient.row(i));
            da.copy_from_slice(b);
            kernels::scale(da, gradient.row(i));
            kernels::activate_backward(self.0, da, a);
        }
        Ok([Some(dx)])
    }
}

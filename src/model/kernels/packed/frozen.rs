//! A frozen matrix as training multiplies it, forward and backward: f32 rows in, f32 rows out. Each direction is packed at its
//! first product, so layers that nobody trains cost nothing.

use std::sync::OnceLock;

use super::narrow::{Strip, narrow};
use super::{Finish, Isa, Job, Kernel, Number, Operand, Panels, product};
use crate::model::kernels::Mat;

/// `x·W` and `g·Wᵀ`, with what this kernel multiplies.
pub struct Frozen {
    kernel: Kernel,
    forward: OnceLock<Box<dyn Rows>>,
    backward: OnceLock<Box<dyn Rows>>,
}

impl Frozen {
    pub fn new(kernel: Kernel) -> Self {
        Self { kernel, forward: OnceLock::new(), backward: OnceLock::new() }
    }

    /// `x·weight + bias`: (rows, in)·(in, out) + (out). `weight` is read the first time; it must always be the same.
    pub fn multiply(&self, x: Mat<'_>, weight: Mat<'_>, bias: Option<&[f32]>) -> Vec<f32> {
        self.forward.get_or_init(|| self.kernel.dispatch(Pack(weight))).multiply(x, bias)
    }

    /// `gradient·weightᵀ`: (rows, out)·(out, in).
    pub fn pull(&self, gradient: Mat<'_>, weight: Mat<'_>) -> Vec<f32> {
        self.backward.get_or_init(|| self.kernel.dispatch(Pack(weight.t()))).multiply(gradient, None)
    }
}

trait Rows: Send + Sync {
    fn multiply(&self, x: Mat<'_>, bias: Option<&[f32]>) -> Vec<f32>;
}

/// Packs a (depth, columns) matrix.
struct Pack<'a>(Mat<'a>);

impl Job for Pack<'_> {
    type Output = Box<dyn Rows>;

    fn run<I: Isa>(self) -> Self::Output {
        Box::new(Packed::<I>(Panels::of_mat::<I>(self.0)))
    }
}

struct Packed<I: Isa>(Panels<I::Number>);

impl<I: Isa> Rows for Packed<I> {
    fn multiply(&self, x: Mat<'_>, bias: Option<&[f32]>) -> Vec<f32> {
        let (rows, stride) = (x.rows(), self.0.depth());
        let mut numbers = vec![I::Number::ZERO; rows * stride];
        if rows > 0 {
            let (from, row_stride) = x.rows_from_first();
            narrow::<I>(&mut numbers, stride, from, Strip { rows, cols: x.cols(), stride: row_stride });
        }
        let mut y = vec![0.0; rows * self.0.cols()];
        product::<I>(Operand { numbers: &numbers, rows, stride }, &self.0, bias, &[], Finish::Store(&mut y));
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::testing::{assert_close, numbers};

    #[test]
    fn both_directions_equal_the_plain_products() {
        let (rows, depth, cols) = (11, 7, 50);
        let (x, weight, bias) = (numbers(rows * depth, 1), numbers(depth * cols, 2), numbers(cols, 3));
        let gradient = numbers(rows * cols, 4);
        let weight = Mat::new(&weight, depth, cols);
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
            let frozen = Frozen::new(kernel);
            let tolerance = if kernel.is_bf16() { 0.05 } else { 1e-5 };
            let (x, gradient) = (Mat::new(&x, rows, depth), Mat::new(&gradient, rows, cols));
            let forward: Vec<f32> = (0..rows * cols)
                .map(|at| {
                    bias[at % cols] + (0..depth).map(|k| x.row(at / cols)[k] * weight.row(k)[at % cols]).sum::<f32>()
                })
                .collect();
            assert_close(&frozen.multiply(x, weight, Some(&bias)), &forward, tolerance);
            let backward: Vec<f32> = (0..rows * depth)
                .map(|at| (0..cols).map(|k| gradient.row(at / depth)[k] * weight.row(at % depth)[k]).sum())
                .collect();
            assert_close(&frozen.pull(gradient, weight), &backward, tolerance);
        }
    }
}

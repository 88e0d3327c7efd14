//! Layer normalisation row by row, with the residual sum before it, and its gradient.

use pulp::{Arch, Simd, WithSimd};

use super::lanes::{self, Zip};

/// A norm's weights: gain, bias (if it has one) and the term that keeps the root off zero.
#[derive(Clone, Copy, Debug)]
pub struct NormWeights<'a> {
    pub gain: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub eps: f32,
}

/// Each row of `xs`, after `residual` was added: `(x − mean) / √(variance + eps) · gain + bias`.
pub fn layer_norm(xs: &mut [f32], residual: Option<&[f32]>, weights: NormWeights<'_>) {
    Arch::new().dispatch(Forward { xs, residual, weights });
}

/// `gradient` of the result becomes that of `sums`, the rows that were normalised.
pub fn layer_norm_backward(gradient: &mut [f32], sums: &[f32], weights: NormWeights<'_>) {
    Arch::new().dispatch(Backward { gradient, sums, weights });
}

struct Forward<'a> {
    xs: &'a mut [f32],
    residual: Option<&'a [f32]>,
    weights: NormWeights<'a>,
}

impl WithSimd for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { xs, residual, weights } = self;
        let width = weights.gain.len();
        for (i, row) in xs.chunks_exact_mut(width).enumerate() {
            if let Some(residual) = residual {
                lanes::zip(simd, row, &residual[i * width..][..width], &Plus(1.0));
            }
            let (mean, root) = moments(simd, row, weights.eps);
            lanes::zip(simd, row, weights.gain, &Scaled { shift: -mean * root, root });
            if let Some(bias) = weights.bias {
                lanes::zip(simd, row, bias, &Plus(1.0));
            }
        }
    }
}

struct Backward<'a> {
    gradient: &'a mut [f32],
    sums: &'a [f32],
    weights: NormWeights<'a>,
}

impl WithSimd for Backward<'_> {
    type Output = ();
    /// With n the normalised row and h = gradient·gain: `(h − mean(h) − n·mean(h·n)) / √(variance + eps)`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { gradient, sums, weights } = self;
        let width = weights.gain.len();
        let ones = vec![1.0; width];
        let mut normal = vec![0.0; width];
        for (gradient, sums) in gradient.chunks_exact_mut(width).zip(sums.chunks_exact(width)) {
            let (mean, root) = moments(simd, sums, weights.eps);
            normal.copy_from_slice(sums);
            lanes::zip(simd, &mut normal, &ones, &Scaled { shift: -mean * root, root });
            lanes::zip(simd, gradient, weights.gain, &Scaled { shift: 0.0, root: 1.0 });
            let mean = lanes::sum(simd, gradient) / width as f32;
            let along = lanes::dot(simd, gradient, &normal) / width as f32;
            lanes::zip(simd, gradient, &normal, &Plus(-along));
            lanes::zip(simd, gradient, &ones, &Scaled { shift: -mean * root, root });
        }
    }
}

/// Mean and 1 / √(variance + eps).
#[inline(always)]
fn moments<S: Simd>(simd: S, row: &[f32], eps: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = lanes::sum(simd, row) / count;
    // two passes: the difference of squares would lose digits
    let (body, tail) = S::as_simd_f32s(row);
    let center = simd.splat_f32s(mean);
    let mut squares = simd.splat_f32s(0.0);
    for x in body {
        let deviation = simd.sub_f32s(*x, center);
        squares = simd.mul_add_e_f32s(deviation, deviation, squares);
    }
    let rest: f32 = tail.iter().map(|x| (x - mean) * (x - mean)).sum();
    let variance = (simd.reduce_sum_f32s(squares) + rest) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// (x·root + shift)·y
struct Scaled {
    shift: f32,
    root: f32,
}

impl Zip for Scaled {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s, y: S::f32s) -> S::f32s {
        simd.mul_f32s(simd.mul_add_e_f32s(x, simd.splat_f32s(self.root), simd.splat_f32s(self.shift)), y)
    }
}

/// x + factor·y
struct Plus(f32);

impl Zip for Plus {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s, y: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(y, simd.splat_f32s(self.0), x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::testing::{assert_close, numbers};

    fn plain(xs: &[f32], weights: NormWeights<'_>) -> Vec<f32> {
        let width = weights.gain.len();
        let of_row = |row: &[f32]| {
            let mean = row.iter().sum::<f32>() / width as f32;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / width as f32;
            let normal: Vec<f32> = row.iter().map(|x| (x - mean) / (variance + weights.eps).sqrt()).collect();
            (0..width).map(|i| normal[i] * weights.gain[i] + weights.bias.map_or(0.0, |bias| bias[i])).collect()
        };
        xs.chunks(width).flat_map(|row| -> Vec<f32> { of_row(row) }).collect()
    }

    #[test]
    fn a_norm_equals_its_plain_twin_at_odd_widths() {
        for width in [1, 3, 15, 16, 17, 33, 70] {
            let (gain, bias, residual) = (numbers(width, 1), numbers(width, 2), numbers(3 * width, 3));
            for bias in [Some(&bias[..]), None] {
                let weights = NormWeights { gain: &gain, bias, eps: 1e-5 };
                let mut got = numbers(3 * width, 4);
                let sums: Vec<f32> = got.iter().zip(&residual).map(|(x, r)| x + r).collect();
                layer_norm(&mut got, Some(&residual), weights);
                assert_close(&got, &plain(&sums, weights), 1e-5);
                let mut alone = sums.clone();
                layer_norm(&mut alone, None, weights);
                assert_close(&alone, &got, 1e-6);
            }
        }
    }

    #[test]
    fn its_gradient_equals_the_difference_quotient() {
        let width = 19;
        let (gain, mut xs, direction) = (numbers(width, 1), numbers(2 * width, 2), numbers(2 * width, 3));
        let weights = NormWeights { gain: &gain, bias: None, eps: 1e-5 };
        let mut gradient = direction.clone();
        layer_norm_backward(&mut gradient, &xs, weights);
        for i in 0..xs.len() {
            let x = xs[i];
            let mut value = |x| {
                xs[i] = x;
                plain(&xs, weights).iter().zip(&direction).map(|(y, d)| f64::from(y * d)).sum::<f64>()
            };
            let slope = (value(x + 1e-2) - value(x - 1e-2)) / 2e-2;
            xs[i] = x;
            assert!((slope - f64::from(gradient[i])).abs() < 2e-3, "element {i}: {} and {slope}", gradient[i]);
        }
    }
}

//! Softmax over a row, and its gradient.

use pulp::{Arch, Simd, WithSimd};

use super::lanes::{self, Map, Zip, exp};

/// `xs = softmax(factor · xs)`
pub(super) fn softmax(xs: &mut [f32], factor: f32) {
    Arch::new().dispatch(Softmax { xs, factor });
}

/// The same inside a function that is vectorised already.
#[inline(always)]
pub(super) fn softmax_in<S: Simd>(simd: S, xs: &mut [f32], factor: f32) {
    Softmax { xs, factor }.with_simd(simd);
}

/// From softmax's result `p` and the gradient of it to the gradient of its argument: `factor · p·(gradient − p·gradient)`.
pub(super) fn softmax_backward(gradient: &mut [f32], p: &[f32], factor: f32) {
    Arch::new().dispatch(Backward { gradient, p, factor });
}

struct Softmax<'a> {
    xs: &'a mut [f32],
    factor: f32,
}

impl WithSimd for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let largest = lanes::max(simd, self.xs) * self.factor;
        lanes::map(simd, self.xs, &Powers { factor: self.factor, largest });
        let total = lanes::sum(simd, self.xs);
        lanes::map(simd, self.xs, &Scaled(1.0 / total));
    }
}

struct Backward<'a> {
    gradient: &'a mut [f32],
    p: &'a [f32],
    factor: f32,
}

impl WithSimd for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mean = lanes::dot(simd, self.gradient, self.p);
        lanes::zip(simd, self.gradient, self.p, &Slope { factor: self.factor, mean });
    }
}

/// exp(factor·x − largest)
struct Powers {
    factor: f32,
    largest: f32,
}

impl Map for Powers {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s) -> S::f32s {
        exp(simd, simd.mul_add_e_f32s(x, simd.splat_f32s(self.factor), simd.splat_f32s(-self.largest)))
    }
}

struct Scaled(f32);

impl Map for Scaled {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(x, simd.splat_f32s(self.0))
    }
}

/// factor·p·(gradient − mean)
struct Slope {
    factor: f32,
    mean: f32,
}

impl Zip for Slope {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, gradient: S::f32s, p: S::f32s) -> S::f32s {
        let deviation = simd.sub_f32s(gradient, simd.splat_f32s(self.mean));
        simd.mul_f32s(simd.mul_f32s(p, simd.splat_f32s(self.factor)), deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::testing::{ODD_LENGTHS, assert_close, numbers};

    fn plain(xs: &[f32], factor: f32) -> Vec<f32> {
        let powers: Vec<f64> = xs.iter().map(|x| f64::from(x * factor).exp()).collect();
        let total: f64 = powers.iter().sum();
        powers.iter().map(|power| (power / total) as f32).collect()
    }

    fn plain_backward(gradient: &[f32], p: &[f32], factor: f32) -> Vec<f32> {
        let mean: f32 = gradient.iter().zip(p).map(|(g, p)| g * p).sum();
        gradient.iter().zip(p).map(|(g, p)| factor * p * (g - mean)).collect()
    }

    #[test]
    fn softmax_equals_its_plain_twin() {
        for len in ODD_LENGTHS {
            let (xs, mut gradient) = (numbers(len, 1), numbers(len, 2));
            let mut got = xs.clone();
            softmax(&mut got, 3.0);
            assert_close(&got, &plain(&xs, 3.0), 1e-6);
            let wanted = plain_backward(&gradient, &got, 3.0);
            softmax_backward(&mut gradient, &got, 3.0);
            assert_close(&gradient, &wanted, 1e-5);
        }
    }

    #[test]
    fn large_scores_do_not_overflow_and_a_nan_is_not_hidden() {
        let mut large = [1e30, 1e30, -1e30];
        softmax(&mut large, 1.0);
        assert_close(&large, &[0.5, 0.5, 0.0], 1e-6);
        for at in 0..20 {
            let mut poisoned = [0.5; 20];
            poisoned[at] = f32::NAN;
            softmax(&mut poisoned, 1.0);
            assert!(poisoned.iter().all(|x| x.is_nan()), "NaN at {at}: {poisoned:?}");
        }
    }
}

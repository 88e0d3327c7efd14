//! Activations and their derivatives, in place.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use pulp::{Arch, Simd, WithSimd};

use super::lanes::{self, Map, Zip, exp};
use crate::model::Activation;

/// `xs[i] = f(xs[i])`
pub fn activate(activation: Activation, xs: &mut [f32]) {
    match activation {
        Activation::Gelu => Arch::new().dispatch(Each(xs, Gelu)),
        Activation::GeluTanh => Arch::new().dispatch(Each(xs, GeluTanh)),
        Activation::Relu => Arch::new().dispatch(Each(xs, Relu)),
    }
}

/// `gradient[i] *= f′(xs[i])`
pub fn activate_backward(activation: Activation, gradient: &mut [f32], xs: &[f32]) {
    match activation {
        Activation::Gelu => Arch::new().dispatch(Both(gradient, xs, Gelu)),
        Activation::GeluTanh => Arch::new().dispatch(Both(gradient, xs, GeluTanh)),
        Activation::Relu => Arch::new().dispatch(Both(gradient, xs, Relu)),
    }
}

/// `xs[i] *= ys[i]`
pub fn scale(xs: &mut [f32], ys: &[f32]) {
    Arch::new().dispatch(Both(xs, ys, Product));
}

/// `xs[i] += ys[i]`
pub fn add(xs: &mut [f32], ys: &[f32]) {
    Arch::new().dispatch(Both(xs, ys, lanes::Plus));
}

struct Each<'a, F>(&'a mut [f32], F);

impl<F: Map> WithSimd for Each<'_, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        lanes::map(simd, self.0, &self.1);
    }
}

struct Both<'a, F>(&'a mut [f32], &'a [f32], F);

impl<F: Zip> WithSimd for Both<'_, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        lanes::zip(simd, self.0, self.1, &self.2);
    }
}

struct Product;

impl Zip for Product {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s, y: S::f32s) -> S::f32s {
        simd.mul_f32s(x, y)
    }
}

pub(super) struct Relu;

impl Map for Relu {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s) -> S::f32s {
        simd.max_f32s(x, simd.splat_f32s(0.0))
    }
}

impl Zip for Relu {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, gradient: S::f32s, x: S::f32s) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        simd.select_f32s(simd.greater_than_f32s(x, zero), gradient, zero)
    }
}

/// x·Φ(x); its derivative is Φ(x) + x·φ(x).
pub(super) struct Gelu;

impl Gelu {
    /// Φ(x) and exp(−x²/2).
    #[inline(always)]
    fn distribution<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
        let splat = |value| simd.splat_f32s(value);
        let z = simd.mul_f32s(simd.abs_f32s(x), splat(FRAC_1_SQRT_2));
        let bell = exp(simd, simd.neg_f32s(simd.mul_f32s(z, z)));
        let t = simd.div_f32s(splat(1.0), simd.mul_add_e_f32s(z, splat(ERF_SLOPE), splat(1.0)));
        let mut series = splat(ERF_TERMS[0]);
        for term in &ERF_TERMS[1..] {
            series = simd.mul_add_e_f32s(series, t, splat(*term));
        }
        // half of 1 − erf(z): what lies beyond |x| on one side
        let tail = simd.mul_f32s(simd.mul_f32s(simd.mul_f32s(series, t), bell), splat(0.5));
        let is_negative = simd.less_than_f32s(x, splat(0.0));
        (simd.select_f32s(is_negative, tail, simd.sub_f32s(splat(1.0), tail)), bell)
    }
}

/// Abramowitz and Stegun 7.1.26, highest power first: erf to 1.5e-7.
const ERF_TERMS: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
const ERF_SLOPE: f32 = 0.327_591_1;

impl Map for Gelu {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(x, Self::distribution(simd, x).0)
    }
}

impl Zip for Gelu {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, gradient: S::f32s, x: S::f32s) -> S::f32s {
        let (below, bell) = Self::distribution(simd, x);
        let density = simd.mul_f32s(bell, simd.splat_f32s(0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2));
        simd.mul_f32s(gradient, simd.mul_add_e_f32s(x, density, below))
    }
}

/// [`Gelu`] for a result that is rounded to bf16 next: within 6e-5 (beyond ±20: 5e-6·|x|), for less than half the work of
/// the exact one.
///
/// x·(½ + c·P(c²)) with c = x held to ±4.5, where Φ is 0 or 1 to 4e-6; P is the least-squares polynomial of (Φ(c) − ½)/c.
pub(super) struct GeluForBf16;

const GELU_EDGE: f32 = 4.5;
/// Highest power first.
const GELU_TERMS: [f32; 9] = [
    2.999_979_6e-11,
    -3.283_887_4e-9,
    1.580_247_7e-7,
    -4.431_665_4e-6,
    8.120_949e-5,
    -1.036_251_8e-3,
    9.580_648e-3,
    -6.597_726e-2,
    3.987_085_7e-1,
];

impl Map for GeluForBf16 {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s) -> S::f32s {
        let splat = |value| simd.splat_f32s(value);
        let c = simd.min_f32s(simd.max_f32s(x, splat(-GELU_EDGE)), splat(GELU_EDGE));
        let square = simd.mul_f32s(c, c);
        let mut series = splat(GELU_TERMS[0]);
        for term in &GELU_TERMS[1..] {
            series = simd.mul_add_e_f32s(series, square, splat(*term));
        }
        simd.mul_f32s(x, simd.mul_add_e_f32s(c, series, splat(0.5)))
    }
}

/// x·σ(2u) with u = √(2/π)·(x + 0.044715·x³): the same as ½x·(1 + tanh u).
pub(super) struct GeluTanh;

const CUBE: f32 = 0.044_715;
const TWO_ROOT: f32 = SQRT_2 * FRAC_2_SQRT_PI; // 2·√(2/π)

impl GeluTanh {
    /// σ(2u)
    #[inline(always)]
    fn gate<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        let splat = |value| simd.splat_f32s(value);
        let square = simd.mul_f32s(x, x);
        let twice = simd.mul_f32s(x, simd.mul_add_e_f32s(square, splat(TWO_ROOT * CUBE), splat(TWO_ROOT)));
        simd.div_f32s(splat(1.0), simd.add_f32s(splat(1.0), exp(simd, simd.neg_f32s(twice))))
    }
}

impl Map for GeluTanh {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(x, Self::gate(simd, x))
    }
}

impl Zip for GeluTanh {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, gradient: S::f32s, x: S::f32s) -> S::f32s {
        let splat = |value| simd.splat_f32s(value);
        let gate = Self::gate(simd, x);
        // (x·g)′ = g + x·g·(1 − g)·(2u)′
        let slope = simd.mul_add_e_f32s(simd.mul_f32s(x, x), splat(3.0 * TWO_ROOT * CUBE), splat(TWO_ROOT));
        let change = simd.mul_f32s(simd.mul_f32s(gate, simd.sub_f32s(splat(1.0), gate)), slope);
        simd.mul_f32s(gradient, simd.mul_add_e_f32s(x, change, gate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::testing::{ODD_LENGTHS, assert_close, numbers};

    fn plain(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Gelu => 0.5 * x * (1.0 + candle_core::cpu::erf::erf_f64(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::Relu => x.max(0.0),
        }
    }

    #[test]
    fn the_gelu_for_bf16_is_within_its_bound() {
        let xs: Vec<f32> = (-8000..=8000).map(|i| i as f32 / 1000.0).chain([-1e4, -20.0, 20.0, 1e4]).collect();
        let mut values = xs.clone();
        Arch::new().dispatch(Each(&mut values, GeluForBf16));
        for (&x, got) in xs.iter().zip(&values) {
            let wanted = plain(Activation::Gelu, x.into()) as f32;
            let bound = 6e-5_f32.max(5e-6 * x.abs());
            assert!((got - wanted).abs() <= bound, "at {x}: {got} is {wanted}");
        }
    }

    #[test]
    fn activations_and_slopes_equal_their_plain_twins() {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            for len in ODD_LENGTHS {
                let xs: Vec<f32> = numbers(len, 1).iter().map(|x| x * 6.0).collect();
                let mut values = xs.clone();
                activate(activation, &mut values);
                let wanted: Vec<f32> = xs.iter().map(|&x| plain(activation, x.into()) as f32).collect();
                assert_close(&values, &wanted, 1e-6);

                let mut slopes = vec![2.0; len];
                activate_backward(activation, &mut slopes, &xs);
                let slope = |x: f64| (plain(activation, x + 1e-5) - plain(activation, x - 1e-5)) / 1e-5;
                let wanted: Vec<f32> = xs.iter().map(|&x| slope(x.into()) as f32).collect();
                assert_close(&slopes, &wanted, 1e-5);
            }
        }
    }
}

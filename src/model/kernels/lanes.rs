//! What the vectorised kernels share: loops over whole vectors with one shorter tail, reductions, and exp.

use pulp::Simd;

/// A function of one vector.
pub(super) trait Map {
    fn at<S: Simd>(&self, simd: S, x: S::f32s) -> S::f32s;
}

/// A function of two vectors.
pub(super) trait Zip {
    fn at<S: Simd>(&self, simd: S, x: S::f32s, y: S::f32s) -> S::f32s;
}

/// x + y
pub(super) struct Plus;

impl Zip for Plus {
    #[inline(always)]
    fn at<S: Simd>(&self, simd: S, x: S::f32s, y: S::f32s) -> S::f32s {
        simd.add_f32s(x, y)
    }
}

/// `xs[i] = f(xs[i])`
#[inline(always)]
pub(super) fn map<S: Simd>(simd: S, xs: &mut [f32], f: &impl Map) {
    let (body, tail) = S::as_mut_simd_f32s(xs);
    for x in body {
        *x = f.at(simd, *x);
    }
    if !tail.is_empty() {
        let x = simd.partial_load_f32s(tail);
        simd.partial_store_f32s(tail, f.at(simd, x));
    }
}

/// `xs[i] = f(xs[i], ys[i])`
#[inline(always)]
pub(super) fn zip<S: Simd>(simd: S, xs: &mut [f32], ys: &[f32], f: &impl Zip) {
    let ys = &ys[..xs.len()];
    let (body, tail) = S::as_mut_simd_f32s(xs);
    let (other, other_tail) = S::as_simd_f32s(ys);
    for (x, y) in body.iter_mut().zip(other) {
        *x = f.at(simd, *x, *y);
    }
    if !tail.is_empty() {
        let (x, y) = (simd.partial_load_f32s(tail), simd.partial_load_f32s(other_tail));
        simd.partial_store_f32s(tail, f.at(simd, x, y));
    }
}

/// `Σ xs[i]`
#[inline(always)]
pub(super) fn sum<S: Simd>(simd: S, xs: &[f32]) -> f32 {
    let (body, tail) = S::as_simd_f32s(xs);
    let mut total = simd.partial_load_f32s(tail);
    for x in body {
        total = simd.add_f32s(total, *x);
    }
    simd.reduce_sum_f32s(total)
}

/// `Σ xs[i]·ys[i]`
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, xs: &[f32], ys: &[f32]) -> f32 {
    let (body, tail) = S::as_simd_f32s(xs);
    let (other, other_tail) = S::as_simd_f32s(&ys[..xs.len()]);
    let mut total = simd.mul_f32s(simd.partial_load_f32s(tail), simd.partial_load_f32s(other_tail));
    for (x, y) in body.iter().zip(other) {
        total = simd.mul_add_e_f32s(*x, *y, total);
    }
    simd.reduce_sum_f32s(total)
}

/// The largest; −∞ of none.
#[inline(always)]
pub(super) fn max<S: Simd>(simd: S, xs: &[f32]) -> f32 {
    let (body, tail) = S::as_simd_f32s(xs);
    let mut largest = simd.splat_f32s(f32::NEG_INFINITY);
    for x in body {
        largest = simd.max_f32s(largest, *x);
    }
    tail.iter().fold(simd.reduce_max_f32s(largest), |largest, x| largest.max(*x))
}

/// eˣ to 5e-7 of it; below −87 it is 1.6e-38 instead of less, above 88 it stays e⁸⁸. Not a number stays so.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value| simd.splat_f32s(value);
    // eˣ = 2ⁿ·eʳ with n whole and |r| ≤ ln(2)/2; ln 2 in two parts keeps r exact
    // of a bound and NaN, vector units answer the second
    let x = simd.max_f32s(splat(-87.0), simd.min_f32s(splat(88.0), x));
    let shifted = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), splat(ROUND));
    let n = simd.sub_f32s(shifted, splat(ROUND));
    let r = simd.mul_add_e_f32s(n, splat(-LN_2_HIGH), x);
    let r = simd.mul_add_e_f32s(n, splat(-LN_2_LOW), r);
    let mut power = splat(EXP_TERMS[0]);
    for term in &EXP_TERMS[1..] {
        power = simd.mul_add_e_f32s(power, r, splat(*term));
    }
    // n stands in the low bits of `shifted`: moved to the exponent's place it multiplies by 2ⁿ
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(power), exponent))
}

/// 1.5·2²³: adding it rounds to whole numbers, which then stand in the low bits.
const ROUND: f32 = 12_582_912.0;
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// The series of eʳ, highest power first; the last term left out is under 1e-8 at ln(2)/2.
const EXP_TERMS: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0, 1.0, 1.0];

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::model::kernels::testing::{ODD_LENGTHS, assert_close, numbers};

    struct Exp<'a>(&'a mut [f32]);

    impl Map for () {
        #[inline(always)]
        fn at<S: Simd>(&self, simd: S, x: S::f32s) -> S::f32s {
            exp(simd, x)
        }
    }

    impl WithSimd for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            map(simd, self.0, &());
        }
    }

    struct Reduce<'a>(&'a [f32], &'a [f32]);

    impl WithSimd for Reduce<'_> {
        type Output = [f32; 3];
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> [f32; 3] {
            [sum(simd, self.0), dot(simd, self.0, self.1), max(simd, self.0)]
        }
    }

    #[test]
    fn exp_equals_the_standard_librarys() {
        for len in ODD_LENGTHS {
            let xs: Vec<f32> = numbers(len, 1).iter().map(|x| x * 40.0).collect();
            let mut got = xs.clone();
            pulp::Arch::new().dispatch(Exp(&mut got));
            for (x, got) in xs.iter().zip(got) {
                assert!((got / x.exp() - 1.0).abs() < 5e-7, "exp({x}) = {got}, wanted {}", x.exp());
            }
        }
        let mut edges = [f32::NEG_INFINITY, -200.0, 0.0];
        pulp::Arch::new().dispatch(Exp(&mut edges));
        assert!(edges[0] < 2e-38 && edges[1] < 2e-38 && edges[2] == 1.0, "{edges:?}");
    }

    #[test]
    fn reductions_equal_their_plain_twins() {
        for len in ODD_LENGTHS {
            let (xs, ys) = (numbers(len, 1), numbers(len, 2));
            let plain = [
                xs.iter().sum(),
                xs.iter().zip(&ys).map(|(x, y)| x * y).sum(),
                xs.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            ];
            let got = pulp::Arch::new().dispatch(Reduce(&xs, &ys));
            assert_close(&got[..2], &plain[..2], 1e-5);
            assert_eq!(got[2], plain[2], "the largest of {len}");
        }
    }
}

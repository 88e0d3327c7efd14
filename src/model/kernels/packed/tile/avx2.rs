//! AVX2 and FMA: 6 rows × 2 vectors of 8, twelve of the sixteen registers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::{Isa, TileArgs};
use crate::model::kernels::packed::narrow;

#[derive(Clone, Copy, Debug)]
pub struct Avx2;

impl Isa for Avx2 {
    type Number = f32;
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    const ROWS: usize = 6;

    #[cfg(target_arch = "x86_64")]
    fn is_available() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available() -> bool {
        false
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn tile(args: TileArgs<f32>) {
        // SAFETY: the caller's promise is the same.
        unsafe { super::by_shape!(tile, args, [1 2 3 4 5 6] x [1 2]) }
    }

    #[cfg(not(target_arch = "x86_64"))]
    unsafe fn tile(_: TileArgs<f32>) {
        unreachable!("only x86-64 has these instructions");
    }

    fn narrow(to: &mut [f32], to_stride: usize, from: &[f32], from_stride: usize, rows: usize, cols: usize) {
        narrow::plain(to, to_stride, from, from_stride, rows, cols);
    }
}

/// # Safety
/// As [`Isa::tile`], for `R` rows and `V` vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const V: usize>(args: TileArgs<f32>) {
    let TileArgs { a, stride, panel, wide, depth, out, out_stride, adds, .. } = args;
    // SAFETY: all addresses lie within what the caller promised; loads and stores need no alignment.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); V]; R];
        if adds {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(out.add(r * out_stride + v * 8));
                }
            }
        }
        for k in 0..depth {
            let columns: [__m256; V] = std::array::from_fn(|v| _mm256_loadu_ps(panel.add(k * wide + v * 8)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let one = _mm256_set1_ps(*a.add(r * stride + k));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm256_fmadd_ps(one, column, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                _mm256_storeu_ps(out.add(r * out_stride + v * 8), *sum);
            }
        }
    }
}

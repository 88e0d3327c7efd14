//! AVX-512 with f32: 8 rows × 3 vectors of 16 leave 8 registers for operands.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{Isa, TileArgs};
use crate::model::kernels::packed::narrow;

#[derive(Clone, Copy, Debug)]
pub struct Avx512;

impl Isa for Avx512 {
    type Number = f32;
    const LANES: usize = 16;
    const VECTORS: usize = 3;
    const ROWS: usize = 8;

    #[cfg(target_arch = "x86_64")]
    fn is_available() -> bool {
        is_x86_feature_detected!("avx512f")
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available() -> bool {
        false
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn tile(args: TileArgs<f32>) {
        // SAFETY: the caller's promise is the same.
        unsafe { super::by_shape!(tile, args, [1 2 3 4 5 6 7 8] x [1 2 3]) }
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
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const V: usize>(args: TileArgs<f32>) {
    let TileArgs { a, stride, panel, wide, depth, out, out_stride, adds, .. } = args;
    // SAFETY: all addresses lie within what the caller promised; loads and stores need no alignment.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        if adds {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(out.add(r * out_stride + v * 16));
                }
            }
        }
        for k in 0..depth {
            let columns: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(panel.add(k * wide + v * 16)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let one = _mm512_set1_ps(*a.add(r * stride + k));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_fmadd_ps(one, column, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(out.add(r * out_stride + v * 16), *sum);
            }
        }
    }
}

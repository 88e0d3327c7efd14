//! AVX512-BF16: `vdpbf16ps` adds two products of bf16 numbers to each of sixteen f32 sums.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256bh, __m256i, __m512bh, _mm256_mask_storeu_epi16, _mm256_storeu_si256, _mm512_cvtneps_pbh, _mm512_dpbf16_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};
#[cfg(target_arch = "x86_64")]
use std::mem::transmute;

use half::bf16;

use super::{Isa, TileArgs};

#[derive(Clone, Copy, Debug)]
pub struct Avx512Bf16;

#[cfg(not(target_arch = "x86_64"))]
impl Isa for Avx512Bf16 {
    type Number = bf16;
    const LANES: usize = 16;
    const VECTORS: usize = 3;
    const ROWS: usize = 8;

    fn is_available() -> bool {
        false
    }

    unsafe fn tile(_: TileArgs<bf16>) {
        unreachable!("only x86-64 has these instructions");
    }

    fn narrow(to: &mut [bf16], to_stride: usize, from: &[f32], from_stride: usize, rows: usize, cols: usize) {
        crate::model::kernels::packed::narrow::plain(to, to_stride, from, from_stride, rows, cols);
    }
}

#[cfg(target_arch = "x86_64")]
impl Isa for Avx512Bf16 {
    type Number = bf16;
    const LANES: usize = 16;
    const VECTORS: usize = 3;
    const ROWS: usize = 8;

    fn is_available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
    }

    unsafe fn tile(args: TileArgs<bf16>) {
        // SAFETY: the caller's promise is the same.
        unsafe { super::by_shape!(tile, args, [1 2 3 4 5 6 7 8] x [1 2 3]) }
    }

    fn narrow(to: &mut [bf16], to_stride: usize, from: &[f32], from_stride: usize, rows: usize, cols: usize) {
        assert!(rows == 0 || (rows - 1) * to_stride + cols <= to.len(), "the rows fit");
        assert!(rows == 0 || (rows - 1) * from_stride + cols <= from.len(), "the rows are there");
        // SAFETY: the rows lie within both slices; only a kernel that is available runs.
        unsafe { narrow(to.as_mut_ptr(), to_stride, from.as_ptr(), from_stride, rows, cols) }
    }
}

/// # Safety
/// As [`Isa::tile`], for `R` rows and `V` vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const R: usize, const V: usize>(args: TileArgs<bf16>) {
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
        for pair in 0..depth / 2 {
            let columns: [__m512bh; V] =
                std::array::from_fn(|v| transmute(_mm512_loadu_si512(panel.add((pair * wide + v * 16) * 2).cast())));
            for (r, sums) in sums.iter_mut().enumerate() {
                let two = a.add(r * stride + 2 * pair).cast::<i32>().read_unaligned();
                let two: __m512bh = transmute(_mm512_set1_epi32(two));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_dpbf16_ps(*sum, two, column);
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

/// # Safety
/// `rows` × `cols` numbers are at both addresses.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn narrow(to: *mut bf16, to_stride: usize, from: *const f32, from_stride: usize, rows: usize, cols: usize) {
    let rest = cols % 16;
    let mask = (1u16 << rest) - 1;
    for row in 0..rows {
        // SAFETY: the caller's promise; the masks keep the last vector of a row within it.
        unsafe {
            let (to, from) = (to.add(row * to_stride), from.add(row * from_stride));
            for col in (0..cols - rest).step_by(16) {
                let sixteen = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from.add(col))));
                _mm256_storeu_si256(to.add(col).cast(), sixteen);
            }
            if rest > 0 {
                let some = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from.add(cols - rest)));
                _mm256_mask_storeu_epi16(to.add(cols - rest).cast(), mask, transmute::<__m256bh, __m256i>(some));
            }
        }
    }
}

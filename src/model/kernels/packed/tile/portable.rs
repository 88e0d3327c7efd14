//! Plain Rust, which compilers turn into the vectors every machine of the target has (SSE2, NEON).

use super::{Isa, TileArgs};
use crate::model::kernels::packed::narrow;

#[derive(Clone, Copy, Debug)]
pub struct Portable;

const LANES: usize = 8;

impl Isa for Portable {
    type Number = f32;
    const LANES: usize = LANES;
    const VECTORS: usize = 3;
    const ROWS: usize = 2; // 2 × 24 sums are twelve registers of four

    fn is_available() -> bool {
        true
    }

    unsafe fn tile(args: TileArgs<f32>) {
        // SAFETY: the caller's promise is the same.
        unsafe { super::by_shape!(tile, args, [1 2] x [1 2 3]) }
    }

    fn narrow(to: &mut [f32], to_stride: usize, from: &[f32], from_stride: usize, rows: usize, cols: usize) {
        narrow::plain(to, to_stride, from, from_stride, rows, cols);
    }
}

/// # Safety
/// As [`Isa::tile`], for `R` rows and `V` vectors.
unsafe fn tile<const R: usize, const V: usize>(args: TileArgs<f32>) {
    let TileArgs { a, stride, panel, wide, depth, out, out_stride, adds, .. } = args;
    let mut sums = [[[0.0f32; LANES]; V]; R];
    // SAFETY: all addresses lie within what the caller promised; the rows of `out` do not overlap.
    unsafe {
        if adds {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = out.add(r * out_stride + v * LANES).cast::<[f32; LANES]>().read();
                }
            }
        }
        for k in 0..depth {
            let columns: [[f32; LANES]; V] =
                std::array::from_fn(|v| panel.add(k * wide + v * LANES).cast::<[f32; LANES]>().read());
            for (r, sums) in sums.iter_mut().enumerate() {
                let one = *a.add(r * stride + k);
                for (sum, column) in sums.iter_mut().zip(&columns) {
                    sum.iter_mut().zip(column).for_each(|(sum, x)| *sum += one * x);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                out.add(r * out_stride + v * LANES).cast::<[f32; LANES]>().write(*sum);
            }
        }
    }
}

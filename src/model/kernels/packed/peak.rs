//! The most that one core does with a kernel: whole tiles of numbers in the first-level cache. Benchmarks hold the rest against it.

use std::hint::black_box;

use super::product::multiply;
use super::{Isa, Job, Kernel, Number, Operand, Panels};

/// Of the product: a panel and a tile's rows are at most 28 KiB then, and sums are moved once in so many steps.
const DEPTH: usize = 128;

/// Multiplies `tiles` whole tiles; how many floating-point operations that was, a multiply-add being two.
///
/// # Panics
/// If the machine has no such kernel.
pub fn multiply_tiles(kernel: Kernel, tiles: usize) -> usize {
    kernel.dispatch(Tiles(tiles))
}

struct Tiles(usize);

impl Job for Tiles {
    type Output = usize;

    fn run<I: Isa>(self) -> usize {
        let (rows, cols) = (I::ROWS, I::LANES * I::VECTORS);
        let numbers = vec![I::Number::from_f32(0.5); rows * DEPTH];
        let panels = Panels::of_rows::<I>(&vec![0.5; cols * DEPTH], cols, DEPTH);
        let mut sums = vec![0.0; rows * cols];
        for _ in 0..self.0 {
            let x = Operand { numbers: black_box(&numbers), rows, stride: DEPTH };
            multiply::<I>(&mut sums, x, 0..rows, &panels, 0, false);
            black_box(&mut sums);
        }
        2 * rows * cols * DEPTH * self.0
    }
}

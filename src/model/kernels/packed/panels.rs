//! Weights in the order in which tiles read them.
#![allow(unsafe_code)]

use std::ops::Range;

use half::bf16;

use super::Isa;
use crate::model::kernels::Mat;

/// What a kernel multiplies.
pub trait Number: Copy + Default + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// Neighbours in depth that one instruction takes together.
    const PAIR: usize;
    const ZERO: Self;
    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Number for f32 {
    const PAIR: usize = 1;
    const ZERO: Self = 0.0;
    fn from_f32(x: f32) -> Self {
        x
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Number for bf16 {
    const PAIR: usize = 2;
    const ZERO: Self = Self::ZERO;
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// A (depth, columns) matrix, cut into panels of as many columns as a tile has; inside a panel, the numbers of one depth
/// (bf16: of two neighbours, column by column) lie side by side, and the next depth's follow at once: a vector that reaches
/// beyond a panel's last column reads what nobody asks for. A panel has only the depths between its first and its last that
/// are not zero; what is missing to pairs is zero.
#[derive(Clone, Debug)]
pub struct Panels<N> {
    numbers: Aligned<N>,
    shape: Shape,
    cols: usize,
    /// For each panel, where its numbers begin and which depths it has.
    panels: Vec<(usize, Range<usize>)>,
}

/// How panels are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Rounded up to pairs.
    pub(super) depth: usize,
    pub(super) lanes: usize,
    /// Columns of a whole panel.
    pub(super) width: usize,
}

impl Shape {
    pub(super) fn of<I: Isa>(depth: usize) -> Self {
        let pair = I::Number::PAIR;
        Self { depth: depth.next_multiple_of(pair), lanes: I::LANES, width: I::LANES * I::VECTORS }
    }

    /// Vectors of the panel that begins at column `start` of `cols`.
    pub(super) fn vectors(&self, start: usize, cols: usize) -> usize {
        (cols - start).min(self.width).div_ceil(self.lanes)
    }

    /// Columns of that panel.
    pub(super) fn wide(&self, start: usize, cols: usize) -> usize {
        (cols - start).min(self.width)
    }

    /// Numbers of all panels together, if each column up to a whole vector is written.
    pub(super) fn len(&self, cols: usize) -> usize {
        self.depth * cols.next_multiple_of(self.lanes)
    }
}

impl<N: Number> Panels<N> {
    /// From a row-major (columns, depth) matrix, as checkpoints keep weights: the product is then `x·Wᵀ`.
    pub fn of_rows<I: Isa<Number = N>>(weight: &[f32], cols: usize, depth: usize) -> Self {
        assert_eq!(weight.len(), cols * depth, "{cols} rows of {depth}");
        Self::pack::<I>(cols, depth, |k, col| weight[col * depth + k])
    }

    /// From a (depth, columns) matrix.
    pub fn of_mat<I: Isa<Number = N>>(weight: Mat<'_>) -> Self {
        Self::pack::<I>(weight.cols(), weight.rows(), |k, col| weight.at(k, col))
    }

    /// From row-major (depth, columns) matrices, side by side.
    pub fn side_by_side<I: Isa<Number = N>>(weights: &[Vec<f32>], depth: usize) -> Self {
        let each = weights.first().map_or(0, |weight| weight.len() / depth);
        assert!(weights.iter().all(|weight| weight.len() == depth * each), "matrices of {depth} x {each}");
        Self::pack::<I>(weights.len() * each, depth, |k, col| weights[col / each][k * each + col % each])
    }

    fn pack<I: Isa<Number = N>>(cols: usize, depth: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let shape = Shape::of::<I>(depth);
        let mut panels = Vec::new();
        let mut len = 0;
        for start in (0..cols).step_by(shape.width) {
            let wide = shape.wide(start, cols);
            let is_used = |k: &usize| (start..start + wide).any(|col| at(*k, col) != 0.0);
            let first = (0..depth).find(is_used).unwrap_or(depth);
            let end = (first..depth).rev().find(is_used).map_or(first, |last| last + 1);
            let used = first / N::PAIR * N::PAIR..end.next_multiple_of(N::PAIR);
            let used = if first == end { 0..0 } else { used };
            panels.push((len, used.clone()));
            len += wide * used.len();
        }
        // the last panel's last vector reads so far
        let mut numbers = Aligned::zeros(len + shape.lanes * N::PAIR);
        for (panel, (begin, used)) in panels.iter().enumerate() {
            let start = panel * shape.width;
            let wide = shape.wide(start, cols);
            let to = &mut numbers.as_mut_slice()[*begin..];
            for k in used.start..used.end.min(depth) {
                let row = (k - used.start) / N::PAIR * wide;
                for col in 0..wide {
                    to[(row + col) * N::PAIR + k % N::PAIR] = N::from_f32(at(k, start + col));
                }
            }
        }
        Self { numbers, shape, cols, panels }
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rounded up to pairs: what an operand's rows must have.
    pub fn depth(&self) -> usize {
        self.shape.depth
    }

    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(self.numbers.as_slice())
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// From a panel's first number to the end of all.
    pub(super) fn panel(&self, panel: usize) -> &[N] {
        &self.numbers.as_slice()[self.panels[panel].0..]
    }

    /// The depths that a panel has; the others are zero.
    pub(super) fn used(&self, panel: usize) -> Range<usize> {
        self.panels[panel].1.clone()
    }
}

/// Numbers that begin on a cache line.
#[derive(Clone, Debug)]
struct Aligned<N> {
    lines: Vec<Line>,
    len: usize,
    kind: std::marker::PhantomData<N>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl<N: Number> Aligned<N> {
    fn zeros(len: usize) -> Self {
        let lines = vec![Line([0; 64]); (len * size_of::<N>()).div_ceil(size_of::<Line>())];
        Self { lines, len, kind: std::marker::PhantomData }
    }

    fn as_slice(&self) -> &[N] {
        // SAFETY: the lines hold at least `len` numbers, all bytes are initialised, every pattern of bits is a number of the
        // two types that are `Number`, and 64 is a multiple of their alignment.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    fn as_mut_slice(&mut self) -> &mut [N] {
        // SAFETY: as above; `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::packed::{Avx512Bf16, Portable};
    use crate::model::kernels::testing::numbers;

    #[test]
    fn every_number_is_found_again_and_the_rest_is_zero() {
        fn check<I: Isa>(cols: usize, depth: usize) {
            let weight = numbers(cols * depth, 1);
            let panels = Panels::of_rows::<I>(&weight, cols, depth);
            let (shape, pair) = (panels.shape(), I::Number::PAIR);
            let mut sum = 0.0;
            for col in 0..cols {
                let start = col / shape.width * shape.width;
                let wide = shape.wide(start, cols);
                for k in 0..depth {
                    let at = ((k / pair) * wide + col - start) * pair + k % pair;
                    let got = panels.panel(col / shape.width)[at];
                    assert_eq!(got, I::Number::from_f32(weight[col * depth + k]), "column {col}, depth {k}");
                    sum += f64::from(got.to_f32().abs());
                }
            }
            let all: f64 = panels.panel(0).iter().map(|x| f64::from(x.to_f32().abs())).sum();
            assert!((all - sum).abs() < 1e-6, "what was not written is zero");
        }
        for (cols, depth) in [(1, 1), (5, 3), (48, 8), (49, 7), (100, 5), (144, 2)] {
            check::<Portable>(cols, depth);
            check::<Avx512Bf16>(cols, depth);
        }
    }

    #[test]
    fn a_panel_has_only_the_depths_that_are_not_zero() {
        // columns 0..48 use depths 0..3, 48..96 use 4..6, the last none
        let (cols, depth) = (100, 6);
        let at = |col: usize, k: usize| match col {
            0..48 => k < 3,
            48..96 => k >= 4,
            _ => false,
        };
        let weight: Vec<f32> = (0..cols * depth).map(|i| f32::from(u8::from(at(i / depth, i % depth)))).collect();
        let panels = Panels::of_rows::<Avx512Bf16>(&weight, cols, depth);
        assert_eq!([panels.used(0), panels.used(1), panels.used(2)], [0..4, 4..6, 0..0]);
        let slack = Avx512Bf16::LANES * 2;
        assert_eq!(panels.bytes(), size_of::<bf16>() * (48 * 4 + 48 * 2 + slack));
    }
}

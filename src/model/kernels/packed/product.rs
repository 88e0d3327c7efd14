//! `x·W + b` with each segment's low-rank update, strip by strip, and what happens to a strip before it leaves the cache.
#![allow(unsafe_code)]

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::narrow::{Strip, narrow};
use super::tile::TileArgs;
use super::{Isa, Number, Panels};
use crate::model::Activation;
use crate::model::kernels::activation::{Gelu, GeluForBf16, GeluTanh, Relu};
use crate::model::kernels::lanes;

/// Rows of a strip at most: with a panel of 48 columns its sums are 6 KiB.
const STRIP_ROWS: usize = 32;
/// Columns of the widest panel.
const WIDTH_MAX: usize = 48;

/// Rows of numbers, `stride` apart; a product reads the first `depth` of each.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a, N> {
    pub numbers: &'a [N],
    pub rows: usize,
    pub stride: usize,
}

/// What one adapter changes: rows ascend from update to update.
#[derive(Clone, Debug)]
pub struct Update<'a, N> {
    pub rows: Range<usize>,
    /// In place of the product's own.
    pub bias: Option<&'a [f32]>,
    pub low_rank: Option<LowRank<'a, N>>,
}

/// `narrow·panels` is added.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a, N> {
    /// One row for each of the update's.
    pub narrow: Operand<'a, N>,
    /// (rank, columns)
    pub panels: &'a Panels<N>,
}

/// What becomes of the sums; every target has rows as long as the product is wide.
#[derive(Debug)]
pub enum Finish<'a, N> {
    /// Kept.
    Store(&'a mut [f32]),
    /// Added to what is there.
    AddTo(&'a mut [f32]),
    /// Rounded.
    Narrow(&'a mut [N]),
    /// The activation's value, rounded.
    Activate(Activation, &'a mut [N]),
}

/// `x·weight + bias`, with `updates`, into `finish`. Each row's result depends on that row alone.
///
/// # Panics
/// If shapes do not fit.
pub fn product<I: Isa>(
    x: Operand<'_, I::Number>,
    weight: &Panels<I::Number>,
    bias: Option<&[f32]>,
    updates: &[Update<'_, I::Number>],
    mut finish: Finish<'_, I::Number>,
) {
    check(x, weight, bias, updates, &finish);
    let strips = strips(updates, x.rows);
    let mut sums = [0.0; STRIP_ROWS * WIDTH_MAX];
    let width = weight.shape().width;
    for (panel, start) in (0..weight.cols()).step_by(width).enumerate() {
        let columns = start..weight.cols().min(start + width);
        for (rows, update) in &strips {
            let sums = &mut sums[..rows.len() * width];
            multiply::<I>(sums, x, rows.clone(), weight, panel, false);
            if let Some((LowRank { narrow, panels }, first)) = update.and_then(|u| Some((u.low_rank?, u.rows.start))) {
                let rows = rows.start - first..rows.end - first;
                multiply::<I>(sums, narrow, rows, panels, panel, true);
            }
            let bias = update.and_then(|update| update.bias).or(bias).map(|bias| &bias[columns.clone()]);
            finish.strip::<I>(sums, width, rows.clone(), columns.clone(), weight.cols(), bias);
        }
    }
}

type Strips<'u, 'a, N> = Vec<(Range<usize>, Option<&'u Update<'a, N>>)>;

/// All rows, cut where updates begin and end, and into strips.
fn strips<'u, 'a, N>(updates: &'u [Update<'a, N>], rows: usize) -> Strips<'u, 'a, N> {
    let mut strips = Vec::new();
    let mut push = |rows: Range<usize>, update| {
        let strip = |start: usize| (start..rows.end.min(start + STRIP_ROWS), update);
        strips.extend(rows.clone().step_by(STRIP_ROWS).map(strip));
    };
    let mut end = 0;
    for update in updates {
        push(end..update.rows.start, None);
        push(update.rows.clone(), Some(update));
        end = update.rows.end;
    }
    push(end..rows, None);
    strips
}

/// `sums (+)= x[rows]·panel`, over the panel's depths; `sums` has rows of a whole panel's width.
pub(super) fn multiply<I: Isa>(
    sums: &mut [f32],
    x: Operand<'_, I::Number>,
    rows: Range<usize>,
    weight: &Panels<I::Number>,
    panel: usize,
    adds: bool,
) {
    let shape = weight.shape();
    let (numbers, depth) = (weight.panel(panel), weight.used(panel));
    if depth.is_empty() {
        if !adds {
            sums.fill(0.0);
        }
        return;
    }
    let start = panel * shape.width;
    let numbers = Slab {
        numbers,
        wide: shape.wide(start, weight.cols()),
        vectors: shape.vectors(start, weight.cols()),
        depth: depth.len(),
    };
    let x = Operand { numbers: x.numbers.get(depth.start..).unwrap_or_default(), ..x };
    tiles::<I>(sums, shape.width, x, rows, numbers, adds);
}

/// A panel as a tile reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slab<'a, N> {
    /// Ends with a whole vector.
    pub(super) numbers: &'a [N],
    /// Columns from one depth to the next.
    pub(super) wide: usize,
    pub(super) vectors: usize,
    pub(super) depth: usize,
}

/// Rows in even blocks of at most a tile's.
pub(super) fn tiles<I: Isa>(
    out: &mut [f32],
    out_stride: usize,
    x: Operand<'_, I::Number>,
    rows: Range<usize>,
    panel: Slab<'_, I::Number>,
    adds: bool,
) {
    if rows.is_empty() {
        return;
    }
    let Slab { numbers, wide, vectors, depth } = panel;
    let pair = I::Number::PAIR;
    assert!((1..=I::VECTORS).contains(&vectors) && depth.is_multiple_of(pair) && depth > 0, "a panel's shape");
    assert!(rows.end <= x.rows && (rows.end - 1) * x.stride + depth <= x.numbers.len(), "the operand's rows are there");
    assert!((depth / pair - 1) * wide * pair + vectors * I::LANES * pair <= numbers.len(), "the panel is there");
    assert!((rows.len() - 1) * out_stride + vectors * I::LANES <= out.len(), "the sums have their place");
    let blocks = rows.len().div_ceil(I::ROWS);
    for block in 0..blocks {
        let (first, end) = (rows.len() * block / blocks, rows.len() * (block + 1) / blocks);
        let args = TileArgs {
            rows: end - first,
            vectors,
            a: x.numbers[(rows.start + first) * x.stride..].as_ptr(),
            stride: x.stride,
            panel: numbers.as_ptr(),
            wide,
            depth,
            out: out[first * out_stride..].as_mut_ptr(),
            out_stride,
            adds,
        };
        // SAFETY: the assertions above hold for all rows, so for these; `end - first` is from 1 to I::ROWS since the blocks
        // are as many as needed; only `Kernel::dispatch` chooses I, and it looks whether the machine has it.
        unsafe { I::tile(args) };
    }
}

impl<N: Number> Finish<'_, N> {
    /// What becomes of one strip: rows of `width` sums, of which `columns` are the product's.
    fn strip<I: Isa<Number = N>>(
        &mut self,
        sums: &mut [f32],
        width: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        cols: usize,
        bias: Option<&[f32]>,
    ) {
        let at = rows.start * cols + columns.start;
        let (count, strip) = (columns.len(), Strip { rows: rows.len(), cols: columns.len(), stride: width });
        let rounded = N::PAIR == 2;
        let mut finish = |function, out: Option<&mut [f32]>, adds| {
            let sums = &mut *sums;
            Arch::new().dispatch(Epilogue { sums, width, count, bias, function, rounded, out, out_stride: cols, adds });
        };
        match self {
            Self::Store(out) => finish(None, Some(&mut out[at..]), false),
            Self::AddTo(out) => finish(None, Some(&mut out[at..]), true),
            Self::Narrow(out) => {
                if bias.is_some() {
                    finish(None, None, false);
                }
                narrow::<I>(&mut out[at..], cols, sums, strip);
            }
            Self::Activate(function, out) => {
                finish(Some(*function), None, false);
                narrow::<I>(&mut out[at..], cols, sums, strip);
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Store(out) | Self::AddTo(out) => out.len(),
            Self::Narrow(out) | Self::Activate(_, out) => out.len(),
        }
    }
}

/// Bias and activation on a strip where it is, then into `out` if there is one.
struct Epilogue<'a> {
    sums: &'a mut [f32],
    width: usize,
    count: usize,
    bias: Option<&'a [f32]>,
    function: Option<Activation>,
    /// The values are rounded to bf16 next.
    rounded: bool,
    out: Option<&'a mut [f32]>,
    out_stride: usize,
    adds: bool,
}

impl WithSimd for Epilogue<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for row in self.sums.chunks_exact_mut(self.width) {
            let row = &mut row[..self.count];
            if let Some(bias) = self.bias {
                lanes::zip(simd, row, bias, &lanes::Plus);
            }
            match self.function {
                Some(Activation::Gelu) if self.rounded => lanes::map(simd, row, &GeluForBf16),
                Some(Activation::Gelu) => lanes::map(simd, row, &Gelu),
                Some(Activation::GeluTanh) => lanes::map(simd, row, &GeluTanh),
                Some(Activation::Relu) => lanes::map(simd, row, &Relu),
                None => {}
            }
        }
        let Some(out) = self.out else { return };
        for (row, out) in self.sums.chunks_exact(self.width).zip(out.chunks_mut(self.out_stride)) {
            let (row, out) = (&row[..self.count], &mut out[..self.count]);
            if self.adds {
                lanes::zip(simd, out, row, &lanes::Plus);
            } else {
                out.copy_from_slice(row);
            }
        }
    }
}

fn check<N: Number>(
    x: Operand<'_, N>,
    weight: &Panels<N>,
    bias: Option<&[f32]>,
    updates: &[Update<'_, N>],
    finish: &Finish<'_, N>,
) {
    let cols = weight.cols();
    assert!(weight.shape().width <= WIDTH_MAX, "a strip holds a panel");
    assert_eq!(finish.len(), x.rows * cols, "the target is {} x {cols}", x.rows);
    assert!(bias.is_none_or(|bias| bias.len() == cols), "a bias has {cols} numbers");
    let mut end = 0;
    for update in updates {
        assert!(end <= update.rows.start && update.rows.start <= update.rows.end, "updates ascend");
        assert!(update.bias.is_none_or(|bias| bias.len() == cols), "a bias has {cols} numbers");
        let fits = |low: &LowRank<'_, N>| low.panels.cols() == cols && low.narrow.rows == update.rows.len();
        assert!(update.low_rank.as_ref().is_none_or(fits), "an update fits its rows and columns");
        end = update.rows.end;
    }
    assert!(end <= x.rows, "updates end with the rows");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::packed::{Job, Kernel};
    use crate::model::kernels::testing::{assert_close, numbers};

    /// What every kernel must compute, on numbers rounded as the kernel's are.
    struct Case {
        rows: usize,
        depth: usize,
        cols: usize,
        updated: Vec<(Range<usize>, usize)>,
    }

    impl Job for &Case {
        type Output = ();

        fn run<I: Isa>(self) {
            let Case { rows, depth, cols, .. } = *self;
            let round = |xs: Vec<f32>| -> Vec<f32> { xs.iter().map(|x| I::Number::from_f32(*x).to_f32()).collect() };
            let into = |xs: &[f32], cols: usize, stride: usize| -> Vec<I::Number> {
                let row = |row: &[f32]| {
                    row.iter()
                        .map(|x| I::Number::from_f32(*x))
                        .chain(std::iter::repeat(I::Number::ZERO))
                        .take(stride)
                        .collect::<Vec<_>>()
                };
                xs.chunks(cols).flat_map(row).collect()
            };
            let x = round(numbers(rows * depth, 1));
            let weight = round(numbers(cols * depth, 2));
            let bias = numbers(cols, 3);
            let panels = Panels::of_rows::<I>(&weight, cols, depth);
            let mut wanted: Vec<f32> = bias.repeat(rows);
            plain(&mut wanted, &x, &weight, (0..rows, depth, cols));
            let updates: Vec<_> = self
                .updated
                .iter()
                .enumerate()
                .map(|(i, (range, rank))| {
                    let seed = 10 * i as u64;
                    let narrow = round(numbers(range.len() * rank, seed));
                    let wide = round(numbers(cols * rank, seed + 1));
                    let other = numbers(cols, seed + 2);
                    let of = range.start * cols..range.end * cols;
                    wanted[of.clone()]
                        .iter_mut()
                        .enumerate()
                        .for_each(|(at, y)| *y += other[at % cols] - bias[at % cols]);
                    plain(&mut wanted[of], &narrow, &wide, (0..range.len(), *rank, cols));
                    let panels = Panels::of_rows::<I>(&wide, cols, *rank);
                    (range.clone(), into(&narrow, *rank, panels.depth()), panels, other)
                })
                .collect();
            let updates: Vec<_> = updates
                .iter()
                .map(|(range, narrow, panels, bias)| Update {
                    rows: range.clone(),
                    bias: Some(bias),
                    low_rank: Some(LowRank {
                        narrow: Operand { numbers: narrow, rows: range.len(), stride: panels.depth() },
                        panels,
                    }),
                })
                .collect();
            let x = into(&x, depth, panels.depth());
            let x = Operand { numbers: &x, rows, stride: panels.depth() };
            let mut got = vec![0.0; rows * cols];
            product::<I>(x, &panels, Some(&bias), &updates, Finish::Store(&mut got));
            assert_close(&got, &wanted, 1e-4);
            product::<I>(x, &panels, Some(&bias), &updates, Finish::AddTo(&mut got));
            assert_close(&got, &wanted.iter().map(|y| 2.0 * y).collect::<Vec<_>>(), 1e-4);
            let mut narrow = vec![I::Number::ZERO; rows * cols];
            product::<I>(x, &panels, Some(&bias), &updates, Finish::Narrow(&mut narrow));
            let tolerance = if I::Number::PAIR == 2 { 1.0 / 128.0 } else { 1e-4 };
            assert_close(&narrow.iter().map(|y| y.to_f32()).collect::<Vec<_>>(), &wanted, tolerance);
            product::<I>(x, &panels, Some(&bias), &updates, Finish::Activate(Activation::Relu, &mut narrow));
            let positive: Vec<f32> = wanted.iter().map(|y| y.max(0.0)).collect();
            assert_close(&narrow.iter().map(|y| y.to_f32()).collect::<Vec<_>>(), &positive, tolerance);
        }
    }

    fn plain(out: &mut [f32], x: &[f32], weight: &[f32], (rows, depth, cols): (Range<usize>, usize, usize)) {
        for row in rows {
            for col in 0..cols {
                let terms = (0..depth).map(|k| f64::from(x[row * depth + k]) * f64::from(weight[col * depth + k]));
                out[row * cols + col] += terms.sum::<f64>() as f32;
            }
        }
    }

    #[test]
    fn every_kernel_equals_its_plain_twin_at_odd_sizes() {
        let shapes = [(1, 1, 1), (3, 5, 7), (8, 16, 48), (9, 33, 49), (33, 64, 100), (70, 31, 144), (5, 384, 96)];
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
            for (rows, depth, cols) in shapes {
                kernel.dispatch(&Case { rows, depth, cols, updated: Vec::new() });
                kernel.dispatch(&Case { rows, depth, cols, updated: vec![(0..rows, 4)] });
                kernel.dispatch(&Case {
                    rows,
                    depth,
                    cols,
                    updated: vec![(0..rows / 2, 8), (rows - rows / 3..rows, 3)],
                });
            }
        }
    }

    struct Alone;

    impl Job for Alone {
        type Output = ();

        fn run<I: Isa>(self) {
            let (rows, depth, cols) = (37, 64, 96);
            let panels = Panels::of_rows::<I>(&numbers(cols * depth, 2), cols, depth);
            let x: Vec<_> = numbers(rows * depth, 1).into_iter().map(I::Number::from_f32).collect();
            let run = |from: Range<usize>| {
                let x = Operand { numbers: &x[from.start * depth..], rows: from.len(), stride: depth };
                let mut out = vec![0.0; from.len() * cols];
                product::<I>(x, &panels, None, &[], Finish::Store(&mut out));
                out
            };
            let together = run(0..rows);
            for row in 0..rows {
                assert_eq!(run(row..row + 1), together[row * cols..(row + 1) * cols], "row {row}");
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_very_numbers_it_has_among_others() {
        Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()).for_each(|kernel| kernel.dispatch(Alone));
    }
}

//! Attention inside each sequence of a packed batch, on the same tiles as the linears: a head's keys and values are laid out
//! as panels, some queries at a time are scored, weighed and mixed while all of it is in the cache.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::narrow::{Strip, narrow};
use super::panels::Shape;
use super::product::{Slab, tiles};
use super::{Isa, Number, Operand};
use crate::model::kernels::Scope;
use crate::model::kernels::softmax::softmax_in;

/// Queries scored at once.
const QUERIES: usize = 32;

/// Queries, keys and values side by side: row `i` has its `heads · size` queries first, then as many keys, then values.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a, N> {
    pub qkv: &'a [N],
    /// Numbers of one head.
    pub size: usize,
}

/// `softmax(q·kᵀ / √size)·v` into `out`, (tokens, heads · size).
pub fn attention<I: Isa>(out: &mut [I::Number], input: Heads<'_, I::Number>, scope: Scope<'_>) {
    let (size, heads) = (input.size, scope.heads);
    let width = heads * size;
    let tokens = scope.bounds.last().copied().unwrap_or(0);
    assert!(size.is_multiple_of(I::Number::PAIR), "heads of {size} are whole pairs");
    assert!(input.qkv.len() == tokens * 3 * width && out.len() == tokens * width, "{tokens} tokens of {width}");
    let mut room = Room::<I>::default();
    for sequence in scope.bounds.windows(2) {
        for head in 0..heads {
            for queries in chunks(sequence[0]..sequence[1], scope.window) {
                let keys = reach(&queries, sequence[0]..sequence[1], scope.window);
                room.lay(input, width, head, keys.clone());
                for queries in queries.clone().step_by(QUERIES).map(|at| at..queries.end.min(at + QUERIES)) {
                    room.mix(out, input, width, head, queries, &keys, scope.window);
                }
            }
        }
    }
}

/// With a window, queries that share one layout of keys; else all of a sequence's.
fn chunks(sequence: Range<usize>, window: Option<usize>) -> impl Iterator<Item = Range<usize>> {
    let step = window.map_or(sequence.len(), |window| (2 * window).max(QUERIES)).max(1);
    sequence.clone().step_by(step).map(move |at| at..sequence.end.min(at + step))
}

/// The keys that any of `queries` may look at.
fn reach(queries: &Range<usize>, sequence: Range<usize>, window: Option<usize>) -> Range<usize> {
    match window {
        None => sequence,
        Some(window) => {
            queries.start.saturating_sub(window).max(sequence.start)..(queries.end + window).min(sequence.end)
        }
    }
}

/// The working memory of one call.
struct Room<I: Isa> {
    /// (size, keys) in panels.
    keys: Vec<I::Number>,
    /// (keys, size) in panels.
    values: Vec<I::Number>,
    scores: Vec<f32>,
    weights: Vec<I::Number>,
    mixed: Vec<f32>,
}

impl<I: Isa> Default for Room<I> {
    fn default() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), scores: Vec::new(), weights: Vec::new(), mixed: Vec::new() }
    }
}

impl<I: Isa> Room<I> {
    /// Lays out the keys and values of one head.
    fn lay(&mut self, input: Heads<'_, I::Number>, width: usize, head: usize, keys: Range<usize>) {
        let (size, pair, count) = (input.size, I::Number::PAIR, keys.len());
        let of =
            |part: usize, key: usize| &input.qkv[(keys.start + key) * 3 * width + part * width + head * size..][..size];
        let shape = Shape::of::<I>(size);
        refill(&mut self.keys, shape.len(count));
        for start in (0..count).step_by(shape.width) {
            let wide = shape.vectors(start, count) * shape.lanes;
            let panel = &mut self.keys[start * shape.depth..][..wide * shape.depth];
            for col in 0..(count - start).min(wide) {
                let places = panel[col * pair..].chunks_mut(wide * pair);
                of(1, start + col)
                    .chunks_exact(pair)
                    .zip(places)
                    .for_each(|(from, to)| to[..pair].copy_from_slice(from));
            }
        }
        let shape = Shape::of::<I>(count);
        refill(&mut self.values, shape.len(size));
        for start in (0..size).step_by(shape.width) {
            let wide = shape.vectors(start, size) * shape.lanes;
            let panel = &mut self.values[start * shape.depth..][..wide * shape.depth];
            for key in 0..count {
                let from = &of(2, key)[start..size.min(start + wide)];
                let to = panel[key / pair * wide * pair + key % pair..].iter_mut().step_by(pair);
                to.zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }

    /// Scores `queries` against the keys laid out, and mixes their values into `out`.
    #[allow(clippy::too_many_arguments)] // where one head's queries are; a struct would be taken apart at once
    fn mix(
        &mut self,
        out: &mut [I::Number],
        input: Heads<'_, I::Number>,
        width: usize,
        head: usize,
        queries: Range<usize>,
        keys: &Range<usize>,
        window: Option<usize>,
    ) {
        let (size, rows, count) = (input.size, queries.len(), keys.len());
        let shape = Shape::of::<I>(size);
        let stride = count.next_multiple_of(shape.lanes);
        self.scores.resize(rows * stride, 0.0);
        let q = Operand { numbers: &input.qkv[queries.start * 3 * width + head * size..], rows, stride: 3 * width };
        for start in (0..count).step_by(shape.width) {
            let vectors = shape.vectors(start, count);
            let numbers = &self.keys[start * shape.depth..];
            let panel = Slab { numbers, wide: vectors * shape.lanes, vectors, depth: shape.depth };
            tiles::<I>(&mut self.scores[start..], stride, q, 0..rows, panel, false);
        }
        let factor = 1.0 / (size as f32).sqrt();
        let job = Weigh { scores: &mut self.scores, stride, count, factor, queries: &queries, keys, window };
        Arch::new().dispatch(job);
        self.weights.resize(rows * stride, I::Number::ZERO);
        narrow::<I>(&mut self.weights, stride, &self.scores, Strip { rows, cols: stride, stride });
        let shape = Shape::of::<I>(count);
        let weights = Operand { numbers: &self.weights, rows, stride };
        self.mixed.resize(rows * shape.width, 0.0);
        for start in (0..size).step_by(shape.width) {
            let vectors = shape.vectors(start, size);
            let numbers = &self.values[start * shape.depth..];
            let panel = Slab { numbers, wide: vectors * shape.lanes, vectors, depth: shape.depth };
            tiles::<I>(&mut self.mixed, shape.width, weights, 0..rows, panel, false);
            let strip = Strip { rows, cols: (size - start).min(shape.width), stride: shape.width };
            narrow::<I>(&mut out[queries.start * width + head * size + start..], width, &self.mixed, strip);
        }
    }
}

/// `len` zeros, in the memory that is there.
fn refill<N: Number>(numbers: &mut Vec<N>, len: usize) {
    numbers.clear();
    numbers.resize(len, N::ZERO);
}

/// Scores to weights, row by row.
struct Weigh<'a> {
    scores: &'a mut [f32],
    stride: usize,
    count: usize,
    factor: f32,
    queries: &'a Range<usize>,
    keys: &'a Range<usize>,
    window: Option<usize>,
}

impl WithSimd for Weigh<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (query, row) in self.queries.clone().zip(self.scores.chunks_exact_mut(self.stride)) {
            let seen = match self.window {
                None => 0..self.count,
                Some(window) => {
                    let first = query.saturating_sub(window).max(self.keys.start) - self.keys.start;
                    first..(query + window + 1).min(self.keys.end) - self.keys.start
                }
            };
            softmax_in(simd, &mut row[seen.clone()], self.factor);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::packed::{Job, Kernel};
    use crate::model::kernels::testing::{assert_close, numbers};
    use crate::model::kernels::{Inputs, Mat, MatMut};

    struct Case<'a> {
        bounds: &'a [usize],
        heads: usize,
        size: usize,
        window: Option<usize>,
    }

    impl Job for Case<'_> {
        type Output = ();

        fn run<I: Isa>(self) {
            let (width, tokens) = (self.heads * self.size, *self.bounds.last().unwrap());
            let qkv: Vec<I::Number> = numbers(tokens * 3 * width, 1).into_iter().map(I::Number::from_f32).collect();
            let wide: Vec<f32> = qkv.iter().map(|x| x.to_f32()).collect();
            let part = |i: usize| Mat::new(&wide, tokens, 3 * width).block(0..tokens, i * width..(i + 1) * width);
            let scope = Scope { bounds: self.bounds, heads: self.heads, window: self.window };
            let mut wanted = vec![0.0; tokens * width];
            let inputs = Inputs { q: part(0), k: part(1), v: part(2) };
            crate::model::kernels::attention(MatMut::new(&mut wanted, tokens, width), inputs, scope);
            let mut got = vec![I::Number::ZERO; tokens * width];
            attention::<I>(&mut got, Heads { qkv: &qkv, size: self.size }, scope);
            let tolerance = if I::Number::PAIR == 2 { 1.0 / 128.0 } else { 1e-5 };
            assert_close(&got.iter().map(|x| x.to_f32()).collect::<Vec<_>>(), &wanted, tolerance);
        }
    }

    #[test]
    fn every_kernel_equals_attention_in_f32() {
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
            for bounds in [&[0, 1][..], &[0, 3, 3, 20], &[0, 17, 300], &[0, 64]] {
                for window in [None, Some(0), Some(4), Some(150)] {
                    for (heads, size) in [(2, 6), (3, 32), (1, 64)] {
                        kernel.dispatch(Case { bounds, heads, size, window });
                    }
                }
            }
        }
    }
}

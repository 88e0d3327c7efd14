//! Attention inside each sequence of a packed batch, head by head, with nothing copied and nothing padded.

use std::ops::Range;

use super::softmax::{softmax, softmax_backward};
use super::{Mat, MatMut, multiply, multiply_add};

/// Queries scored at once: keeps the scores of sequences up to about 1000 tokens in the second-level cache.
const QUERY_BLOCK: usize = 128;

/// Where tokens may look.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Sequence `i` is tokens `bounds[i]..bounds[i + 1]`.
    pub bounds: &'a [usize],
    pub heads: usize,
    /// A token sees those at most so far away; None: all of its sequence.
    pub window: Option<usize>,
}

/// Queries, keys and values: (tokens, heads · head size) each.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub q: Mat<'a>,
    pub k: Mat<'a>,
    pub v: Mat<'a>,
}

/// The gradients of [`Inputs`], each a row-major (tokens, heads · head size).
#[derive(Clone, Debug)]
pub struct Gradients {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// `softmax(q·kᵀ / √(head size))·v` into `out`, (tokens, heads · head size).
pub fn attention(mut out: MatMut<'_>, inputs: Inputs<'_>, scope: Scope<'_>) {
    let mut scores = Vec::new();
    for Block { queries, keys, columns } in scope.blocks(inputs.q.cols()) {
        let block = inputs.block(&queries, &keys, &columns);
        let weights = block.weights(&mut scores, scope.offsets(&queries, &keys));
        multiply(out.block(queries, columns), 1.0, weights, block.v);
    }
}

/// The gradients of the arguments from `gradient`, that of the result.
pub fn attention_backward(gradient: Mat<'_>, inputs: Inputs<'_>, scope: Scope<'_>) -> Gradients {
    let (rows, cols) = (gradient.rows(), gradient.cols());
    let zeros = || vec![0.0; rows * cols];
    let mut gradients = Gradients { q: zeros(), k: zeros(), v: zeros() };
    let (mut scores, mut slopes) = (Vec::new(), Vec::new());
    for Block { queries, keys, columns } in scope.blocks(cols) {
        let block = inputs.block(&queries, &keys, &columns);
        let weights = block.weights(&mut scores, scope.offsets(&queries, &keys));
        let out = gradient.block(queries.clone(), columns.clone());
        let slopes = block.slopes(&mut slopes, out, weights);
        let target = |data, rows: &Range<usize>, factor, lhs, rhs| {
            multiply_add(
                MatMut::new(data, gradient.rows(), cols).block(rows.clone(), columns.clone()),
                factor,
                lhs,
                rhs,
            );
        };
        target(&mut gradients.v, &keys, 1.0, weights.t(), out);
        target(&mut gradients.q, &queries, 1.0, slopes, block.k);
        target(&mut gradients.k, &keys, 1.0, slopes.t(), block.q);
    }
    gradients
}

/// Some queries of one sequence and head, and the keys they may look at.
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
    columns: Range<usize>,
}

impl Scope<'_> {
    fn blocks(&self, width: usize) -> impl Iterator<Item = Block> {
        let size = width / self.heads;
        self.bounds.windows(2).flat_map(move |sequence| {
            let (start, end) = (sequence[0], sequence[1]);
            (start..end).step_by(QUERY_BLOCK).flat_map(move |first| {
                let queries = first..(first + QUERY_BLOCK).min(end);
                let reach = self.window.unwrap_or(end);
                let keys = queries.start.saturating_sub(reach).max(start)..(queries.end + reach).min(end);
                (0..self.heads).map(move |head| Block {
                    queries: queries.clone(),
                    keys: keys.clone(),
                    columns: head * size..(head + 1) * size,
                })
            })
        })
    }

    /// For each query of a block the keys it may look at, counted from the block's first.
    fn offsets(&self, queries: &Range<usize>, keys: &Range<usize>) -> impl Fn(usize) -> Range<usize> + use<> {
        let (window, first, keys) = (self.window, queries.start, keys.clone());
        move |row| match window {
            None => 0..keys.len(),
            Some(window) => {
                let query = first + row;
                let seen = query.saturating_sub(window).max(keys.start)..(query + window + 1).min(keys.end);
                seen.start - keys.start..seen.end - keys.start
            }
        }
    }
}

impl<'a> Inputs<'a> {
    fn block(&self, queries: &Range<usize>, keys: &Range<usize>, columns: &Range<usize>) -> Self {
        let at = |m: Mat<'a>, rows: &Range<usize>| m.block(rows.clone(), columns.clone());
        Self { q: at(self.q, queries), k: at(self.k, keys), v: at(self.v, keys) }
    }

    fn factor(&self) -> f32 {
        1.0 / (self.q.cols() as f32).sqrt()
    }

    /// Of a block: how much each query takes of each key's value, (queries, keys).
    fn weights<'s>(&self, scores: &'s mut Vec<f32>, seen: impl Fn(usize) -> Range<usize>) -> Mat<'s> {
        let (queries, keys) = (self.q.rows(), self.k.rows());
        scores.resize(queries * keys, 0.0);
        multiply(MatMut::new(scores, queries, keys), 1.0, self.q, self.k.t());
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let seen = seen(i);
            softmax(&mut row[seen.clone()], self.factor());
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
        }
        Mat::new(scores, queries, keys)
    }

    /// Of a block: the gradient of the scores before their softmax, (queries, keys).
    fn slopes<'s>(&self, slopes: &'s mut Vec<f32>, gradient: Mat<'_>, weights: Mat<'_>) -> Mat<'s> {
        let (queries, keys) = (self.q.rows(), self.k.rows());
        slopes.resize(queries * keys, 0.0);
        multiply(MatMut::new(slopes, queries, keys), 1.0, gradient, self.v.t());
        for (i, row) in slopes.chunks_exact_mut(keys).enumerate() {
            softmax_backward(row, weights.row(i), self.factor());
        }
        Mat::new(slopes, queries, keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::testing::{assert_close, numbers};

    const HEADS: usize = 2;
    const SIZE: usize = 5;
    const WIDTH: usize = HEADS * SIZE;

    fn plain(q: &[f32], k: &[f32], v: &[f32], scope: Scope<'_>) -> Vec<f32> {
        let mut out = vec![0.0; q.len()];
        let at = |token: usize, head: usize, i: usize| token * WIDTH + head * SIZE + i;
        for sequence in scope.bounds.windows(2) {
            for (query, head) in (sequence[0]..sequence[1]).flat_map(|t| (0..HEADS).map(move |h| (t, h))) {
                let seen = |key: &usize| scope.window.is_none_or(|window| key.abs_diff(query) <= window);
                let keys: Vec<usize> = (sequence[0]..sequence[1]).filter(seen).collect();
                let score = |&key: &usize| (0..SIZE).map(|i| q[at(query, head, i)] * k[at(key, head, i)]).sum::<f32>();
                let powers: Vec<f32> = keys.iter().map(|key| (score(key) / (SIZE as f32).sqrt()).exp()).collect();
                let total: f32 = powers.iter().sum();
                for i in 0..SIZE {
                    let mixed = keys.iter().zip(&powers).map(|(&key, power)| power * v[at(key, head, i)]);
                    out[at(query, head, i)] = mixed.sum::<f32>() / total;
                }
            }
        }
        out
    }

    fn fused(q: &[f32], k: &[f32], v: &[f32], scope: Scope<'_>) -> Vec<f32> {
        let rows = q.len() / WIDTH;
        let mat = |data| Mat::new(data, rows, WIDTH);
        let mut out = vec![0.0; q.len()];
        attention(MatMut::new(&mut out, rows, WIDTH), Inputs { q: mat(q), k: mat(k), v: mat(v) }, scope);
        out
    }

    #[test]
    fn attention_equals_its_plain_twin() {
        for bounds in [&[0, 1][..], &[0, 3, 3, 20], &[0, 17, 300]] {
            for window in [None, Some(0), Some(4), Some(150)] {
                let len = bounds.last().unwrap() * WIDTH;
                let (q, k, v) = (numbers(len, 1), numbers(len, 2), numbers(len, 3));
                let scope = Scope { bounds, heads: HEADS, window };
                assert_close(&fused(&q, &k, &v, scope), &plain(&q, &k, &v, scope), 1e-5);
            }
        }
    }

    #[test]
    fn its_gradients_equal_difference_quotients() {
        let bounds = [0, 2, 140];
        let (rows, len) = (140, 140 * WIDTH);
        for window in [None, Some(3)] {
            let scope = Scope { bounds: &bounds, heads: HEADS, window };
            let sides = [numbers(len, 1), numbers(len, 2), numbers(len, 3)];
            let direction = numbers(len, 4);
            let mat = |i: usize| Mat::new(&sides[i], rows, WIDTH);
            let inputs = Inputs { q: mat(0), k: mat(1), v: mat(2) };
            let gradients = attention_backward(Mat::new(&direction, rows, WIDTH), inputs, scope);
            for (side, gradient) in [gradients.q, gradients.k, gradients.v].iter().enumerate() {
                for i in [0, 1, 2 * WIDTH, 77 * WIDTH + 3, 131 * WIDTH + 9, len - 1] {
                    let value = |step: f32| {
                        let mut sides = sides.clone();
                        sides[side][i] += step;
                        let out = plain(&sides[0], &sides[1], &sides[2], scope);
                        out.iter().zip(&direction).map(|(y, d)| f64::from(y * d)).sum::<f64>()
                    };
                    let slope = (value(0.05) - value(-0.05)) / 0.1;
                    assert!(
                        (slope - f64::from(gradient[i])).abs() < 2e-3,
                        "{side} at {i}: {} and {slope}",
                        gradient[i]
                    );
                }
            }
        }
    }
}

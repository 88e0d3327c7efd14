//! One row a sequence from one row a token.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::function::{Function, apply1};
use super::plain;
use crate::model::kernels::{self, Mat};

/// The first row of each sequence: (tokens, hidden) to (sequences, hidden). No sequence may be empty.
pub(crate) fn first_rows(hidden: &Tensor, bounds: &[usize]) -> Result<Tensor> {
    pool(hidden, bounds, |start, _| start..start + 1)
}

/// The mean of each sequence's rows: (tokens, hidden) to (sequences, hidden). No sequence may be empty.
pub(crate) fn mean_rows(hidden: &Tensor, bounds: &[usize]) -> Result<Tensor> {
    pool(hidden, bounds, |start, end| start..end)
}

type Rows = std::ops::Range<usize>;

/// The mean of the rows that `of` chooses of each sequence, by its start and end.
fn pool(hidden: &Tensor, bounds: &[usize], of: impl Fn(usize, usize) -> Rows) -> Result<Tensor> {
    let chosen = bounds.windows(2).map(|sequence| of(sequence[0], sequence[1])).collect();
    if hidden.device().is_cpu() { apply1(Means(chosen), &hidden.contiguous()?) } else { plain::means(hidden, &chosen) }
}

struct Means(Arc<[Rows]>);

impl Function<1> for Means {
    const NAME: &'static str = "pooling";

    fn forward(&self, [x]: [Mat<'_>; 1]) -> Result<(Vec<f32>, usize)> {
        let width = x.cols();
        let mut means = vec![0.0; self.0.len() * width];
        for (mean, rows) in means.chunks_exact_mut(width).zip(self.0.iter()) {
            rows.clone().for_each(|row| kernels::add(mean, x.row(row)));
            mean.iter_mut().for_each(|x| *x /= rows.len() as f32);
        }
        Ok((means, width))
    }

    fn backward(&self, [x]: [Mat<'_>; 1], gradient: Mat<'_>, _: [bool; 1]) -> Result<[Option<Vec<f32>>; 1]> {
        let width = x.cols();
        let mut dx = vec![0.0; x.rows() * width];
        for (i, rows) in self.0.iter().enumerate() {
            let share: Vec<f32> = gradient.row(i).iter().map(|x| x / rows.len() as f32).collect();
            dx[rows.start * width..rows.end * width]
                .chunks_exact_mut(width)
                .for_each(|row| row.copy_from_slice(&share));
        }
        Ok([Some(dx)])
    }
}

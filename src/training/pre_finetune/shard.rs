//! A thread's part of a micro-batch: which of its hidden states are compared, and where their slopes go back to.

use std::ops::Range;

use crate::model::Packed;
use crate::training::batches::shards;
use crate::training::pre_finetune::read::{Batch, Sequence, Side, Takes};

/// Sequences that one thread runs, end to end.
pub(super) struct Shard {
    pub packed: Packed,
    takes: Vec<Take>,
}

/// One row of the comparison.
struct Take {
    side: Side,
    /// Rows of the hidden states whose mean it is.
    rows: Range<usize>,
}

/// Rows of both sides of a comparison, (rows, hidden) and (names, hidden), or their slopes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Compared {
    pub rows: Vec<f32>,
    pub names: Vec<f32>,
}

/// `batch` in at most `count` shards of about equal cost; their takes, one shard after the other, are in the batch's order.
pub(super) fn cut(batch: &Batch, count: usize) -> Vec<Shard> {
    let all: Vec<usize> = (0..batch.sequences.len()).collect();
    let tokens = |sequence: usize| batch.sequences[sequence].window.ids.len();
    let of = |part: &[usize]| Shard::new(part.iter().map(|&sequence| &batch.sequences[sequence]));
    shards(&all, count, tokens).into_iter().map(of).collect()
}

impl Shard {
    pub(super) fn new<'a>(sequences: impl Iterator<Item = &'a Sequence> + Clone) -> Self {
        let windows = sequences.clone().map(|sequence| (&sequence.window.ids[..], &sequence.window.type_ids[..]));
        let packed = Packed::new(windows);
        let mut takes = Vec::new();
        for (sequence, bounds) in sequences.zip(packed.bounds.windows(2)) {
            let side = sequence.side;
            match &sequence.takes {
                Takes::Mean => takes.push(Take { side, rows: bounds[0]..bounds[1] }),
                Takes::Positions(positions) => {
                    takes.extend(positions.iter().map(|at| Take { side, rows: bounds[0] + at..bounds[0] + at + 1 }))
                }
            }
        }
        Self { packed, takes }
    }

    /// What is compared of the hidden states, (tokens, width).
    pub(super) fn gather(&self, hidden: &[f32], width: usize) -> Compared {
        let mut compared = Compared::default();
        for Take { side, rows } in &self.takes {
            let target = compared.side_mut(*side);
            let start = target.len();
            target.resize(start + width, 0.0);
            let mean = &mut target[start..];
            for row in hidden[rows.start * width..rows.end * width].chunks_exact(width) {
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / rows.len() as f32);
            }
        }
        compared
    }

    /// The slope by the hidden states from the slopes of what is compared, whose first rows are this shard's and are taken away.
    pub(super) fn scatter(&self, slopes: &mut Slopes<'_>, width: usize) -> Vec<f32> {
        let mut slope = vec![0.0; self.packed.tokens() * width];
        for Take { side, rows } in &self.takes {
            let own = slopes.take(*side, width);
            for row in slope[rows.start * width..rows.end * width].chunks_exact_mut(width) {
                row.iter_mut().zip(own).for_each(|(sum, x)| *sum += x / rows.len() as f32);
            }
        }
        slope
    }
}

impl Compared {
    fn side_mut(&mut self, side: Side) -> &mut Vec<f32> {
        match side {
            Side::Rows => &mut self.rows,
            Side::Names => &mut self.names,
        }
    }

    /// Each row's cosine to each name, divided by `temperature`: (rows, names).
    pub(super) fn cosines(&self, width: usize, temperature: f32) -> Vec<f32> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let lengths = |all: &[f32]| all.chunks_exact(width).map(|one| dot(one, one).sqrt()).collect::<Vec<_>>();
        let (of_rows, of_names) = (lengths(&self.rows), lengths(&self.names));
        let rows = self.rows.chunks_exact(width).zip(&of_rows);
        rows.flat_map(|(row, length)| {
            let names = self.names.chunks_exact(width).zip(&of_names);
            names.map(move |(name, own)| dot(row, name) / (length * own).max(f32::MIN_POSITIVE) / temperature)
        })
        .collect()
    }

    /// All of `parts`, one after the other.
    pub(super) fn concat(parts: impl IntoIterator<Item = Self>) -> Self {
        parts.into_iter().fold(Self::default(), |mut all, part| {
            all.rows.extend(part.rows);
            all.names.extend(part.names);
            all
        })
    }
}

/// Slopes not given back yet.
pub(super) struct Slopes<'a> {
    rows: &'a [f32],
    names: &'a [f32],
}

impl<'a> Slopes<'a> {
    pub(super) fn of(compared: &'a Compared) -> Self {
        Self { rows: &compared.rows, names: &compared.names }
    }

    fn take(&mut self, side: Side, width: usize) -> &'a [f32] {
        let left = match side {
            Side::Rows => &mut self.rows,
            Side::Names => &mut self.names,
        };
        let (own, rest) = left.split_at(width);
        *left = rest;
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Window;

    fn sequence(tokens: usize, takes: Takes, side: Side) -> Sequence {
        let window = Window { ids: vec![1; tokens], type_ids: vec![0; tokens], tokens: vec![None; tokens] };
        Sequence { window, takes, side }
    }

    #[test]
    fn slopes_go_back_to_where_rows_came_from() {
        let sequences = [
            sequence(3, Takes::Positions(vec![1, 2]), Side::Rows),
            sequence(2, Takes::Mean, Side::Names),
            sequence(1, Takes::Mean, Side::Rows),
        ];
        let shard = Shard::new(sequences.iter());
        let hidden: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let compared = shard.gather(&hidden, 2);
        let expected = Compared { rows: vec![2.0, 3.0, 4.0, 5.0, 10.0, 11.0], names: vec![7.0, 8.0] };
        assert_eq!(compared, expected);
        let slope = shard.scatter(&mut Slopes::of(&expected), 2);
        assert_eq!(slope, [0.0, 0.0, 2.0, 3.0, 4.0, 5.0, 3.5, 4.0, 3.5, 4.0, 10.0, 11.0]);
    }
}

//! Token ids to the first hidden states. Frozen, so it needs no gradient.

use candle_core::{Result, Tensor};

use super::Norm;
use super::function::{floats, matrix};
use crate::model::kernels;
use crate::model::{Delta, Packed};

/// Words, positions and segments are (rows, embedding size). Clones share them.
#[derive(Clone)]
pub(crate) struct Embeddings {
    pub(crate) words: Tensor,
    pub(crate) positions: Option<Tensor>,
    pub(crate) types: Option<Tensor>,
    pub(crate) norm: Norm,
    /// ELECTRA's way to the hidden size: weight and bias.
    pub(crate) projection: Option<(Tensor, Tensor)>,
    /// The row of `positions` that a sequence's first token takes.
    pub(crate) position_offset: usize,
}

impl Embeddings {
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let projection = self.projection.iter().flat_map(|(weight, bias)| [weight, bias]);
        let tables = std::iter::once(&self.words).chain(&self.positions).chain(&self.types);
        tables.chain(self.norm.tensors()).chain(projection)
    }

    /// (tokens, hidden). Ids must be within their tables.
    pub(crate) fn forward(&self, input: &Packed) -> Result<Tensor> {
        self.forward_with(input, None)
    }

    /// The same with an adapter's update of the projection.
    pub(crate) fn forward_with(&self, input: &Packed, update: Option<&Delta>) -> Result<Tensor> {
        let sums = if self.words.device().is_cpu() { self.gather(input)? } else { self.plain(input)? };
        let normal = self.norm.forward(&sums, None)?;
        match (&self.projection, update) {
            (Some((weight, bias)), None) => super::dense(&normal, weight, bias),
            (Some((weight, bias)), Some(delta)) => {
                let change = (normal.matmul(&delta.a.t()?)?.matmul(&delta.b.t()?)? * delta.scale)?;
                super::dense(&normal, weight, bias)? + change
            }
            (None, _) => Ok(normal),
        }
    }

    fn positions_of(&self, input: &Packed) -> impl Iterator<Item = usize> {
        input.bounds.windows(2).flat_map(|sequence| 0..sequence[1] - sequence[0]).map(|at| at + self.position_offset)
    }

    fn gather(&self, input: &Packed) -> Result<Tensor> {
        let width = self.words.dim(1)?;
        let words = floats(&self.words)?;
        let mut sums = Vec::with_capacity(input.tokens() * width);
        input.ids.iter().for_each(|&id| sums.extend_from_slice(&words[id as usize * width..][..width]));
        let mut add = |table: &Option<Tensor>, rows: &mut dyn Iterator<Item = usize>| -> Result<()> {
            let Some(table) = table else { return Ok(()) };
            let table = floats(table)?;
            sums.chunks_exact_mut(width)
                .zip(rows)
                .for_each(|(sum, row)| kernels::add(sum, &table[row * width..][..width]));
            Ok(())
        };
        add(&self.types, &mut input.type_ids.iter().map(|&id| id as usize))?;
        add(&self.positions, &mut self.positions_of(input))?;
        matrix(sums, width)
    }

    fn plain(&self, input: &Packed) -> Result<Tensor> {
        let rows = |table: &Tensor, ids: Vec<u32>| table.index_select(&Tensor::new(ids, table.device())?, 0);
        let mut sums = rows(&self.words, input.ids.clone())?;
        if let Some(types) = &self.types {
            sums = (sums + rows(types, input.type_ids.clone())?)?;
        }
        if let Some(positions) = &self.positions {
            sums = (sums + rows(positions, self.positions_of(input).map(|at| at as u32).collect())?)?;
        }
        Ok(sums)
    }
}

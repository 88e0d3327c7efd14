//! The layers below the lowest trained one: frozen, without dropout, so each sequence's activations are computed once and kept.

use candle_core::Tensor;

use crate::domain::Result;
use crate::model::{Encoder, Mode, Packed, SegmentAdapters};
use crate::training::collate::Sequences;
use crate::training::workers::{Run, Steer, Workers};

/// Activations that a run may keep: about 1.4 million tokens of 384 numbers. Past it they are computed again whenever they are needed.
pub(super) const KEPT_BYTES_MAX: usize = 2 << 30;

/// Tokens of one forward pass outside of training: enough to fill the matrix kernels, small enough to be stopped between two.
pub(super) const PIECE_TOKENS: usize = 1024;

/// What enters layer `layers` for each sequence of a split.
pub(super) struct Prefix {
    pub layers: usize,
    /// (tokens, hidden) of each sequence, row after row; None: over the budget.
    kept: Option<Vec<Vec<f32>>>,
}

impl Prefix {
    /// Keeps the activations if they fit into `budget` bytes, and takes them off it.
    pub(super) fn compute(
        encoder: &Encoder,
        sequences: &Sequences,
        layers: usize,
        budget: &mut usize,
        workers: Workers,
        steer: Steer<'_>,
    ) -> Run<Self> {
        let tokens: usize = (0..sequences.len()).map(|sequence| sequences.tokens(sequence)).sum();
        let bytes = tokens * encoder.config().hidden_size * size_of::<f32>();
        if bytes > *budget {
            return Ok(Self { layers, kept: None });
        }
        *budget -= bytes;
        let pieces = pieces(sequences);
        let computed = workers.map(pieces.len(), steer, |piece| {
            let hidden = lower_layers(encoder, sequences, &pieces[piece], layers)?;
            split_rows(&hidden, sequences, &pieces[piece])
        })?;
        Ok(Self { layers, kept: Some(computed.into_iter().flatten().collect()) })
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// (tokens, hidden) of `which` sequences, end to end.
    pub(super) fn hidden(&self, encoder: &Encoder, sequences: &Sequences, which: &[usize]) -> Result<Tensor> {
        let Some(kept) = &self.kept else {
            return lower_layers(encoder, sequences, which, self.layers);
        };
        let rows = which.iter().map(|&sequence| kept[sequence].as_slice()).collect::<Vec<_>>().concat();
        let width = encoder.config().hidden_size;
        Ok(Tensor::from_vec(rows, (bounds(sequences, which)[which.len()], width), encoder.device())?)
    }
}

/// Where each of `which` sequences begins when they stand end to end, and where the last ends.
pub(super) fn bounds(sequences: &Sequences, which: &[usize]) -> Vec<usize> {
    let ends = which.iter().scan(0, |end, &sequence| {
        *end += sequences.tokens(sequence);
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// All sequences in runs of about [`PIECE_TOKENS`], in order.
pub(super) fn pieces(sequences: &Sequences) -> Vec<Vec<usize>> {
    let mut pieces: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for sequence in 0..sequences.len() {
        let tokens = sequences.tokens(sequence);
        match pieces.last_mut() {
            Some(piece) if tokens <= room => piece.push(sequence),
            _ => {
                pieces.push(vec![sequence]);
                room = PIECE_TOKENS;
            }
        }
        room = room.saturating_sub(tokens);
    }
    pieces
}

fn lower_layers(encoder: &Encoder, sequences: &Sequences, which: &[usize], layers: usize) -> Result<Tensor> {
    let windows = which.iter().map(|&sequence| sequences.window(sequence));
    let packed = Packed::new(windows.map(|window| (&window.ids[..], &window.type_ids[..])));
    let embedded = encoder.embed(&packed)?;
    encoder.forward(&embedded, &packed.bounds, &SegmentAdapters::default(), 0..layers, Mode::Eval)
}

fn split_rows(hidden: &Tensor, sequences: &Sequences, which: &[usize]) -> Result<Vec<Vec<f32>>> {
    let width = hidden.dim(1)?;
    let all = hidden.flatten_all()?.to_vec1::<f32>()?;
    let bounds = bounds(sequences, which);
    Ok(bounds.windows(2).map(|ends| all[ends[0] * width..ends[1] * width].to_vec()).collect())
}

//! The forward pass without gradients, on packed weights: what serving runs on the CPU, and training below its lowest
//! adapted layer. Owns the order of the work and the memory it is done in; leaves arithmetic to `kernels::packed`, and
//! everything that learns to `layers`.
//!
//! A batch is cut into chunks of whole sequences that stay in the second-level cache through all layers. Sequences do not
//! meet, so the answer of a text does not depend on what it shares a batch with.

mod layer;
mod room;
mod update;

use std::any::Any;
use std::ops::Range;

use layer::Layer;
pub(super) use layer::{LayerParts, LinearParts, NormParts, Order, RotaryParts};
use room::{Room, sized};
use update::Updates;
pub(super) use update::{DeltaParts, Product, UpdateParts};

use super::kernels::packed::{Isa, Job, Kernel, round};

/// Tokens that go through all layers together: their activations (about 4 KiB a token for a hidden size of 384) stay in a
/// second-level cache of 1 MiB, and weights are read often enough from there or beyond.
const CHUNK_TOKENS: usize = 128;

/// Packed layers of one encoder, for one kernel.
pub(super) trait Network: Send + Sync {
    /// `hidden`, row-major (tokens, width), through `layers`. `bounds` cut the tokens into sequences, from 0; `segments`
    /// are the rows of adapters, ascending, each with what [`Self::pack`] made of it.
    fn forward(&self, hidden: &mut [f32], bounds: &[usize], segments: &[Segment<'_>], layers: Range<usize>);

    /// An adapter in this kernel's form.
    fn pack(&self, parts: &UpdateParts) -> PackedUpdates;

    /// Of all packed weights.
    fn bytes(&self) -> usize;
}

/// An adapter's updates in the form of the network that packed them.
pub(super) struct PackedUpdates {
    updates: Box<dyn Any + Send + Sync>,
    bytes: usize,
}

impl PackedUpdates {
    /// # Panics
    /// If they were packed for another kernel: an encoder uses only what it packed.
    fn of<I: Isa>(&self) -> &Updates<I> {
        self.updates.downcast_ref().expect("the network packed these updates")
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl std::fmt::Debug for PackedUpdates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "packed updates of {} bytes", self.bytes)
    }
}

/// Rows of a packed batch and the adapter that changes them.
#[derive(Clone)]
pub(super) struct Segment<'a> {
    pub(super) rows: Range<usize>,
    pub(super) updates: &'a PackedUpdates,
}

/// Packs layers for `kernel`, one after the other: their plain numbers need not be in memory all at once.
///
/// # Panics
/// If the machine has no such kernel.
pub(super) fn network<E>(
    kernel: Kernel,
    layers: &mut dyn Iterator<Item = Result<LayerParts, E>>,
) -> Result<Box<dyn Network>, E> {
    kernel.dispatch(Build(layers))
}

struct Build<'a, E>(&'a mut dyn Iterator<Item = Result<LayerParts, E>>);

impl<E> Job for Build<'_, E> {
    type Output = Result<Box<dyn Network>, E>;

    fn run<I: Isa>(self) -> Self::Output {
        let layers = self.0.map(|parts| Ok(Layer::<I>::pack(&parts?))).collect::<Result<_, E>>()?;
        Ok(Box::new(Packed { layers }))
    }
}

struct Packed<I: Isa> {
    layers: Vec<Layer<I>>,
}

/// Some sequences on their way through the layers.
struct Chunk<'a, I: Isa> {
    /// From 0.
    bounds: &'a [usize],
    segments: Vec<(Range<usize>, &'a Updates<I>)>,
}

impl<I: Isa> Chunk<'_, I> {
    fn tokens(&self) -> usize {
        self.bounds.last().copied().unwrap_or(0)
    }
}

impl<I: Isa> Network for Packed<I> {
    fn forward(&self, hidden: &mut [f32], bounds: &[usize], segments: &[Segment<'_>], layers: Range<usize>) {
        let Some(first) = self.layers.first() else { return };
        let width = first.width();
        let layers = &self.layers[layers];
        let segments: Vec<_> =
            segments.iter().map(|segment| (segment.rows.clone(), segment.updates.of::<I>())).collect();
        Room::<I>::with(|room| {
            for chunk in chunks(bounds) {
                let tokens = chunk[0]..chunk[chunk.len() - 1];
                let own: Vec<usize> = chunk.iter().map(|bound| bound - tokens.start).collect();
                let x = &mut hidden[tokens.start * width..tokens.end * width];
                let chunk = Chunk { bounds: &own, segments: within(&segments, &tokens) };
                round::<I>(sized(&mut room.operand, x.len()), x);
                layers.iter().for_each(|layer| layer.forward(x, &chunk, room));
            }
        });
    }

    fn pack(&self, parts: &UpdateParts) -> PackedUpdates {
        let updates = Updates::<I>::pack(parts, |(layer, product)| self.layers.get(layer)?.bias(product));
        PackedUpdates { bytes: updates.bytes(), updates: Box::new(updates) }
    }

    fn bytes(&self) -> usize {
        self.layers.iter().map(Layer::bytes).sum()
    }
}

/// Whole sequences of together at most [`CHUNK_TOKENS`], or one longer one; each as its bounds.
fn chunks(bounds: &[usize]) -> Vec<&[usize]> {
    let mut chunks = Vec::new();
    let mut start = 0;
    for end in 1..bounds.len() {
        let is_last = end + 1 == bounds.len();
        if is_last || bounds[end + 1] - bounds[start] > CHUNK_TOKENS {
            chunks.push(&bounds[start..=end]);
            start = end;
        }
    }
    chunks
}

/// The part of each segment that lies within `tokens`, counted from their first.
fn within<'a, U>(segments: &[(Range<usize>, &'a U)], tokens: &Range<usize>) -> Vec<(Range<usize>, &'a U)> {
    let cut = |(rows, updates): &(Range<usize>, &'a U)| {
        let (start, end) = (rows.start.max(tokens.start), rows.end.min(tokens.end));
        (start < end).then(|| (start - tokens.start..end - tokens.start, *updates))
    };
    segments.iter().filter_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_sequences_in_order_and_not_too_long() {
        for lengths in [&[1][..], &[128, 1], &[60, 60, 60], &[500, 3, 3, 300], &[5; 100]] {
            let bounds: Vec<usize> = std::iter::once(0)
                .chain(lengths.iter().scan(0, |end, n| {
                    *end += n;
                    Some(*end)
                }))
                .collect();
            let chunks = chunks(&bounds);
            let joined: Vec<usize> = chunks.iter().flat_map(|chunk| chunk[1..].to_vec()).collect();
            assert_eq!(joined, bounds[1..], "{lengths:?}");
            for chunk in &chunks {
                let tokens = chunk[chunk.len() - 1] - chunk[0];
                assert!(tokens <= CHUNK_TOKENS || chunk.len() == 2, "{chunk:?} of {lengths:?}");
            }
        }
    }

    #[test]
    fn segments_are_cut_at_a_chunks_ends() {
        let segments = [(0..10, &1), (10..40, &2), (60..70, &3)];
        assert_eq!(within(&segments, &(5..65)), [(0..5, &1), (5..35, &2), (55..60, &3)]);
        assert_eq!(within(&segments, &(40..60)), []);
    }
}

//! Gradients by the backbone's weights: where threads leave them, how they are summed, and how two families' agree.

use std::ops::Range;
use std::sync::Arc;

use crate::domain::Result;
use crate::model::{Sink, TrainableEncoder};
use crate::training::fine_tune::Control;
use crate::training::workers::{Run, Workers};

/// A sink for each thread, and a second one each for steps that tell families apart.
pub(super) struct Sinks {
    /// By thread, then by family.
    sinks: Vec<Vec<Arc<Sink>>>,
}

impl Sinks {
    pub(super) fn new(weights: usize, threads: usize, families: usize) -> Self {
        let of_thread = || (0..families).map(|_| Arc::new(Sink::new(weights))).collect();
        Self { sinks: (0..threads.max(1)).map(|_| of_thread()).collect() }
    }

    /// Where `thread` leaves what it finds for `family`.
    pub(super) fn of(&self, thread: usize, family: usize, apart: bool) -> &Arc<Sink> {
        &self.sinks[thread][if apart { family } else { 0 }]
    }

    /// The sum of all sinks into `gradient`, whose squared length is returned; the sinks are zero afterwards.
    pub(super) fn drain(&self, gradient: &mut [f32], workers: Workers) -> f64 {
        let mut sinks: Vec<_> = self.sinks.iter().flatten().map(|sink| sink.numbers()).collect();
        let mut sinks: Vec<&mut [f32]> = sinks.iter_mut().map(|sink| &mut sink[..]).collect();
        let share = gradient.len().div_ceil(workers.0.max(1)).max(1);
        let mut parts: Vec<(&mut [f32], Vec<&mut [f32]>)> = Vec::new();
        for gradient in gradient.chunks_mut(share) {
            let len = gradient.len();
            let own = sinks.iter_mut().map(|sink| sink.split_off_mut(..len).unwrap_or_default()).collect();
            parts.push((gradient, own));
        }
        let sum = |(gradient, sinks): (&mut [f32], Vec<&mut [f32]>)| drain_part(gradient, sinks);
        std::thread::scope(|scope| {
            let threads: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || sum(part))).collect();
            // in order, so that the sum is always the same
            threads.into_iter().map(|thread| thread.join().unwrap_or(f64::NAN)).sum()
        })
    }

    /// Of each family what all threads left of it, after steps with families apart; the sinks are zero afterwards.
    pub(super) fn take_apart(&self) -> Vec<Vec<f32>> {
        let families = self.sinks[0].len();
        let of_family = |family: usize| {
            let mut sum = vec![0.0; self.sinks[0][family].numbers().len()];
            let own = self.sinks.iter().map(|of_thread| of_thread[family].numbers());
            own.for_each(|mut sink| {
                add(&mut sum, &sink);
                sink.fill(0.0);
            });
            sum
        };
        (0..families).map(of_family).collect()
    }

    /// For each layer what the two families' gradients have to do with each other, or the one family's length. After a step
    /// with families apart, before [`Sinks::drain`].
    pub(super) fn agreement(&self, layers: &[Range<usize>], workers: Workers) -> Run<Vec<Agreement>> {
        let sinks: Vec<Vec<_>> =
            self.sinks.iter().map(|of_thread| of_thread.iter().map(|sink| sink.numbers()).collect()).collect();
        let families = self.sinks[0].len();
        let of_family = |family: usize| sinks.iter().map(|of_thread| &of_thread[family][..]).collect::<Vec<_>>();
        let (first, second) = (of_family(0), of_family(families - 1));
        workers.map(layers.len(), &mut || Control::Continue, |layer| {
            Ok(Agreement::of(&first, &second, layers[layer].clone()))
        })
    }
}

fn drain_part(gradient: &mut [f32], mut sinks: Vec<&mut [f32]>) -> f64 {
    gradient.fill(0.0);
    for sink in &mut sinks {
        add(gradient, sink);
        sink.fill(0.0);
    }
    dot(gradient, gradient)
}

/// Sums of 1,024 in f32, the rest in f64.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let part = |(a, b): (&[f32], &[f32])| f64::from(a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>());
    a.chunks(1024).zip(b.chunks(1024)).map(part).sum()
}

/// `sum += more`
pub(super) fn add(sum: &mut [f32], more: &[f32]) {
    sum.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
}

/// Sums over one layer's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Agreement {
    pub product: f64,
    /// Squared lengths of the first and of the last family's gradient.
    pub squares: [f64; 2],
}

impl Agreement {
    /// Of the sums of `first` and of `second` over the weights `range`.
    fn of(first: &[&[f32]], second: &[&[f32]], range: Range<usize>) -> Self {
        let sum = |parts: &[&[f32]], at: usize| parts.iter().map(|part| f64::from(part[at])).sum::<f64>();
        range.fold(Self::default(), |agreement, at| {
            let (x, y) = (sum(first, at), sum(second, at));
            let [xx, yy] = agreement.squares;
            Self { product: agreement.product + x * y, squares: [xx + x * x, yy + y * y] }
        })
    }

    /// 0 where a gradient is nothing.
    pub(super) fn cosine(self) -> f64 {
        let length = (self.squares[0] * self.squares[1]).sqrt();
        if length > 0.0 { self.product / length } else { 0.0 }
    }
}

/// The weights of each layer, which lie side by side.
pub(super) fn layers_of(encoder: &TrainableEncoder) -> Result<Vec<Range<usize>>> {
    let mut layers: Vec<Range<usize>> = Vec::new();
    for slot in encoder.slots() {
        match layers.get_mut(encoder.layer_of(&slot)) {
            Some(layer) => layer.end = slot.range.end,
            None => layers.push(slot.range),
        }
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sinks() -> Sinks {
        let sinks = Sinks::new(4, 2, 2);
        for thread in 0..2 {
            sinks.of(thread, 0, true).numbers().copy_from_slice(&[0.5, 1.0, 0.0, 2.0]);
            sinks.of(thread, 1, true).numbers().copy_from_slice(&[0.5, -1.0, 3.0, 0.0]);
        }
        sinks
    }

    #[test]
    fn gradients_of_all_threads_and_families_are_summed_and_taken() {
        for threads in 1..4 {
            let sinks = sinks();
            let mut gradient = vec![7.0; 4];
            let square = sinks.drain(&mut gradient, Workers(threads));
            assert_eq!((gradient.as_slice(), square), ([2.0, 0.0, 6.0, 4.0].as_slice(), 56.0));
            assert_eq!(sinks.drain(&mut gradient, Workers(threads)), 0.0);
        }
    }

    #[test]
    fn what_was_left_of_each_family_is_taken_apart() {
        let sinks = sinks();
        assert_eq!(sinks.take_apart(), [[1.0, 2.0, 0.0, 4.0], [1.0, -2.0, 6.0, 0.0]]);
        assert_eq!(sinks.take_apart(), [[0.0; 4], [0.0; 4]]);
    }

    #[test]
    fn agreement_is_the_cosine_of_each_layer() {
        let layers = [0..1, 1..2, 2..4];
        let agreement = sinks().agreement(&layers, Workers(2)).expect("nobody stops it");
        let cosines: Vec<f64> = agreement.iter().map(|agreement| agreement.cosine()).collect();
        assert_eq!(cosines, [1.0, -1.0, 0.0]);
        assert_eq!(agreement[2].squares, [16.0, 36.0]);
    }
}

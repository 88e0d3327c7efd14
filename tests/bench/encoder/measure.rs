//! Time: blocks of passes in which the sides alternate, on one thread or on several at once.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// One pass of one thread.
pub(crate) type Side<'a> = &'a (dyn Fn() + Sync);

#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Timed for each side, after a pass to warm up.
    pub(crate) blocks: usize,
    /// A block has at least one pass, and as many as take so long.
    pub(crate) block: Duration,
}

/// Seconds of one pass, by side and block.
pub(crate) struct Times(Vec<Vec<f64>>);

impl Times {
    pub(crate) fn median(&self, side: usize) -> f64 {
        median(self.0[side].clone())
    }

    /// How many times as long `side` takes as `other`: of each block's pair, so that what disturbs both cancels out.
    pub(crate) fn ratio(&self, side: usize, other: usize) -> f64 {
        median(self.0[side].iter().zip(&self.0[other]).map(|(side, other)| side / other).collect())
    }
}

/// Times `sides`, while `threads` threads do the same at once, each its own passes. A block is as slow as its slowest thread.
pub(crate) fn alternate(sides: &[Side<'_>], threads: usize, effort: Effort) -> Times {
    let passes: Vec<usize> = sides.iter().map(|side| passes_of(*side, effort.block)).collect();
    let barrier = Barrier::new(threads);
    let one = || {
        sides.iter().for_each(|side| side());
        let mut times = vec![Vec::new(); sides.len()];
        for _ in 0..effort.blocks {
            for ((side, passes), times) in sides.iter().zip(&passes).zip(&mut times) {
                barrier.wait();
                times.push(seconds_of(*side, *passes));
            }
        }
        times
    };
    let of_threads = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a pass does not panic")).collect::<Vec<_>>()
    });
    Times(of_threads.into_iter().reduce(slowest).expect("at least one thread"))
}

fn slowest(a: Vec<Vec<f64>>, b: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    a.iter().zip(&b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a.max(*b)).collect()).collect()
}

/// Seconds of one pass, when `threads` threads make `passes` each at once.
pub(crate) fn together(side: Side<'_>, threads: usize, passes: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let one = || {
        side();
        barrier.wait();
        seconds_of(side, passes)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a pass does not panic")).fold(0.0, f64::max)
    })
}

fn passes_of(side: Side<'_>, block: Duration) -> usize {
    side();
    (block.as_secs_f64() / seconds_of(side, 1)).ceil().max(1.0) as usize
}

fn seconds_of(side: Side<'_>, passes: usize) -> f64 {
    let start = Instant::now();
    (0..passes).for_each(|_| side());
    start.elapsed().as_secs_f64() / passes as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

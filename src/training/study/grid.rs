//! Runs cells on several threads, one thread a cell, and hands each result to the caller's thread as it comes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::domain::Result;
use crate::training::study::cell::Bench;
use crate::training::study::cells::Cell;
use crate::training::study::row::Row;

/// Results that wait for the caller: a thread that is ahead of it waits.
const RESULTS_AHEAD_MAX: usize = 4;

impl Bench<'_> {
    /// `cells` in their order, as long as `may_start` says so; what is under way still ends. A cell that fails is the caller's to
    /// judge; its `Err` stops the rest.
    pub fn run_all(
        &self,
        cells: &[Cell],
        threads: usize,
        may_start: &(dyn Fn() -> bool + Sync),
        on_result: &mut dyn FnMut(Cell, Result<Row>) -> Result<()>,
    ) -> Result<()> {
        each(cells, threads, may_start, &|cell| self.run(cell), on_result)
    }
}

fn each(
    cells: &[Cell],
    threads: usize,
    may_start: &(dyn Fn() -> bool + Sync),
    work: &(dyn Fn(Cell) -> Result<Row> + Sync),
    on_result: &mut dyn FnMut(Cell, Result<Row>) -> Result<()>,
) -> Result<()> {
    let (next, halted) = (AtomicUsize::new(0), AtomicBool::new(false));
    let take = || {
        let goes_on = !halted.load(Ordering::Relaxed) && may_start();
        goes_on.then(|| cells.get(next.fetch_add(1, Ordering::Relaxed)).copied()).flatten()
    };
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(RESULTS_AHEAD_MAX);
        for index in 0..threads.clamp(1, cells.len().max(1)) {
            let (sender, take) = (sender.clone(), &take);
            thread::Builder::new().name(format!("cell-{index}")).spawn_scoped(scope, move || {
                while let Some(cell) = take() {
                    if sender.send((cell, work(cell))).is_err() {
                        break;
                    }
                }
            })?;
        }
        drop(sender);
        // a result that stops the rest drops the receiver, so no thread waits for it
        let ended = receiver.into_iter().try_for_each(|(cell, result)| on_result(cell, result));
        halted.store(true, Ordering::Relaxed);
        ended
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Error;
    use crate::training::study::spec::Share;

    fn cells(count: u64) -> Vec<Cell> {
        (0..count).map(|seed| Cell { arm: 0, downstream: 0, share: Share::Shots(8), seed }).collect()
    }

    fn seeds_run(threads: usize, may_start: &(dyn Fn() -> bool + Sync), stop_after: usize) -> (Vec<u64>, bool) {
        let mut seen = Vec::new();
        let work = |_: Cell| Err(Error::internal("no cell is computed here"));
        let ended = each(&cells(9), threads, may_start, &work, &mut |cell, _| {
            seen.push(cell.seed);
            if seen.len() == stop_after { Err(Error::internal("enough")) } else { Ok(()) }
        });
        seen.sort_unstable();
        (seen, ended.is_ok())
    }

    #[test]
    fn every_cell_is_run_once_on_any_number_of_threads() {
        for threads in 0..4 {
            assert_eq!(seeds_run(threads, &|| true, 99), ((0..9).collect(), true), "{threads} threads");
        }
    }

    #[test]
    fn no_cell_begins_after_the_time_is_up_or_the_caller_has_enough() {
        let asked = AtomicUsize::new(0);
        let (seen, is_ok) = seeds_run(1, &|| asked.fetch_add(1, Ordering::Relaxed) < 3, 99);
        assert_eq!((seen, is_ok), (vec![0, 1, 2], true));
        let (seen, is_ok) = seeds_run(1, &|| true, 2);
        assert_eq!((seen, is_ok), (vec![0, 1], false));
    }
}

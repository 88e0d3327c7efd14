//! Which rows make which step's batch, and how a batch is shared out among threads. Pure: the same seed, the same batches.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Separates the draws that one seed feeds.
#[derive(Clone, Copy)]
pub(super) enum Draw {
    HoldOut = 1,
    Order,
    Dropout,
    NerRows,
    Concepts,
    Pairs,
    Window,
    Warm,
}

/// A seed of its own for each draw: mixed by SplitMix64's finaliser, so that neighbours share nothing.
pub(super) fn seed_of(seed: u64, draw: Draw, counters: [u64; 2]) -> u64 {
    [draw as u64, counters[0], counters[1]].into_iter().fold(mix(seed), |state, number| mix(state ^ mix(number)))
}

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 0..rows in an order of `seed`'s own.
pub(super) fn shuffled(rows: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    order
}

/// Deals `keys.len()` rows out to `folds`, so that each fold has its share of every key: the fold of each row.
///
/// The rows of a key follow each other, in an order of `seed`'s own, and the folds take turns.
pub(super) fn deal<K: Ord>(keys: &[K], folds: usize, seed: u64) -> Vec<usize> {
    let mut order = shuffled(keys.len(), seed_of(seed, Draw::HoldOut, [0, 0]));
    order.sort_by(|&a, &b| keys[a].cmp(&keys[b])); // stable: as shuffled inside a key
    let mut fold_of = vec![0; keys.len()];
    order.into_iter().enumerate().for_each(|(at, row)| fold_of[row] = at % folds);
    fold_of
}

/// One epoch's order of rows, cut into batches.
pub(super) struct Epoch {
    order: Vec<usize>,
    batch_size: usize,
}

impl Epoch {
    pub(super) fn new(rows: usize, batch_size: usize, seed: u64, epoch: u64) -> Self {
        Self { order: shuffled(rows, seed_of(seed, Draw::Order, [epoch, 0])), batch_size }
    }

    pub(super) fn batch(&self, index: usize) -> &[usize] {
        let begin = index * self.batch_size;
        &self.order[begin..self.order.len().min(begin + self.batch_size)]
    }
}

/// `rows` in at most `count` runs of about equal cost, none empty.
pub(super) fn shards(rows: &[usize], count: usize, cost: impl Fn(usize) -> usize) -> Vec<&[usize]> {
    let total: usize = rows.iter().map(|&row| cost(row)).sum();
    let (mut shards, mut begin, mut sum) = (Vec::new(), 0, 0);
    for (at, &row) in rows.iter().enumerate() {
        sum += cost(row);
        let is_full = sum * count >= total * (shards.len() + 1);
        if is_full || at + 1 == rows.len() {
            shards.push(&rows[begin..=at]);
            begin = at + 1;
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_every_row_once_and_each_epoch_differs() {
        let rows_of = |epoch: u64| -> Vec<usize> {
            let epoch = Epoch::new(10, 4, 7, epoch);
            (0..3).flat_map(|index| epoch.batch(index).to_vec()).collect()
        };
        let mut first = rows_of(0);
        assert_eq!(first, rows_of(0));
        assert_ne!(first, rows_of(1));
        first.sort_unstable();
        assert_eq!(first, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn every_fold_gets_its_share_of_every_key() {
        let keys: Vec<&str> = (0..60).map(|row| ["a", "b", "b", "c", "c", "c"][row % 6]).collect();
        let fold_of = deal(&keys, 5, 3);
        for (key, wanted) in [("a", 2), ("b", 4), ("c", 6)] {
            for fold in 0..5 {
                let here = (0..60).filter(|&row| keys[row] == key && fold_of[row] == fold).count();
                assert_eq!(here, wanted, "{key} in fold {fold}");
            }
        }
        assert_eq!(fold_of, deal(&keys, 5, 3));
        assert_ne!(fold_of, deal(&keys, 5, 4));
        assert_eq!(deal::<&str>(&[], 5, 3), Vec::<usize>::new());
    }

    #[test]
    fn shards_are_even_in_cost_and_never_empty() {
        let check = |costs: &[usize], count: usize, expected: &[usize]| {
            let rows: Vec<usize> = (0..costs.len()).collect();
            let lengths: Vec<usize> = shards(&rows, count, |row| costs[row]).iter().map(|shard| shard.len()).collect();
            assert_eq!(lengths, expected, "{costs:?} in {count}");
        };
        check(&[1, 1, 1, 1], 2, &[2, 2]);
        check(&[9, 1, 1, 1], 2, &[1, 3]);
        check(&[1, 1, 1, 9], 2, &[4]);
        check(&[5], 4, &[1]);
        check(&[], 2, &[]);
        check(&[1, 2, 3, 4, 5, 6], 3, &[4, 1, 1]);
    }

    #[test]
    fn draws_do_not_collide() {
        let mut seeds = std::collections::HashSet::new();
        for draw in
            [Draw::HoldOut, Draw::Order, Draw::Dropout, Draw::NerRows, Draw::Concepts, Draw::Pairs, Draw::Window]
        {
            for step in 0..50 {
                for shard in 0..4 {
                    assert!(seeds.insert(seed_of(42, draw, [step, shard])));
                }
            }
        }
    }
}

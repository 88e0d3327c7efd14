//! Decides which queued items form the next batch. Pure: no clock, no channel, no tensor.
//!
//! Deficit round robin (Shreedhar and Varghese, 1995) over flows, by tokens. A flow is usually one adapter: however much is queued
//! for a hot one, the others take their turns.
//!
//! **The bound.** With `n` flows waiting, quantum `Q`, budget `B` and no item above `M` tokens, an item of `t` tokens at the head of
//! its flow is in one of the next `2·⌊(n − 1)·(⌈t/Q⌉·Q + M) / (B + 1)⌋ + 2` batches. For the flow's turn comes after at most `⌈t/Q⌉`
//! rounds, in which each of the others sends at most a quantum a round and what it had left over (below `M`); and two neighbouring
//! batches carry more than `B` together, as the second opens with what did not fit the first.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `B`: tokens of one batch.
    pub(super) batch_tokens_max: usize,
    /// `Q`: tokens a flow may send in its turn. The longest usual item, so that a turn always sends something.
    pub(super) quantum_tokens: usize,
}

/// Items that wait for a batch, in the order of their flows.
pub(super) struct Batcher<K, T> {
    limits: Limits,
    /// The flow whose turn it is stands in front. None is empty.
    ring: VecDeque<Flow<K, T>>,
}

struct Flow<K, T> {
    key: K,
    waiting: VecDeque<(usize, T)>,
    /// Tokens it may still send.
    deficit: usize,
    in_turn: bool,
}

/// Why a flow stopped sending.
enum Stop {
    Empty,
    TurnOver,
    BatchFull,
}

impl<K: Eq, T> Batcher<K, T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ring: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Appends items of `(tokens, item)` to a flow, in order. A flow that was idle goes to the back of the ring.
    pub(super) fn push(&mut self, key: K, items: impl IntoIterator<Item = (usize, T)>) {
        let at = self.ring.iter().position(|flow| flow.key == key).unwrap_or(self.ring.len());
        if at == self.ring.len() {
            self.ring.push_back(Flow { key, waiting: VecDeque::new(), deficit: 0, in_turn: false });
        }
        self.ring[at].waiting.extend(items);
        self.ring.retain(|flow| !flow.waiting.is_empty());
    }

    /// The next batch: at most `batch_tokens_max` tokens (a single larger item goes alone), empty only if nothing wanted waits.
    /// Whatever is not `wanted` any more (expired, abandoned) leaves the queue and costs no room.
    pub(super) fn pick(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        self.sweep(wanted);
        let mut batch = Vec::new();
        let mut room = self.limits.batch_tokens_max;
        while let Some(flow) = self.ring.front_mut() {
            match flow.send(self.limits.quantum_tokens, &mut room, &mut batch) {
                Stop::BatchFull => break,
                Stop::TurnOver => self.ring.rotate_left(1),
                Stop::Empty => drop(self.ring.pop_front()),
            }
        }
        batch
    }

    /// Everything that waits; nothing is left.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.ring.drain(..).flat_map(|flow| flow.waiting).map(|(_, item)| item).collect()
    }

    fn sweep(&mut self, wanted: impl Fn(&T) -> bool) {
        self.ring.iter_mut().for_each(|flow| flow.waiting.retain(|(_, item)| wanted(item)));
        self.ring.retain(|flow| !flow.waiting.is_empty());
    }
}

impl<K, T> Flow<K, T> {
    /// Moves items into `batch` until the flow's turn is over, it is empty, or its head does not fit; then its turn goes on in the next batch.
    fn send(&mut self, quantum: usize, room: &mut usize, batch: &mut Vec<T>) -> Stop {
        if !self.in_turn {
            self.in_turn = true;
            self.deficit += quantum.max(1);
        }
        while let Some(&(tokens, _)) = self.waiting.front() {
            if tokens > self.deficit {
                self.in_turn = false;
                return Stop::TurnOver;
            }
            if tokens > *room && !batch.is_empty() {
                return Stop::BatchFull;
            }
            self.deficit -= tokens;
            *room = room.saturating_sub(tokens);
            batch.extend(self.waiting.pop_front().map(|(_, item)| item));
        }
        Stop::Empty
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `flow:tokens` in the order of arrival; batches come back the same way, with `|` between them.
    #[track_caller]
    fn check(budget: usize, quantum: usize, queued: &str, expected: &str) {
        let mut batcher = Batcher::new(Limits { batch_tokens_max: budget, quantum_tokens: quantum });
        for word in queued.split_whitespace() {
            let (flow, tokens) = word.split_once(':').unwrap();
            batcher.push(flow, [(tokens.parse().unwrap(), word)]);
        }
        let mut batches = Vec::new();
        while !batcher.is_empty() {
            batches.push(batcher.pick(|_| true).join(" "));
        }
        assert_eq!(batches.join(" | "), expected);
    }

    #[test]
    fn a_batch_mixes_flows_within_its_budget() {
        check(10, 5, "", "");
        check(10, 5, "a:3 b:3 c:3", "a:3 b:3 c:3");
        check(10, 5, "a:5 a:5 a:5", "a:5 a:5 | a:5");
        check(10, 5, "a:5 a:5 b:5", "a:5 b:5 | a:5");
        check(10, 5, "a:4 a:4 a:4 b:4", "a:4 b:4 | a:4 a:4");
    }

    #[test]
    fn an_item_above_the_quantum_saves_up_for_it_and_one_above_the_budget_goes_alone() {
        check(10, 2, "a:6 b:1 b:1 b:1", "b:1 b:1 b:1 a:6");
        check(10, 5, "a:12 b:3", "b:3 | a:12");
        check(10, 20, "a:12 b:3", "a:12 | b:3");
    }

    #[test]
    fn what_nobody_waits_for_costs_no_room() {
        let mut batcher = Batcher::new(Limits { batch_tokens_max: 4, quantum_tokens: 4 });
        batcher.push("a", [(4, "gone"), (4, "kept"), (4, "gone")]);
        batcher.push("b", [(4, "gone")]);
        assert_eq!(batcher.pick(|item| *item == "kept"), ["kept"]);
        assert!(batcher.is_empty());
        assert!(batcher.pick(|_| true).is_empty());
    }

    /// The sentence at the head of this file.
    fn batches_until_picked(flows: usize, tokens: usize, longest: usize, limits: Limits) -> usize {
        let Limits { batch_tokens_max, quantum_tokens } = limits;
        let before = (flows - 1) * (tokens.div_ceil(quantum_tokens) * quantum_tokens + longest);
        2 * (before / (batch_tokens_max + 1)) + 2
    }

    proptest! {
        /// A cold flow's only item, behind hot flows that never run dry, whatever turns were under way.
        #[test]
        fn no_flow_starves_another(
            hot in prop::collection::vec(prop::collection::vec(1_usize..=32, 1..8), 0..12),
            cold in 1_usize..=32,
            budget in 32_usize..200,
            quantum in 1_usize..64,
            warm_up in 0_usize..5,
        ) {
            let limits = Limits { batch_tokens_max: budget, quantum_tokens: quantum };
            let mut batcher = Batcher::new(limits);
            let refill = |batcher: &mut Batcher<usize, (usize, usize)>| {
                for (flow, sizes) in hot.iter().enumerate() {
                    batcher.push(flow, (0..200).map(|i| sizes[i % sizes.len()]).map(|tokens| (tokens, (flow, tokens))));
                }
            };
            refill(&mut batcher);
            (0..warm_up).for_each(|_| drop(batcher.pick(|_| true)));
            refill(&mut batcher);
            batcher.push(usize::MAX, [(cold, (usize::MAX, cold))]);
            let bound = batches_until_picked(hot.len() + 1, cold, 32, limits);
            let mut taken = 0;
            loop {
                taken += 1;
                let batch = batcher.pick(|_| true);
                prop_assert!(batch.iter().map(|(_, tokens)| tokens).sum::<usize>() <= budget);
                if batch.iter().any(|&(flow, _)| flow == usize::MAX) {
                    break;
                }
                prop_assert!(!batch.is_empty());
                refill(&mut batcher);
            }
            prop_assert!(taken <= bound, "batch {taken}, the bound is {bound}");
        }

        /// Two flows with the same work waiting are served alike: never further apart than a quantum and an item each.
        #[test]
        fn busy_flows_get_equal_shares(sizes in prop::collection::vec(1_usize..=16, 2..10), batches in 1_usize..20) {
            let mut batcher = Batcher::new(Limits { batch_tokens_max: 64, quantum_tokens: 16 });
            let mut sent = vec![0; sizes.len()];
            for (flow, &tokens) in sizes.iter().enumerate() {
                batcher.push(flow, (0..2000).map(|_| (tokens, (flow, tokens))));
            }
            for (flow, tokens) in (0..batches).flat_map(|_| batcher.pick(|_| true)) {
                sent[flow] += tokens;
            }
            let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
            prop_assert!(most - least <= 2 * (16 + 16), "{sent:?}");
        }

        /// Each flow's items leave in the order they came, and none is lost.
        #[test]
        fn each_flow_stays_in_order(items in prop::collection::vec((0_u8..5, 1_usize..=20), 0..80)) {
            let mut batcher = Batcher::new(Limits { batch_tokens_max: 40, quantum_tokens: 10 });
            for (at, &(flow, tokens)) in items.iter().enumerate() {
                batcher.push(flow, [(tokens, at)]);
            }
            let mut picked = Vec::new();
            while !batcher.is_empty() {
                picked.extend(batcher.pick(|_| true));
            }
            for flow in 0..5 {
                let of_flow = |order: &[usize]| order.iter().copied().filter(|&at| items[at].0 == flow).collect::<Vec<_>>();
                prop_assert_eq!(of_flow(&picked), of_flow(&(0..items.len()).collect::<Vec<_>>()));
            }
        }
    }
}

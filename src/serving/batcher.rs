//! Decides which queued items form the next batch. Pure: no clock, no channel, no tensor.
//!
//! Deficit round robin (Shreedhar and Varghese, 1995) over flows, by tokens, with two lists as in FQ-CoDel (RFC 8290, section 4.2): a flow
//! that becomes active is *fresh* and takes its first turn before those that were waiting, so that an adapter that is asked seldom
//! does not wait for a round of the busy ones. Nor does it wait for their work in its own batch: they add a quantum to it, no more. A
//! flow leaves the ring only when its turn finds it empty, so it cannot become fresh again and again. Inside a flow its callers take
//! turns item by item: a long request does not hold up a short one behind it.
//!
//! **The bound.** With `n` flows waiting, quantum `Q`, budget `B` and no item above `M` tokens, the item of `t` tokens that is next in
//! its flow is in one of the next `2·⌊(n − 1)·(2·⌈t/Q⌉·Q + M) / (B + 1)⌋ + 2 + (n − 1)·⌈t/Q⌉` batches. For the flow's turn comes after
//! at most `⌈t/Q⌉` rounds, in which each of the others sends at most a quantum from the ring and one as a fresh flow, and once what
//! it had left over (below `M`); and two neighbouring batches carry more than `B` together, as the second opens with what did not
//! fit the first, unless the first was kept short for a fresh flow, which each is at most once a round. An item of a caller is
//! next in its flow after at most one item of each other caller there.

use std::collections::VecDeque;

use crate::serving::flow::CallerId;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `B`: tokens of one batch.
    pub(super) batch_tokens_max: usize,
    /// `Q`: tokens a flow may send in its turn.
    pub(super) quantum_tokens: usize,
}

/// Items that wait for a batch, in the order of their flows and callers.
pub(super) struct Batcher<K, T> {
    limits: Limits,
    /// Flows in their first turn.
    fresh: VecDeque<Flow<K, T>>,
    /// The flow whose turn it is stands in front.
    ring: VecDeque<Flow<K, T>>,
}

struct Flow<K, T> {
    key: K,
    /// The caller whose turn it is stands in front. None is empty.
    callers: VecDeque<Waiting<T>>,
    /// Tokens it may still send.
    deficit: usize,
    in_turn: bool,
    /// Became active since the last batch.
    is_fresh: bool,
}

/// The items of one caller, in order.
struct Waiting<T> {
    caller: CallerId,
    items: VecDeque<(usize, T)>,
}

/// Why a flow stopped sending.
#[derive(PartialEq)]
enum Stop {
    Empty,
    TurnOver,
    BatchFull,
}

impl<K: Eq, T> Batcher<K, T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, fresh: VecDeque::new(), ring: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows().all(|flow| flow.callers.is_empty())
    }

    /// Appends items of `(tokens, item)` of one caller to a flow, in order.
    pub(super) fn push(&mut self, key: K, caller: CallerId, items: impl IntoIterator<Item = (usize, T)>) {
        let known = self.fresh.iter_mut().chain(&mut self.ring).find(|flow| flow.key == key);
        match known {
            Some(flow) => flow.push(caller, items),
            None => {
                let mut flow = Flow { key, callers: VecDeque::new(), deficit: 0, in_turn: false, is_fresh: true };
                flow.push(caller, items);
                self.fresh.push_back(flow);
            }
        }
    }

    /// The next batch: at most `batch_tokens_max` tokens (a single larger item goes alone), empty only if nothing wanted waits.
    /// Whatever is not `wanted` any more (expired, abandoned) leaves the queue and costs no room.
    pub(super) fn pick(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        self.sweep(wanted);
        let mut batch = Vec::new();
        let mut room = self.limits.batch_tokens_max;
        let quantum = self.limits.quantum_tokens.max(1);
        while let Some(flow) = self.fresh.front_mut() {
            if flow.send(quantum, &mut room, &mut batch) == Stop::BatchFull {
                return batch;
            }
            // Also an empty one: it waits in the ring for its next turn, or for leaving there.
            self.ring.extend(self.fresh.pop_front());
        }
        // What those that were waiting may add to a batch of fresh flows.
        let mut older_room = if batch.is_empty() { room } else { room.min(quantum) };
        while let Some(flow) = self.ring.front_mut() {
            let mut allowed = if flow.is_fresh { room } else { room.min(older_room) };
            let before = allowed;
            let stop = flow.send(quantum, &mut allowed, &mut batch);
            let sent = before - allowed;
            room -= sent;
            older_room -= if flow.is_fresh { 0 } else { sent };
            match stop {
                Stop::BatchFull => break,
                Stop::TurnOver => self.ring.rotate_left(1),
                Stop::Empty => drop(self.ring.pop_front()),
            }
        }
        self.ring.iter_mut().for_each(|flow| flow.is_fresh = false);
        batch
    }

    /// Everything that waits; nothing is left.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let flows = self.fresh.drain(..).chain(self.ring.drain(..));
        let items = flows.flat_map(|flow| flow.callers).flat_map(|waiting| waiting.items);
        items.map(|(_, item)| item).collect()
    }

    fn flows(&self) -> impl Iterator<Item = &Flow<K, T>> {
        self.fresh.iter().chain(&self.ring)
    }

    fn sweep(&mut self, wanted: impl Fn(&T) -> bool) {
        for flow in self.fresh.iter_mut().chain(&mut self.ring) {
            flow.callers.iter_mut().for_each(|waiting| waiting.items.retain(|(_, item)| wanted(item)));
            flow.callers.retain(|waiting| !waiting.items.is_empty());
        }
    }
}

impl<K, T> Flow<K, T> {
    fn push(&mut self, caller: CallerId, items: impl IntoIterator<Item = (usize, T)>) {
        let known = self.callers.iter_mut().find(|waiting| waiting.caller == caller);
        match known {
            Some(waiting) => waiting.items.extend(items),
            None => self.callers.push_back(Waiting { caller, items: items.into_iter().collect() }),
        }
        self.callers.retain(|waiting| !waiting.items.is_empty());
    }

    /// Moves items into `batch` until the flow's turn is over, it is empty, or its next item does not fit; then its turn goes on in
    /// the next batch.
    fn send(&mut self, quantum: usize, room: &mut usize, batch: &mut Vec<T>) -> Stop {
        if !self.in_turn {
            self.in_turn = true;
            self.deficit += quantum;
        }
        while let Some(tokens) = self.next_tokens() {
            if tokens > self.deficit {
                self.in_turn = false;
                return Stop::TurnOver;
            }
            if tokens > *room && !batch.is_empty() {
                return Stop::BatchFull;
            }
            self.deficit -= tokens;
            *room = room.saturating_sub(tokens);
            batch.extend(self.pop());
        }
        // What is not sent now is not saved up for later.
        self.deficit = 0;
        self.in_turn = false;
        Stop::Empty
    }

    fn next_tokens(&self) -> Option<usize> {
        self.callers.front()?.items.front().map(|(tokens, _)| *tokens)
    }

    /// The next item; its caller goes behind the others.
    fn pop(&mut self) -> Option<T> {
        let mut waiting = self.callers.pop_front()?;
        let (_, item) = waiting.items.pop_front()?;
        if !waiting.items.is_empty() {
            self.callers.push_back(waiting);
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `flow:tokens` or `flow.caller:tokens` in the order of arrival; batches come back the same way, with `|` between them.
    #[track_caller]
    fn check(budget: usize, quantum: usize, queued: &str, expected: &str) {
        let mut batcher = Batcher::new(Limits { batch_tokens_max: budget, quantum_tokens: quantum });
        for word in queued.split_whitespace() {
            let (who, tokens) = word.split_once(':').unwrap();
            let (flow, caller) = who.split_once('.').unwrap_or((who, "0"));
            batcher.push(flow, caller.parse().unwrap(), [(tokens.parse().unwrap(), word)]);
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
    fn callers_of_a_flow_take_turns_item_by_item() {
        check(100, 100, "a.1:5 a.1:5 a.1:5 a.2:1 a.3:2 a.3:2", "a.1:5 a.2:1 a.3:2 a.1:5 a.3:2 a.1:5");
        check(10, 10, "a.1:8 a.1:8 a.2:2 b:1", "a.1:8 a.2:2 | b:1 a.1:8");
    }

    #[test]
    fn a_flow_that_comes_anew_is_served_first_and_at_most_twice_a_round() {
        let mut batcher = Batcher::new(Limits { batch_tokens_max: 4, quantum_tokens: 4 });
        let push = |batcher: &mut Batcher<_, _>, flow, count| batcher.push(flow, 0, (0..count).map(|_| (4, flow)));
        push(&mut batcher, "busy", 9);
        push(&mut batcher, "eager", 9);
        let mut order = [batcher.pick(|_| true), batcher.pick(|_| true)].concat();
        for _ in 0..4 {
            push(&mut batcher, "new", 1);
            order.extend([batcher.pick(|_| true), batcher.pick(|_| true)].concat());
        }
        assert_eq!(order.join(" "), "busy eager new busy eager new new busy eager new");
    }

    #[test]
    fn a_fresh_flow_shares_its_batch_with_no_more_than_a_quantum_of_those_that_were_waiting() {
        let mut batcher = Batcher::new(Limits { batch_tokens_max: 20, quantum_tokens: 5 });
        let push = |batcher: &mut Batcher<_, _>, flow, count| batcher.push(flow, 0, (0..count).map(|_| (2, flow)));
        push(&mut batcher, "busy", 20);
        assert_eq!(batcher.pick(|_| true).len(), 10, "alone it fills a batch");
        push(&mut batcher, "new", 1);
        assert_eq!(batcher.pick(|_| true), ["new", "busy", "busy"]);
        assert_eq!(batcher.pick(|_| true).len(), 8, "the rest");
    }

    #[test]
    fn what_nobody_waits_for_costs_no_room() {
        let mut batcher = Batcher::new(Limits { batch_tokens_max: 4, quantum_tokens: 4 });
        batcher.push("a", 0, [(4, "gone"), (4, "kept"), (4, "gone")]);
        batcher.push("b", 0, [(4, "gone")]);
        assert_eq!(batcher.pick(|item| *item == "kept"), ["kept"]);
        assert!(batcher.is_empty());
        assert!(batcher.pick(|_| true).is_empty());
    }

    /// The sentence at the head of this file.
    fn batches_until_picked(flows: usize, tokens: usize, longest: usize, limits: Limits) -> usize {
        let Limits { batch_tokens_max, quantum_tokens } = limits;
        let before = (flows - 1) * (2 * tokens.div_ceil(quantum_tokens) * quantum_tokens + longest);
        2 * (before / (batch_tokens_max + 1)) + 2 + (flows - 1) * tokens.div_ceil(quantum_tokens)
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
                    batcher.push(flow, 0, (0..200).map(|i| sizes[i % sizes.len()]).map(|tokens| (tokens, (flow, tokens))));
                }
            };
            refill(&mut batcher);
            (0..warm_up).for_each(|_| drop(batcher.pick(|_| true)));
            refill(&mut batcher);
            batcher.push(usize::MAX, 0, [(cold, (usize::MAX, cold))]);
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
                batcher.push(flow, 0, (0..2000).map(|_| (tokens, (flow, tokens))));
            }
            for (flow, tokens) in (0..batches).flat_map(|_| batcher.pick(|_| true)) {
                sent[flow] += tokens;
            }
            let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
            prop_assert!(most - least <= 2 * (16 + 16), "{sent:?}");
        }

        /// Each caller's items leave in the order they came, and none is lost.
        #[test]
        fn each_caller_stays_in_order(items in prop::collection::vec((0_u8..5, 0_u64..3, 1_usize..=20), 0..80)) {
            let mut batcher = Batcher::new(Limits { batch_tokens_max: 40, quantum_tokens: 10 });
            for (at, &(flow, caller, tokens)) in items.iter().enumerate() {
                batcher.push(flow, caller, [(tokens, at)]);
            }
            let mut picked = Vec::new();
            while !batcher.is_empty() {
                picked.extend(batcher.pick(|_| true));
            }
            for (flow, caller) in (0..5).flat_map(|flow| (0..3).map(move |caller| (flow, caller))) {
                let own = |order: &[usize]| -> Vec<usize> {
                    order.iter().copied().filter(|&at| (items[at].0, items[at].1) == (flow, caller)).collect()
                };
                prop_assert_eq!(own(&picked), own(&(0..items.len()).collect::<Vec<_>>()));
            }
        }
    }
}

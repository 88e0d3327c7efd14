//! Shares of the queue, and those who wait for one. Pure: a waiter is whatever the caller of this file wakes.
//!
//! Who waits takes turns: flows after each other, and in a flow its callers after each other, each in the order of its own items.
//! A caller that its share keeps out does not hold up the others.
//!
//! **Nobody waits for ever.** A flow that holds nothing is always granted its next item. And while a flow's items are admitted past
//! its first waiter, they are counted: after [`PATIENCE`] times what the waiter wants, it is granted whatever its share says. That
//! is beyond the share by at most one item a flow.

use std::collections::VecDeque;
use std::hash::Hash;

use crate::serving::admission::shares::Shares;
use crate::serving::flow::CallerId;

/// How many times its own tokens the first waiter of a flow sees admitted before it, at most.
const PATIENCE: usize = 4;

/// Callers of one flow that are looked at after each release; the others come nearer with every turn.
const CALLERS_LOOKED_AT_MAX: usize = 256;

pub(super) struct Ledger<F, W> {
    shares: Shares<F>,
    /// None is empty.
    waiting: VecDeque<WaitingFlow<F, W>>,
}

struct WaitingFlow<F, W> {
    flow: F,
    callers: VecDeque<WaitingCaller<W>>,
    /// Tokens of the flow that were admitted since its first waiter became the first.
    passed: usize,
}

struct WaitingCaller<W> {
    caller: CallerId,
    items: VecDeque<(usize, W)>,
}

/// What became of waiters.
pub(super) struct Turns<W> {
    /// These hold their tokens now.
    pub(super) granted: Vec<(usize, W)>,
    /// These had given up.
    pub(super) gone: Vec<W>,
}

impl<F: Clone + Eq + Hash, W> Ledger<F, W> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { shares: Shares::new(capacity), waiting: VecDeque::new() }
    }

    pub(super) fn shares(&self) -> &Shares<F> {
        &self.shares
    }

    /// Takes `tokens` for a caller that comes for the first time; false if its flow's share is full.
    pub(super) fn try_enter(&mut self, flow: &F, caller: CallerId, tokens: usize) -> bool {
        let admitted = self.shares.admits(flow, tokens);
        if admitted {
            self.take(flow, caller, tokens);
        }
        admitted
    }

    /// Takes `tokens` more for a caller; false if its share is full or others of its flow wait already.
    pub(super) fn try_extend(&mut self, flow: &F, caller: CallerId, tokens: usize) -> bool {
        let is_free = !self.waiting.iter().any(|waiting| waiting.flow == *flow);
        let admitted = is_free && self.shares.extends(flow, caller, tokens);
        if admitted {
            self.take(flow, caller, tokens);
        }
        admitted
    }

    /// Puts a waiter behind the others of its caller. [`Self::turns`] says when it holds its tokens.
    pub(super) fn wait(&mut self, flow: &F, caller: CallerId, tokens: usize, waiter: W) {
        let at = self.waiting.iter().position(|waiting| waiting.flow == *flow).unwrap_or(self.waiting.len());
        if at == self.waiting.len() {
            self.waiting.push_back(WaitingFlow { flow: flow.clone(), callers: VecDeque::new(), passed: 0 });
        }
        let callers = &mut self.waiting[at].callers;
        match callers.iter_mut().find(|waiting| waiting.caller == caller) {
            Some(waiting) => waiting.items.push_back((tokens, waiter)),
            None => callers.push_back(WaitingCaller { caller, items: VecDeque::from([(tokens, waiter)]) }),
        }
    }

    pub(super) fn give_back(&mut self, flow: &F, caller: CallerId, tokens: usize) {
        self.shares.give_back(flow, caller, tokens);
    }

    /// Grants what may be granted now.
    pub(super) fn turns(&mut self, is_gone: impl Fn(&W) -> bool) -> Turns<W> {
        let mut turns = Turns { granted: Vec::new(), gone: Vec::new() };
        for _ in 0..self.waiting.len() {
            let Some(mut flow) = self.waiting.pop_front() else { break };
            flow.turns(&mut self.shares, &is_gone, &mut turns);
            if !flow.callers.is_empty() {
                self.waiting.push_back(flow);
            }
        }
        // The next time another flow is asked first.
        if let Some(first) = self.waiting.pop_front() {
            self.waiting.push_back(first);
        }
        turns
    }

    /// Takes `tokens` whatever the shares say: what was taken by a guess has been counted.
    pub(super) fn take(&mut self, flow: &F, caller: CallerId, tokens: usize) {
        self.shares.take(flow, caller, tokens);
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.flow == *flow) {
            waiting.passed += tokens;
        }
    }
}

impl<F: Clone + Eq + Hash, W> WaitingFlow<F, W> {
    fn turns(&mut self, shares: &mut Shares<F>, is_gone: &impl Fn(&W) -> bool, turns: &mut Turns<W>) {
        let mut at = 0;
        while at < self.callers.len().min(CALLERS_LOOKED_AT_MAX) {
            let waiting = &mut self.callers[at];
            while let Some((_, gone)) = waiting.items.pop_front_if(|(_, waiter)| is_gone(waiter)) {
                turns.gone.push(gone);
            }
            let Some(&(tokens, _)) = waiting.items.front() else {
                self.callers.remove(at);
                continue;
            };
            let is_due = at == 0 && self.passed >= PATIENCE * tokens;
            if !is_due && !shares.extends(&self.flow, waiting.caller, tokens) {
                at += 1;
                continue;
            }
            shares.take(&self.flow, waiting.caller, tokens);
            turns.granted.extend(waiting.items.pop_front());
            self.passed = if at == 0 { 0 } else { self.passed + tokens };
            self.callers.remove(at).into_iter().for_each(|caller| self.callers.push_back(caller));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Words = Ledger<&'static str, &'static str>;

    fn granted(ledger: &mut Words) -> String {
        ledger
            .turns(|waiter| waiter.starts_with("gone"))
            .granted
            .iter()
            .map(|(_, name)| *name)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn waiters_take_turns_by_flow_and_in_a_flow_by_caller() {
        let mut ledger = Words::new(100);
        assert!(ledger.try_enter(&"a", 0, 60));
        assert!(ledger.try_enter(&"b", 9, 30));
        for (flow, caller, name) in
            [("a", 1, "a1"), ("a", 1, "a1'"), ("a", 1, "gone"), ("a", 2, "a2"), ("b", 3, "b3"), ("b", 4, "b4")]
        {
            ledger.wait(&flow, caller, 20, name);
        }
        assert_eq!(granted(&mut ledger), "", "all is taken");
        ledger.give_back(&"a", 0, 60);
        ledger.give_back(&"b", 9, 30);
        assert_eq!(granted(&mut ledger), "b3 b4 a1 a2", "b's turn is first now, and what a1 holds keeps a1' out");
        ledger.give_back(&"a", 1, 20);
        ledger.give_back(&"a", 2, 20);
        assert_eq!(granted(&mut ledger), "a1'");
        ledger.give_back(&"b", 3, 20);
        assert_eq!(granted(&mut ledger), "");
        assert!(ledger.waiting.is_empty());
    }

    #[test]
    fn a_waiter_too_large_for_its_share_gets_in_after_four_times_its_tokens() {
        let mut ledger = Words::new(120);
        assert!(ledger.try_enter(&"a", 0, 10));
        assert!(ledger.try_enter(&"b", 5, 80));
        ledger.wait(&"a", 1, 40, "large");
        assert_eq!(granted(&mut ledger), "", "b holds too much");
        let mut admitted = 0;
        while granted(&mut ledger).is_empty() {
            assert!(ledger.try_enter(&"a", 2, 10), "small ones pass");
            ledger.give_back(&"a", 2, 10);
            admitted += 10;
        }
        assert_eq!(admitted, 160);
    }

    proptest! {
        /// Whoever waits is granted in the end, however the others come and go.
        #[test]
        fn everybody_is_served(
            items in prop::collection::vec((0_u8..4, 0_u64..5, 1_usize..90), 1..120), capacity in 1_usize..200,
        ) {
            let mut ledger = Ledger::new(capacity);
            let mut working = VecDeque::new();
            for &(flow, caller, tokens) in &items {
                ledger.wait(&flow, caller, tokens, (flow, caller));
            }
            let mut served = 0;
            loop {
                working.extend(ledger.turns(|_| false).granted);
                let Some((tokens, (flow, caller))) = working.pop_front() else { break };
                ledger.give_back(&flow, caller, tokens);
                served += 1;
            }
            prop_assert_eq!(served, items.len());
            prop_assert_eq!(ledger.shares().held(), 0);
        }
    }
}

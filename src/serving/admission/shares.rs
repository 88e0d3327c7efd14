//! How much of one bounded resource each flow and each caller may hold. Pure numbers: no clock, no lock, no channel.
//!
//! Dynamic thresholds (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998), nested
//! twice. A flow may hold at most [`FLOW_WEIGHT`] times what is free, so `n` greedy flows come to rest at equal shares of
//! `W·C / (1 + W·n)` each, and `C / (1 + W·n)` stays free for whoever comes next: nobody is told a share, and no share lies
//! idle because its owner is away. Inside a flow, a caller that holds something, or that has held something before, may take
//! more only while at least as much as it would then hold stays free in its flow.
//!
//! **The guarantee.** A flow that holds nothing is always admitted, even beyond the capacity. What is held is therefore at most
//! the capacity, and one item of each flow.

use std::collections::HashMap;
use std::hash::Hash;

use crate::serving::flow::CallerId;

/// A flow may hold this many times what is free: two thirds of all for a lone flow, two fifths for each of two.
const FLOW_WEIGHT: usize = 2;

/// The amounts that flows and their callers hold.
pub(super) struct Shares<F> {
    capacity: usize,
    held: usize,
    flows: HashMap<F, FlowShare>,
}

#[derive(Default)]
struct FlowShare {
    held: usize,
    callers: HashMap<CallerId, usize>,
}

impl<F: Clone + Eq + Hash> Shares<F> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, held: 0, flows: HashMap::new() }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Whether a caller that comes for the first time may hold `amount`.
    pub(super) fn admits(&self, flow: &F, amount: usize) -> bool {
        self.held_by(flow) == 0 || amount <= self.room(flow)
    }

    /// Whether a caller may hold `amount` more. One that holds something must leave as much open as it then holds, to whoever comes
    /// next to its flow.
    pub(super) fn extends(&self, flow: &F, caller: CallerId, amount: usize) -> bool {
        let (held, own) = (self.held_by(flow), self.held_by_caller(flow, caller));
        if held == 0 || own == 0 {
            return self.admits(flow, amount);
        }
        own + amount <= room(self.free().saturating_sub(amount), held + amount)
    }

    pub(super) fn take(&mut self, flow: &F, caller: CallerId, amount: usize) {
        self.held += amount;
        let share = self.flows.entry(flow.clone()).or_default();
        share.held += amount;
        *share.callers.entry(caller).or_default() += amount;
    }

    pub(super) fn give_back(&mut self, flow: &F, caller: CallerId, amount: usize) {
        let Some(share) = self.flows.get_mut(flow) else { return };
        let Some(held) = share.callers.get_mut(&caller) else { return };
        debug_assert!(amount <= *held, "more is given back than was taken");
        let amount = amount.min(*held);
        *held -= amount;
        share.held -= amount;
        self.held -= amount;
        if *held == 0 {
            share.callers.remove(&caller);
        }
        if share.callers.is_empty() {
            self.flows.remove(flow);
        }
    }

    /// How much must be given back by `flow` until a new caller may hold `amount` there.
    pub(super) fn excess(&self, flow: &F, amount: usize) -> usize {
        let free = self.free();
        let over_threshold = (self.held_by(flow) + amount).saturating_sub(FLOW_WEIGHT * free);
        over_threshold.div_ceil(1 + FLOW_WEIGHT).max(amount.saturating_sub(free))
    }

    /// At least this much is served before `amount` more of a new caller in `flow` has been, if each flow, and each caller
    /// in a flow, gets an equal share of the service: its own, and of the others what they hold, up to as much as itself.
    pub(super) fn served_before(&self, flow: &F, amount: usize) -> usize {
        let callers = |share: &FlowShare| share.callers.values().map(|&held| held.min(amount)).sum::<usize>();
        let own = amount + self.flows.get(flow).map_or(0, callers);
        let others = self.flows.iter().filter(|(other, _)| *other != flow);
        own + others.map(|(_, share)| share.held.min(own)).sum::<usize>()
    }

    fn free(&self) -> usize {
        self.capacity.saturating_sub(self.held)
    }

    fn room(&self, flow: &F) -> usize {
        room(self.free(), self.held_by(flow))
    }

    fn held_by(&self, flow: &F) -> usize {
        self.flows.get(flow).map_or(0, |share| share.held)
    }

    fn held_by_caller(&self, flow: &F, caller: CallerId) -> usize {
        self.flows.get(flow).and_then(|share| share.callers.get(&caller)).copied().unwrap_or(0)
    }
}

/// What a flow that holds `held` may take beyond it, of `free`.
fn room(free: usize, held: usize) -> usize {
    (FLOW_WEIGHT * free).saturating_sub(held).min(free)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `flows` that take single units, each by one caller after the other, come to hold.
    fn greedy(capacity: usize, flows: usize) -> Vec<usize> {
        let mut shares = Shares::new(capacity);
        let mut held = vec![0; flows];
        loop {
            let before = shares.held();
            for (flow, held) in held.iter_mut().enumerate() {
                if shares.admits(&flow, 1) {
                    shares.take(&flow, *held as CallerId, 1);
                    *held += 1;
                }
            }
            if shares.held() == before {
                return held;
            }
        }
    }

    #[test]
    fn greedy_flows_come_to_rest_at_equal_shares_and_leave_one_free() {
        assert_eq!(greedy(1500, 1), [1000]);
        assert_eq!(greedy(1500, 2), [600, 600]);
        assert_eq!(greedy(1400, 3), [400, 400, 400]);
    }

    #[test]
    fn a_flow_with_nothing_held_is_admitted_even_when_all_is_taken() {
        let mut shares = Shares::new(100);
        shares.take(&"hog", 0, 100);
        assert!(!shares.admits(&"hog", 1));
        assert!(shares.admits(&"cold", 500));
        shares.take(&"cold", 1, 500);
        assert!(!shares.admits(&"cold", 1));
    }

    #[test]
    fn a_caller_that_goes_on_leaves_as_much_as_it_holds_for_the_next_of_its_flow() {
        let mut shares = Shares::new(1600);
        let mut taken = 0;
        while shares.extends(&"flow", 0, 100) {
            shares.take(&"flow", 0, 100);
            taken += 100;
        }
        assert_eq!(taken, 800);
        assert!(shares.admits(&"flow", 800), "as much as the first holds");
        assert!(!shares.admits(&"flow", 801));
    }

    #[test]
    fn two_callers_that_go_on_leave_room_for_a_third_whoever_is_quicker() {
        for order in [[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1], [1, 1, 0, 1]] {
            let mut shares = Shares::new(1536);
            // each takes a window when it is its turn, if it may
            for caller in order.into_iter().cycle().take(100).chain([0, 1].into_iter().cycle().take(50)) {
                if shares.extends(&"flow", caller, 128) {
                    shares.take(&"flow", caller, 128);
                }
            }
            assert!(shares.admits(&"flow", 128), "{order:?}: {} of {} are held", shares.held(), shares.capacity());
        }
    }

    #[test]
    fn what_must_be_given_back_is_what_opens_the_door() {
        let mut shares = Shares::new(300);
        for caller in 0..200 {
            shares.take(&"flow", caller, 1);
        }
        for amount in [1, 10, 50, 100, 101, 150] {
            let mut later = Shares::new(300);
            later.take(&"flow", 0, 200 - shares.excess(&"flow", amount));
            assert!(later.admits(&"flow", amount), "{amount}");
        }
    }

    #[test]
    fn a_short_request_waits_for_the_like_of_itself_and_not_for_the_whole_of_a_long_one() {
        let mut backlog = Shares::new(1_000_000);
        backlog.take(&"long", 0, 60_000);
        backlog.take(&"mine", 1, 60_000);
        assert_eq!(backlog.served_before(&"mine", 10), 10 + 10 + 20);
        assert_eq!(backlog.served_before(&"other", 10), 10 + 10 + 10);
        assert_eq!(backlog.served_before(&"mine", 100_000), 100_000 + 60_000 + 60_000);
    }

    proptest! {
        /// Whatever comes and goes: no more is held than the capacity and one item a flow, and nothing is left in the end.
        #[test]
        fn what_is_held_is_bounded_and_all_of_it_comes_back(
            steps in prop::collection::vec((0_u8..6, 0_u64..8, 1_usize..60, any::<bool>()), 1..300),
        ) {
            let mut shares = Shares::new(200);
            let mut taken = Vec::new();
            for (flow, caller, amount, comes) in steps {
                if comes && shares.extends(&flow, caller, amount) {
                    shares.take(&flow, caller, amount);
                    taken.push((flow, caller, amount));
                } else if let Some((flow, caller, amount)) = taken.pop() {
                    shares.give_back(&flow, caller, amount);
                }
                prop_assert!(shares.held() <= 200 + 6 * 60);
            }
            for (flow, caller, amount) in taken {
                shares.give_back(&flow, caller, amount);
            }
            prop_assert_eq!((shares.held(), shares.flows.len()), (0, 0));
        }
    }
}

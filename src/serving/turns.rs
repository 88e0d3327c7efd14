//! Turns on a few threads, shared fairly by flow and caller as the queue is. For work that comes before the queue: tokenization.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::domain::{Error, Result};
use crate::serving::batcher::{Batcher, Limits};
use crate::serving::flow::{Caller, Flow};

/// At most so many hold a turn at once; who waits is served by deficit round robin over the costs.
pub(super) struct Turns(Mutex<State>);

struct State {
    free: usize,
    waiting: Batcher<Flow, oneshot::Sender<Turn>>,
}

/// The right to work; `Drop` hands it on.
pub(super) struct Turn(Option<Arc<Turns>>);

impl Turns {
    /// `quantum`: the cost that a flow may spend in one turn of the round.
    pub(super) fn new(turns: usize, quantum: usize) -> Arc<Self> {
        // One at a time is picked: whatever it costs, it goes alone.
        let limits = Limits { batch_tokens_max: 1, quantum_tokens: quantum };
        Arc::new(Self(Mutex::new(State { free: turns.max(1), waiting: Batcher::new(limits) })))
    }

    /// Waits for a turn to do work of `cost` for one caller of a flow.
    pub(super) async fn take(self: &Arc<Self>, flow: &Flow, caller: Caller, cost: usize) -> Result<Turn> {
        let waiting = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Turn(Some(self.clone())));
            }
            let (turn, waiting) = oneshot::channel();
            state.waiting.push(flow.clone(), caller.id(), [(cost.max(1), turn)]);
            waiting
        };
        waiting.await.map_err(|_dropped| Error::unavailable("the server is stopping"))
    }

    /// Gives the turn to the next who still waits for one.
    fn hand_on(self: Arc<Self>) {
        let mut turn = Turn(Some(self.clone()));
        loop {
            let next = {
                let mut state = self.state();
                let next = state.waiting.pick(|waiting| !waiting.is_closed()).pop();
                if next.is_none() {
                    state.free += 1;
                    turn.0 = None;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(turn) {
                Ok(()) => return,
                Err(given_up) => turn = given_up,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Turns::hand_on);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(name: &str) -> Flow {
        Flow::Adapter(name.parse().unwrap())
    }

    #[tokio::test]
    async fn a_flow_with_much_to_do_does_not_hold_up_another_and_who_gives_up_costs_no_turn() {
        let turns = Turns::new(1, 10);
        let held = turns.take(&flow("busy"), Caller::single(), 10).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let busy = Caller::single();
        let work = |name: &'static str, caller: Caller, cost| {
            let (turns, order) = (turns.clone(), order.clone());
            async move {
                let _turn = turns.take(&flow(name), caller, cost).await.unwrap();
                order.lock().unwrap().push(name);
            }
        };
        let given_up =
            tokio::time::timeout(std::time::Duration::from_millis(1), work("gone", Caller::single(), 1)).await;
        assert!(given_up.is_err());
        tokio::join!(
            work("busy", busy, 10),
            work("busy", busy, 10),
            work("busy", busy, 10),
            work("short", Caller::single(), 1),
            async {
                tokio::task::yield_now().await;
                drop(held);
            }
        );
        assert_eq!(*order.lock().unwrap(), ["busy", "short", "busy", "busy"]);
        assert_eq!(turns.state().free, 1);
    }
}

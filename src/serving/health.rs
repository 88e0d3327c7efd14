//! Alive, ready, draining: one truth for `/readyz`, gRPC health and the metric.

use tokio::sync::watch;

/// What the probes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthState {
    engine_answers: bool,
    draining: bool,
}

impl HealthState {
    pub fn is_ready(self) -> bool {
        self.engine_answers && !self.draining
    }

    pub fn is_draining(self) -> bool {
        self.draining
    }
}

/// Shared by the watchdog (a tiny forward pass off the queue), the drain and the probes.
#[derive(Debug, Default)]
pub struct Health {
    state: watch::Sender<HealthState>,
}

impl Health {
    pub fn set_engine_answers(&self, answers: bool) {
        self.change(|state| state.engine_answers = answers);
    }

    pub fn start_draining(&self) {
        self.change(|state| state.draining = true);
    }

    pub fn is_draining(&self) -> bool {
        self.state.borrow().is_draining()
    }

    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// For those who must act when the state changes; woken by changes alone, not by every probe.
    pub fn watch(&self) -> watch::Receiver<HealthState> {
        self.state.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut HealthState)) {
        self.state.send_if_modified(|state| {
            let before = *state;
            change(state);
            *state != before
        });
    }
}

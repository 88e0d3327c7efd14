//! Alive, ready, draining: one truth for `/readyz`, gRPC health and the metric.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by the watchdog (a tiny forward pass off the queue), the drain and the probes.
#[derive(Debug, Default)]
pub struct Health {
    engine_answers: AtomicBool,
    draining: AtomicBool,
}

impl Health {
    pub fn set_engine_answers(&self, answers: bool) {
        self.engine_answers.store(answers, Ordering::Release);
    }

    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub fn is_ready(&self) -> bool {
        self.engine_answers.load(Ordering::Acquire) && !self.is_draining()
    }
}

//! The threads that own the device, and the cloneable async handle to them.

use std::sync::Arc;

use crate::domain::Result;
use crate::engine::{Batch, BatchOutput};
use crate::model::Encoder;

#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Forward passes that run at once, one thread each.
    pub threads: usize,
}

/// Handle to the engine; clones share it.
#[derive(Clone)]
pub struct Engine {
    encoder: Arc<Encoder>,
}

impl Engine {
    pub fn start(encoder: Arc<Encoder>, config: &EngineConfig) -> Result<Self> {
        let _ = config;
        Ok(Self { encoder })
    }

    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// Runs one batch on a free thread; waits for one if all are busy. `unavailable` once the engine is lost.
    pub async fn run(&self, batch: Batch) -> Result<BatchOutput> {
        let _ = batch;
        todo!()
    }

    /// A free worker's permit can be awaited before a batch is picked, so that the pick is as late as possible.
    pub async fn ready(&self) {
        todo!()
    }
}

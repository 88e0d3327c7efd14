//! Who shares what: the flows of the fair queue, and the callers inside each.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::AdapterName;

/// What has one share of the queue. Flows compete with each other; callers compete inside their flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Flow {
    /// All versions of an adapter: publishing more of them wins no larger share.
    Adapter(AdapterName),
    /// Texts through many adapters at once.
    Analyze,
    /// Embeddings of the base model.
    Base,
}

/// Tells callers apart; never used twice in one process.
pub(super) type CallerId = u64;

/// One request, or one stream of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    id: CallerId,
    waits: bool,
}

impl Caller {
    /// A single request: it is refused at once when its flow's share of the queue is full.
    pub fn single() -> Self {
        Self { id: next_id(), waits: false }
    }

    /// A stream: its messages wait for room, and all of them together are one caller.
    pub fn stream() -> Self {
        Self { id: next_id(), waits: true }
    }

    pub(super) fn id(self) -> CallerId {
        self.id
    }

    /// Whether it waits for room rather than be refused.
    pub(super) fn waits(self) -> bool {
        self.waits
    }
}

fn next_id() -> CallerId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

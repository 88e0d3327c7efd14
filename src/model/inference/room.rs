//! The memory a pass works in: one for each thread, kept from pass to pass, so that little is allocated on the way.

use std::any::Any;
use std::cell::RefCell;

use crate::model::kernels::packed::{Isa, Number};

thread_local! {
    static ROOM: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// Buffers of one chunk; each grows to the longest chunk so far, which the backbone's longest sequence bounds.
pub(super) struct Room<I: Isa> {
    /// What the next product reads, (tokens, width).
    pub(super) operand: Vec<I::Number>,
    /// (tokens, 3 · width)
    pub(super) qkv: Vec<I::Number>,
    /// Attention's result, (tokens, width).
    pub(super) mixed: Vec<I::Number>,
    /// The feed-forward block's inside, (tokens, intermediate).
    pub(super) wide: Vec<I::Number>,
    /// Numbers before they are rounded, where a step stands between.
    pub(super) floats: Vec<f32>,
    /// Of low-rank updates, x·Aᵀ.
    pub(super) ranks: Vec<I::Number>,
}

impl<I: Isa> Room<I> {
    /// Calls `work` with this thread's room.
    pub(super) fn with(work: impl FnOnce(&mut Self)) {
        // Taken out meanwhile: should `work` come here again, it gets a room of its own.
        let kept = ROOM.with_borrow_mut(Option::take).and_then(|room| room.downcast::<Self>().ok());
        let mut room = kept.unwrap_or_default();
        work(&mut room);
        ROOM.set(Some(room));
    }
}

impl<I: Isa> Default for Room<I> {
    fn default() -> Self {
        Self {
            operand: Vec::new(),
            qkv: Vec::new(),
            mixed: Vec::new(),
            wide: Vec::new(),
            floats: Vec::new(),
            ranks: Vec::new(),
        }
    }
}

/// The first `len` numbers of `buffer`, whatever they are.
pub(super) fn sized<N: Number>(buffer: &mut Vec<N>, len: usize) -> &mut [N] {
    if buffer.len() < len {
        buffer.resize(len, N::ZERO);
    }
    &mut buffer[..len]
}

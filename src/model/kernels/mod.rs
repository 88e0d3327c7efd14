//! Arithmetic on plain slices, and the only `unsafe` of the package. Knows no tensors.

mod threads;

pub use threads::single_threaded_pools;

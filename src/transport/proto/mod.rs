//! Messages and service traits of `proto/trunkline/v1`, generated and committed: `UPDATE=1 cargo test --test it contract` writes them.

#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]
#[rustfmt::skip]
mod v1;

pub use v1::*;

/// The compiled `.proto` files, for reflection and for the list of methods.
pub const DESCRIPTOR: &[u8] = include_bytes!("descriptor.bin");

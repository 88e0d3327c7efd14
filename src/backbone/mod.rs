//! Backbones on disk: where they come from, that they are what they claim to be, and their fingerprint. Leaves the network to `model`.

mod cache;
mod derived;
mod difference;
mod files;
mod hub;
mod known;
mod name;
mod package;
mod receipt;
mod sentence;
mod sources;

pub use cache::{BackboneCache, BackboneInfo, BackboneName, FetchProgress};
pub use derived::derive;
pub use difference::pack;
pub use known::{KnownBackbone, Package};
pub use sentence::embedded_tokens_max;
pub use sources::{Hub, Sources};

//! Backbones on disk: where they come from, that they are what they claim to be, and their fingerprint. Leaves the network to `model`.

mod cache;

pub use cache::{BackboneCache, BackboneInfo, BackboneName, FetchProgress};

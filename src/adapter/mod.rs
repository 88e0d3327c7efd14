//! Adapters on disk: PEFT's file format, validation against the backbone, immutable versions. Leaves residency to `engine`.

mod archive;
mod bundle;
mod manifest;
mod store;

pub use archive::{read_archive, write_tar};
pub use bundle::{AdapterBundle, AdapterFiles};
pub use manifest::{AdapterCard, LoraConfig};
pub use store::{AdapterEntry, AdapterStore, VersionEntry};

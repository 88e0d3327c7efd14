//! Adapters on disk: PEFT's file format, validation against the backbone, immutable versions. Leaves residency to `engine`.

mod archive;
mod base_model;
mod bundle;
mod card;
mod claims;
mod config;
mod files;
mod fresh;
mod heads;
mod model_config;
mod names;
mod pooler;
mod store;
mod targets;
mod upload;
mod weights;

pub use archive::{archive_of, read_archive, write_tar};
pub use bundle::AdapterBundle;
pub use card::AdapterCard;
pub use config::{LoraConfig, TargetModules};
pub use files::AdapterFiles;
pub use store::{AdapterEntry, AdapterStore, Unreadable, VersionEntry};
pub use upload::{Carded, MadeFor, Upload};

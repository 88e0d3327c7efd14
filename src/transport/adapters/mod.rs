//! Adapters: list and inspect for everyone, publish, promote and retire for admins.

mod grpc;
pub(super) mod http;
mod multipart;
mod wire;

pub(super) use grpc::{activate, delete, download, list, load, pin, publish, unload, unpin};

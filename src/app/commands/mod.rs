//! One file (or folder) a command: its flags, and what it does with the layers below.

pub(super) mod adapters;
pub(super) mod backbone;
pub(super) mod bench;
pub(super) mod datasets;
pub(super) mod evaluate;
pub(super) mod openapi;
pub(super) mod predict;
pub(super) mod serve;
pub(super) mod store;
pub(super) mod study;
pub(super) mod train;

use std::io::Write;
use std::path::Path;

use crate::domain::{Error, Result};

/// Prints `text` as it is; a reader that went away (`| head`) is not a failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::from),
    }
}

/// A file's bytes, or which file cannot be read.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

/// `value` as indented JSON and a newline.
fn json(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::internal(e.to_string()).with_source(e))?;
    Ok(text + "\n")
}

//! PEFT folders as `.tar` and `.tar.gz`: read with every path and size checked, written reproducibly.

use crate::adapter::AdapterFiles;
use crate::domain::Result;

/// Reads an upload. Only the three known files are kept; a path escape, a link, a file past the limit or a decompression bomb is refused.
pub fn read_archive(bytes: &[u8]) -> Result<AdapterFiles> {
    let _ = bytes;
    todo!()
}

/// The folder as `.tar`.
pub fn write_tar(files: &AdapterFiles) -> Result<Vec<u8>> {
    let _ = files;
    todo!()
}

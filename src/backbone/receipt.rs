//! The small file beside a cached backbone that says what was fetched: a truncated or altered file shows against it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backbone::files::{FileDigest, Files};
use crate::disk::{failed, read as read_file};
use crate::domain::{Error, Result};

const FILE: &str = "trunkline-backbone.json";

/// The file in bytes: a dozen names and digests.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// As it is in the file.
#[derive(Serialize, Deserialize)]
struct Receipt {
    name: String,
    source: String,
    files: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// The backbone's name and files, as they were fetched into `folder`.
pub(super) fn read(folder: &Path) -> Result<(String, Files)> {
    let path = folder.join(FILE);
    let json = read_file(&path, FILE_BYTES_MAX).map_err(|e| failed(&path, e))?;
    let receipt: Receipt =
        serde_json::from_slice(&json).map_err(|e| Error::internal(format!("{} is no receipt: {e}", path.display())))?;
    let parse =
        |(name, entry): (String, Entry)| Ok((name, FileDigest { bytes: entry.bytes, sha256: entry.sha256.parse()? }));
    Ok((receipt.name, receipt.files.into_iter().map(parse).collect::<Result<_>>()?))
}

/// Writes the receipt through to the disk.
pub(super) fn write(folder: &Path, name: &str, source: &str, files: &Files) -> Result<()> {
    let entry = |(name, file): (&String, &FileDigest)| {
        (name.clone(), Entry { bytes: file.bytes, sha256: file.sha256.to_string() })
    };
    let receipt =
        Receipt { name: name.to_owned(), source: source.to_owned(), files: files.iter().map(entry).collect() };
    let json = serde_json::to_vec_pretty(&receipt).expect("strings and numbers always serialise");
    let mut file = fs::File::create(folder.join(FILE))?;
    file.write_all(&json)?;
    Ok(file.sync_all()?)
}

//! `dataset.json`, and how files come to be on disk whole or not at all.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::disk::read_if_there;
use crate::domain::{Cancel, Digest, Error, Result};
use crate::training::dataset::{DoctorReport, Split};

/// What a dataset is; replacing it by rename is what makes an upload visible.
pub(super) const MANIFEST: &str = "dataset.json";

/// The manifest in bytes: sixteen splits, each with the report of thousands of labels.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// Temporary files and folders begin so; no dataset or split may, and what is left of them is swept.
pub(super) const TEMPORARY: &str = ".tmp-";

/// zstd's default: labelled text shrinks to a quarter at the speed of the disk.
const ZSTD_LEVEL: i32 = 3;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) family: String,
    pub(super) splits: Vec<StoredSplit>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredSplit {
    pub(super) split: String,
    /// Beside the manifest: the canonical JSON lines, under zstd.
    pub(super) file: String,
    pub(super) rows: usize,
    /// Of the canonical JSON lines.
    pub(super) digest: String,
    pub(super) version: u32,
    pub(super) created_at: u64,
    pub(super) report: DoctorReport,
}

impl Manifest {
    /// None: no such dataset.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        let damaged = |why: &dyn std::fmt::Display| {
            let path = path.display();
            Error::unavailable(format!(
                "{path} is damaged: {why}; upload the dataset again after `trunkline store check --repair`"
            ))
        };
        match read_if_there(&path, MANIFEST_BYTES_MAX) {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).map(Some).map_err(|source| damaged(&source)),
            Ok(None) => Ok(None),
            Err(e) => Err(damaged(&e)),
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self)
            .map_err(|source| Error::internal("dataset.json cannot be written").with_source(source))?;
        write_whole(folder, MANIFEST, &bytes)
    }

    /// Puts `stored` in the place of the split of that name, or beside the others.
    pub(super) fn replace(&mut self, stored: StoredSplit) {
        self.splits.retain(|other| other.split != stored.split);
        self.splits.push(stored);
        self.splits.sort_by(|a, b| a.split.cmp(&b.split));
    }

    pub(super) fn find(&self, split: &str) -> Option<&StoredSplit> {
        self.splits.iter().find(|stored| stored.split == split)
    }
}

/// Writes `folder/name` so that a reader, a crash or a full disk sees the old file or the new one.
pub(super) fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = NamedTempFile::with_prefix_in(TEMPORARY, folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(name))?;
        sync_folder(folder)
    };
    write().map_err(storage_error)
}

/// A split's canonical lines under zstd, on the disk and not yet under a name; gone if it is dropped.
pub(super) struct Packed {
    file: NamedTempFile,
    /// Of the lines.
    pub(super) digest: String,
}

impl Packed {
    /// Writes the lines of `split` to a temporary file in `folder`; never has all of them in memory.
    pub(super) fn write(split: &Split, folder: &Path, cancel: &Cancel) -> Result<Self> {
        let file = NamedTempFile::with_prefix_in(TEMPORARY, folder).map_err(storage_error)?;
        let mut packer = zstd::Encoder::new(file, ZSTD_LEVEL).map_err(storage_error)?;
        let mut hash = Sha256::new();
        split.write_jsonl(cancel, |lines| {
            hash.update(lines);
            packer.write_all(lines).map_err(storage_error)
        })?;
        let file = packer.finish().map_err(storage_error)?;
        file.as_file().sync_all().map_err(storage_error)?;
        Ok(Self { file, digest: digest_of(hash) })
    }

    /// Gives the file its name; what had that name is replaced.
    pub(super) fn keep_as(self, folder: &Path, name: &str) -> Result<()> {
        self.file.persist(folder.join(name)).map_err(|e| storage_error(e.error))?;
        sync_folder(folder).map_err(storage_error)
    }
}

/// Of a split's canonical lines.
pub(super) fn digest(split: &Split, cancel: &Cancel) -> Result<String> {
    let mut hash = Sha256::new();
    split.write_jsonl(cancel, |lines| {
        hash.update(lines);
        Ok(())
    })?;
    Ok(digest_of(hash))
}

fn digest_of(hash: Sha256) -> String {
    Digest::from_sha256(&hash.finalize().into()).to_string()
}

/// A rename lasts once its folder is on the disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A full disk is for the operator to mend, and says so; anything else is unexpected.
pub(super) fn storage_error(source: io::Error) -> Error {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::unavailable(
            "no space left for datasets on the server's disk; nothing was stored: delete some, or make room in the state folder",
        )
        .with_source(source),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            Error::unavailable(format!("the dataset store cannot be written: {source}")).with_source(source)
        }
        _ => Error::from(source).context("the dataset store"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_unavailable_and_says_what_to_do() {
        for (kind, code) in [
            (ErrorKind::StorageFull, "unavailable"),
            (ErrorKind::QuotaExceeded, "unavailable"),
            (ErrorKind::ReadOnlyFilesystem, "unavailable"),
            (ErrorKind::PermissionDenied, "unavailable"),
            (ErrorKind::Other, "internal"),
        ] {
            assert_eq!(storage_error(kind.into()).kind().code(), code, "{kind}");
        }
        assert!(storage_error(ErrorKind::StorageFull.into()).message().starts_with("no space left"));
    }
}

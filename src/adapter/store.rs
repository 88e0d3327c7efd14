//! Immutable versions in a folder: publish whole or not at all, activate, roll back, retire. Publishing replaces one small file by rename.

use std::path::{Path, PathBuf};

use crate::adapter::AdapterFiles;
use crate::domain::{AdapterName, Alias, Digest, Result};

/// One version on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionEntry {
    pub version: u32,
    pub digest: Digest,
    /// Seconds since 1970.
    pub created_at: u64,
    pub bytes: u64,
}

/// One adapter on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterEntry {
    pub name: AdapterName,
    pub active: Option<u32>,
    pub pinned: bool,
    /// Ascending.
    pub versions: Vec<VersionEntry>,
}

/// A folder of adapters. All methods block; each is atomic on disk and durable when it returns.
#[derive(Debug)]
pub struct AdapterStore {
    root: PathBuf,
}

impl AdapterStore {
    /// Opens `root` (created if missing) and sweeps what interrupted publications left.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { root: root.to_owned() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// By name. A folder that cannot be read is skipped and named in the second list.
    pub fn list(&self) -> Result<(Vec<AdapterEntry>, Vec<String>)> {
        todo!()
    }

    pub fn get(&self, name: &AdapterName) -> Result<AdapterEntry> {
        let _ = name;
        todo!()
    }

    /// Version n + 1, where n is the highest ever given to this name, also to versions since retired.
    pub fn publish(
        &self,
        name: &AdapterName,
        files: &AdapterFiles,
        created_at: u64,
        activate: bool,
    ) -> Result<VersionEntry> {
        let _ = (name, files, created_at, activate);
        todo!()
    }

    /// The files of a version, checked against its digest.
    pub fn read(&self, name: &AdapterName, version: u32) -> Result<AdapterFiles> {
        let _ = (name, version);
        todo!()
    }

    pub fn activate(&self, name: &AdapterName, version: u32) -> Result<()> {
        let _ = (name, version);
        todo!()
    }

    /// Removes a version, or all of them. The active version goes only with all.
    pub fn retire(&self, name: &AdapterName, version: Option<u32>) -> Result<()> {
        let _ = (name, version);
        todo!()
    }

    pub fn set_pinned(&self, name: &AdapterName, pinned: bool) -> Result<()> {
        let _ = (name, pinned);
        todo!()
    }

    pub fn aliases(&self) -> Result<Vec<(AdapterName, Alias)>> {
        todo!()
    }

    /// None removes it.
    pub fn set_alias(&self, alias: &AdapterName, value: Option<&Alias>) -> Result<()> {
        let _ = (alias, value);
        todo!()
    }
}

//! Named, validated, versioned training data on disk: one folder a dataset, one file a split, replaced by rename.

use std::path::PathBuf;

use crate::domain::{DataRef, Result};
use crate::training::dataset::{DatasetFamily, DoctorReport, Split};

#[derive(Clone, Debug, PartialEq)]
pub struct SplitInfo {
    pub split: String,
    pub rows: usize,
    pub digest: String,
    /// Counts this split's uploads, from 1.
    pub version: u32,
    /// Seconds since 1970.
    pub created_at: u64,
    pub report: DoctorReport,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DatasetInfo {
    pub name: String,
    pub family: DatasetFamily,
    pub splits: Vec<SplitInfo>,
}

/// Blocking inside; the async callers go through `spawn_blocking`.
#[derive(Debug)]
pub struct DatasetService {
    root: PathBuf,
}

impl DatasetService {
    pub fn open(root: PathBuf) -> Result<Self> {
        Ok(Self { root })
    }

    /// Runs the doctor over `bytes`; errors refuse with `unprocessable` and all problems, else the split is there, whole.
    pub fn put(&self, name: &str, family: DatasetFamily, split: &str, bytes: &[u8]) -> Result<SplitInfo> {
        let _ = (&self.root, name, family, split, bytes);
        todo!()
    }

    pub fn list(&self) -> Result<Vec<DatasetInfo>> {
        todo!()
    }

    pub fn get(&self, name: &str) -> Result<DatasetInfo> {
        let _ = name;
        todo!()
    }

    pub fn delete(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// `not_found` names the datasets or splits there are.
    pub fn read(&self, reference: &DataRef) -> Result<(DatasetFamily, Split, String)> {
        let _ = reference;
        todo!()
    }
}

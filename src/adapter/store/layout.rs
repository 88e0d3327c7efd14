//! Where things are in the store's folder, and its small files. Knows no order of writing.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{failed, read_if_there};
use crate::domain::{AdapterName, AdapterRef, Alias, AliasTarget, Digest, Error, Result};

/// What is under way begins with this, at the root; nothing that counts does.
pub(super) const UNDER_WAY: &str = ".tmp-";

/// `current`, `highest`, `version.json`, `aliases.json` and `retired.json` in bytes. Nothing larger is written, so that what was written
/// can be read again.
const SMALL_FILE_BYTES_MAX: u64 = 4 << 20;

/// Adapters without a version whose last number is remembered; with as many the file has 2 MB. The one retired longest ago is forgotten:
/// an adapter of its name then begins at 1 again.
const RETIRED_MAX: usize = 10_000;

/// What to do about a damaged file.
const ADVICE: &str = "`trunkline store check --repair` moves a damaged file aside";

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

    /// The highest numbers ever given to adapters that have no version any more.
    pub(super) fn retired(&self) -> PathBuf {
        self.root.join("retired.json")
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
        let is_number = |number: &u32, name: &str| *number > 0 && number.to_string() == name;
        let number = |name: &str| name.parse().ok().filter(|number| is_number(number, name));
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
        number.map(Some).map_err(|_| damaged(path, "it holds no version number"))
    }

    pub(super) fn read_aliases(&self) -> Result<BTreeMap<AdapterName, Alias>> {
        let path = self.aliases();
        let Some(json) = read_small(&path)? else { return Ok(BTreeMap::new()) };
        let file: BTreeMap<String, AliasFile> =
            serde_json::from_slice(&json).map_err(|e| damaged(&path, &e.to_string()))?;
        let parse = |(name, alias): (String, AliasFile)| Ok((name.parse()?, alias.parse()?));
        file.into_iter().map(parse).collect::<Result<_>>().map_err(|e| damaged(&path, e.message()))
    }

    /// What can be read of a damaged `aliases.json`.
    pub(super) fn salvage_aliases(&self) -> BTreeMap<AdapterName, Alias> {
        let json = read_small(&self.aliases()).ok().flatten().unwrap_or_default();
        let file: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&json).unwrap_or_default();
        let parse = |(name, alias): (String, serde_json::Value)| {
            let alias: AliasFile = serde_json::from_value(alias).ok()?;
            Some((name.parse().ok()?, alias.parse().ok()?))
        };
        file.into_iter().filter_map(parse).collect()
    }

    /// In the order they were retired in, each with its highest number.
    pub(super) fn read_retired(&self) -> Result<Vec<(AdapterName, u32)>> {
        let path = self.retired();
        let Some(json) = read_small(&path)? else { return Ok(Vec::new()) };
        let file: Vec<(String, u32)> = serde_json::from_slice(&json).map_err(|e| damaged(&path, &e.to_string()))?;
        let parse = |(name, highest): (String, u32)| Ok((name.parse()?, highest));
        file.into_iter().map(parse).collect::<Result<_>>().map_err(|e: Error| damaged(&path, e.message()))
    }
}

/// A small file's contents, if it is there.
pub(super) fn read_small(path: &Path) -> Result<Option<Vec<u8>>> {
    match read_if_there(path, SMALL_FILE_BYTES_MAX) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(damaged(path, &error.to_string())),
        contents => contents.map_err(|error| failed(path, error)),
    }
}

/// A small file that says nothing we understand: the operator's to mend, and never overwritten before.
fn damaged(path: &Path, why: &str) -> Error {
    Error::unavailable(format!("{}: {why}; {ADVICE}", path.display()))
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

/// The contents of `aliases.json`: sorted, so that the file is reviewed as a diff. `conflict` if they would be too long to be read again.
pub(super) fn aliases_json(aliases: &BTreeMap<AdapterName, Alias>) -> Result<Vec<u8>> {
    let target = |target: &AliasTarget| TargetFile { adapter: target.adapter.to_string(), weight: target.weight };
    let file = |alias: &Alias| AliasFile {
        targets: alias.targets.iter().map(target).collect(),
        shadow: alias.shadow.as_ref().map(AdapterRef::to_string),
    };
    let files: BTreeMap<&str, AliasFile> = aliases.iter().map(|(name, alias)| (name.as_str(), file(alias))).collect();
    let mut json = serde_json::to_vec_pretty(&files).expect("strings and numbers have a text");
    if json.len() as u64 >= SMALL_FILE_BYTES_MAX {
        // So that one may be removed of as many as could be read.
        json = serde_json::to_vec(&files).expect("strings and numbers have a text");
    }
    json.push(b'\n');
    if json.len() as u64 > SMALL_FILE_BYTES_MAX {
        let bytes = json.len();
        return Err(Error::conflict(format!(
            "all aliases would take {bytes} bytes; at most {SMALL_FILE_BYTES_MAX} are kept: remove some first"
        )));
    }
    Ok(json)
}

/// The contents of `retired.json` with one more, in the order of retirement.
pub(super) fn retired_json(mut retired: Vec<(AdapterName, u32)>, more: Vec<(AdapterName, u32)>) -> Vec<u8> {
    retired.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    retired.extend(more);
    let kept = &retired[retired.len().saturating_sub(RETIRED_MAX)..];
    let file: Vec<(&str, u32)> = kept.iter().map(|(name, highest)| (name.as_str(), *highest)).collect();
    let mut json = serde_json::to_vec(&file).expect("strings and numbers have a text");
    json.push(b'\n');
    json
}

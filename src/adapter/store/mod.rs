//! Immutable versions in a folder: publish whole or not at all, activate, roll back, retire. Publishing replaces one small file by
//! rename. One process writes, any number read. Leaves what is in the files to `bundle`, residency to `engine`, damage to `repair`.

mod disk;
mod layout;
mod repair;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::adapter::files::{CARD_NAME, CONCEPTS_NAME, CONFIG_NAME, FILES_BYTES_MAX, WEIGHTS_NAME};
use crate::adapter::store::disk::Disk;
use crate::adapter::store::layout::{Layout, UNDER_WAY, VersionFile, aliases_json, retired_json};
use crate::adapter::{AdapterCard, AdapterFiles, LoraConfig};
use crate::disk::{ASIDE, failed, open_lock, read};
use crate::domain::{AdapterName, Alias, Digest, Error, ErrorKind, Result};

/// Aliases of one store: each is looked at when an adapter is retired or listed.
const ALIASES_MAX: usize = 1000;

/// Versions of one adapter: every change of the adapter, and every list, goes over all of them.
const VERSIONS_MAX: usize = 4096;

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

/// A version, or all of an adapter, that is on disk and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// None: the folder's name is no adapter's.
    pub name: Option<AdapterName>,
    pub version: Option<u32>,
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.version) {
            (Some(name), Some(version)) => write!(f, "{name}@{version}: {}", self.why),
            (Some(name), None) => write!(f, "{name}: {}", self.why),
            (None, _) => f.write_str(&self.why),
        }
    }
}

/// A folder of adapters. All methods block; each is atomic on disk and durable when it returns.
#[derive(Debug)]
pub struct AdapterStore {
    layout: Layout,
    disk: Disk,
    /// The lock is the process's; why not, if it could not be had.
    lock: Result<File>,
    /// One writer at a time within the process, too.
    writing: Mutex<()>,
}

impl AdapterStore {
    /// Opens `root` (created if missing) and sweeps what interrupted publications left.
    ///
    /// The first process to open it may write; while that one lives, others read, and their writing methods answer `conflict`.
    /// Where the folder itself cannot be written, they answer `unavailable`: what can be read is served.
    pub fn open(root: &Path) -> Result<Self> {
        let layout = Layout { root: root.to_owned() };
        let made = fs::create_dir_all(root).map_err(|error| failed(root, error).into_unavailable());
        let lock = made.and_then(|()| take_lock(&layout.lock()));
        let store = Self { layout, disk: Disk::default(), lock, writing: Mutex::default() };
        if store.lock.is_ok()
            && let Err(error) = store.sweep()
        {
            tracing::warn!(%error, "what was left under way in the adapter store stays there");
        }
        Ok(store)
    }

    /// Why nothing can be published here; None if it can.
    pub fn is_read_only(&self) -> Option<&Error> {
        self.lock.as_ref().err()
    }

    pub fn root(&self) -> &Path {
        &self.layout.root
    }

    /// By name. What cannot be read is skipped and named in the second list; what is no adapter's folder does not matter.
    pub fn list(&self) -> Result<(Vec<AdapterEntry>, Vec<Unreadable>)> {
        let (mut entries, mut broken) = (Vec::new(), Vec::new());
        for name in self.names(&mut broken)? {
            match self.entry(&name, &mut broken) {
                Ok(entry) => entries.extend((!entry.versions.is_empty()).then_some(entry)),
                Err(error) => broken.push(Unreadable { name: Some(name), version: None, why: error.to_string() }),
            }
        }
        Ok((entries, broken))
    }

    pub fn get(&self, name: &AdapterName) -> Result<AdapterEntry> {
        let entry = self.entry(name, &mut Vec::new())?;
        if entry.versions.is_empty() {
            return Err(no_adapter(name));
        }
        Ok(entry)
    }

    /// Version n + 1, where n is the highest ever given to this name, also to versions since retired.
    pub fn publish(
        &self,
        name: &AdapterName,
        files: &AdapterFiles,
        created_at: u64,
        activate: bool,
    ) -> Result<VersionEntry> {
        let _writing = self.write_access()?;
        self.may_be_named(name)?;
        let version = self.highest(name)?.checked_add(1).ok_or_else(|| Error::conflict("no version number is left"))?;
        let digest = files.digest();
        let file = VersionFile { version, digest: digest.as_str().to_owned(), created_at };
        self.cleaning_up("version", |draft| self.move_in(name, files, &file, draft))?;
        if activate {
            self.write_number(&self.layout.current(name), version).inspect_err(|_| self.withdraw(name, version))?;
        }
        Ok(VersionEntry { version, digest, created_at, bytes: files.bytes() as u64 })
    }

    /// The files of a version, checked against its digest.
    pub fn read(&self, name: &AdapterName, version: u32) -> Result<AdapterFiles> {
        self.require(name, version)?;
        let folder = self.layout.version(name, version);
        let (_, digest) = VersionFile::read(&folder)?;
        let file = |file: &str| self.read_file(&folder, file);
        let file_if = |name: &str| folder.join(name).exists().then(|| file(name)).transpose();
        let (card, concepts) = (file_if(CARD_NAME)?, file_if(CONCEPTS_NAME)?);
        let files = AdapterFiles { config: file(CONFIG_NAME)?, weights: file(WEIGHTS_NAME)?, card, concepts };
        let found = files.digest();
        if found == digest {
            return Ok(files);
        }
        Err(Error::unprocessable(format!(
            "{name}@{version} is damaged on disk: its files' digest is {found}, published was {digest}"
        )))
    }

    /// What the small files of a version say of it. They are not checked against the digest, which needs the weights too.
    pub fn describe(&self, name: &AdapterName, version: u32) -> Result<(LoraConfig, AdapterCard)> {
        let folder = self.layout.version(name, version);
        let config = LoraConfig::from_json(&self.read_file(&folder, CONFIG_NAME)?)?;
        Ok((config, AdapterCard::from_json(&self.read_file(&folder, CARD_NAME)?)?))
    }

    fn read_file(&self, folder: &Path, name: &str) -> Result<Vec<u8>> {
        let path = folder.join(name);
        self.require_inside(&path)?;
        read(&path, FILES_BYTES_MAX as u64).map_err(|error| failed(&path, error))
    }

    /// A link that leads out of the store is not followed: what is there is not the store's.
    fn require_inside(&self, path: &Path) -> Result<()> {
        let real = fs::canonicalize(path).map_err(|error| failed(path, error))?;
        let root = fs::canonicalize(&self.layout.root).map_err(|error| failed(&self.layout.root, error))?;
        if real.starts_with(root) {
            return Ok(());
        }
        Err(Error::unprocessable(format!("{} leads out of the store, to {}", path.display(), real.display())))
    }

    /// Whether a version may be published under `name`: it is no alias's, no file's, and not one that differs from another in case alone.
    fn may_be_named(&self, name: &AdapterName) -> Result<()> {
        let count = self.layout.version_numbers(name)?.len();
        if count >= VERSIONS_MAX {
            return Err(Error::conflict(format!("{name} has {count} versions, as many as may be: retire some first")));
        }
        let aliases = match self.layout.read_aliases() {
            // What is an adapter already is no alias.
            Err(_) if count > 0 => return Ok(()),
            aliases => aliases.map_err(|error| error.context(format!("whether {name} is an alias cannot be told")))?,
        };
        if let Some(alias) = aliases.keys().find(|alias| alias.is_same_folder(name)) {
            return Err(Error::conflict(format!("{:?} is an alias; an adapter needs another name", alias.as_str())));
        }
        if count > 0 { Ok(()) } else { self.require_free(name) }
    }

    /// For a name without versions: nothing else has the folder.
    fn require_free(&self, name: &AdapterName) -> Result<()> {
        let path = self.layout.adapter(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if !found.is_dir() => {
                let path = path.display();
                return Err(Error::conflict(format!("{path} is a file; an adapter needs another name")));
            }
            _ => {}
        }
        let root = &self.layout.root;
        for entry in fs::read_dir(root).map_err(|error| failed(root, error))? {
            let other = entry.map_err(|error| failed(root, error))?.file_name();
            let other = other.to_str().unwrap_or_default();
            if other != name.as_str() && other.eq_ignore_ascii_case(name.as_str()) {
                return Err(Error::conflict(format!(
                    "{:?} differs from {other:?} in case alone, and some file systems would mix them up: choose another name",
                    name.as_str()
                )));
            }
        }
        Ok(())
    }

    /// Promotes or rolls back.
    pub fn activate(&self, name: &AdapterName, version: u32) -> Result<()> {
        let _writing = self.write_access()?;
        self.require(name, version)?;
        self.write_number(&self.layout.current(name), version)
    }

    /// Removes a version, or all of them. The active version goes only with all.
    pub fn retire(&self, name: &AdapterName, version: Option<u32>) -> Result<()> {
        let _writing = self.write_access()?;
        let numbers = self.layout.version_numbers(name)?;
        let first = *numbers.first().ok_or_else(|| no_adapter(name))?;
        self.require(name, version.unwrap_or(first))?;
        let current = self.layout.read_number(&self.layout.current(name))?;
        if version.is_some() && version == current {
            return Err(Error::conflict(format!(
                "version {} of {name} is the active one: activate another first, or retire the whole adapter",
                version.unwrap_or_default()
            )));
        }
        let highest = self.highest(name)?;
        match version {
            Some(version) => {
                self.write_number(&self.layout.highest(name), highest)?;
                self.throw_away(&self.layout.version(name, version))
            }
            None => {
                self.remember(vec![(name.clone(), highest)])?;
                self.throw_away(&self.layout.versions(name))?;
                self.remove_remains(name)
            }
        }
    }

    /// Keeps the numbers of adapters that go, so that `name@3` never means something else later.
    fn remember(&self, gone: Vec<(AdapterName, u32)>) -> Result<()> {
        let retired = self.layout.read_retired()?;
        self.replace(&self.layout.retired(), &retired_json(retired, gone))
    }

    /// What an adapter without versions has still in its folder, and the folder, unless others put something there.
    fn remove_remains(&self, name: &AdapterName) -> Result<()> {
        for file in [self.layout.pinned(name), self.layout.current(name), self.layout.highest(name)] {
            self.disk.remove_file(&file)?;
        }
        self.disk.remove_empty_folder(&self.layout.versions(name))?;
        self.disk.remove_empty_folder(&self.layout.adapter(name))
    }

    pub fn set_pinned(&self, name: &AdapterName, pinned: bool) -> Result<()> {
        let _writing = self.write_access()?;
        self.get(name)?;
        let path = self.layout.pinned(name);
        match pinned {
            // What is there already pins it, whatever it is.
            true if fs::symlink_metadata(&path).is_ok() => {}
            true => self.disk.write(&path, b"")?,
            false => self.disk.remove_file(&path)?,
        }
        self.disk.sync_folder(&self.layout.adapter(name))
    }

    /// By name.
    pub fn aliases(&self) -> Result<Vec<(AdapterName, Alias)>> {
        Ok(self.layout.read_aliases()?.into_iter().collect())
    }

    /// None removes it.
    pub fn set_alias(&self, alias: &AdapterName, value: Option<&Alias>) -> Result<()> {
        let _writing = self.write_access()?;
        let mut aliases = self.layout.read_aliases()?;
        match value {
            Some(value) => {
                value.check()?;
                self.may_be_alias(alias, &aliases)?;
                aliases.insert(alias.clone(), value.clone());
            }
            None => {
                drop(aliases.remove(alias).ok_or_else(|| Error::not_found(format!("no alias {:?}", alias.as_str())))?)
            }
        }
        self.replace(&self.layout.aliases(), &aliases_json(&aliases)?)
    }

    /// Whether an alias may have this name, and there may be one more.
    fn may_be_alias(&self, alias: &AdapterName, others: &BTreeMap<AdapterName, Alias>) -> Result<()> {
        let adapters = self.names(&mut Vec::new())?;
        let adapter = adapters.iter().find(|adapter| adapter.is_same_folder(alias));
        if let Some(adapter) = adapter
            && !self.layout.version_numbers(adapter)?.is_empty()
        {
            return Err(Error::conflict(format!("{:?} is an adapter; an alias needs another name", adapter.as_str())));
        }
        if others.len() >= ALIASES_MAX && !others.contains_key(alias) {
            return Err(Error::conflict(format!(
                "there are {ALIASES_MAX} aliases, as many as may be: remove one first"
            )));
        }
        Ok(())
    }

    /// Folders that may be adapters'. A folder of versions whose name is no adapter's is noted in `broken`.
    fn names(&self, broken: &mut Vec<Unreadable>) -> Result<Vec<AdapterName>> {
        let root = &self.layout.root;
        let mut names = Vec::new();
        let entries = match fs::read_dir(root) {
            // It could not be made; why is what a writer is told.
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(names),
            entries => entries.map_err(|error| failed(root, error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed(root, error))?;
            let name = entry.file_name();
            let is_other = name.to_string_lossy().starts_with('.') || name.to_string_lossy().contains(ASIDE);
            if is_other || !entry.path().join("versions").is_dir() {
                continue;
            }
            match name.to_str().unwrap_or_default().parse() {
                Ok(name) => names.push(name),
                Err(error) => broken.push(Unreadable { name: None, version: None, why: error.to_string() }),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// With the versions that can be read; the others are noted in `broken`.
    fn entry(&self, name: &AdapterName, broken: &mut Vec<Unreadable>) -> Result<AdapterEntry> {
        let mut versions = Vec::new();
        let mut note = |version, error: &Error| {
            broken.push(Unreadable { name: Some(name.clone()), version, why: error.to_string() });
        };
        for version in self.layout.version_numbers(name)? {
            match self.version_entry(&self.layout.version(name, version), version) {
                Ok(entry) => versions.push(entry),
                Err(error) => note(Some(version), &error),
            }
        }
        let current = self.layout.read_number(&self.layout.current(name)).unwrap_or_else(|error| {
            note(None, &error);
            None
        });
        // A `current` that outlived its version means nothing: retiring removes the versions first.
        let active = current.filter(|current| versions.iter().any(|entry| entry.version == *current));
        Ok(AdapterEntry { name: name.clone(), active, pinned: self.layout.pinned(name).exists(), versions })
    }

    fn version_entry(&self, folder: &Path, version: u32) -> Result<VersionEntry> {
        self.require_inside(folder)?;
        let (file, digest) = VersionFile::read(folder)?;
        if file.version != version {
            return Err(Error::unprocessable(format!("its {} says version {}", VersionFile::NAME, file.version)));
        }
        let mut bytes = 0;
        for (name, needed) in [(CONFIG_NAME, true), (WEIGHTS_NAME, true), (CARD_NAME, false), (CONCEPTS_NAME, false)] {
            let path = folder.join(name);
            match fs::metadata(&path) {
                Err(error) if needed => return Err(failed(&path, error)),
                Ok(found) if !found.is_file() => {
                    return Err(Error::unprocessable(format!("{} is no regular file", path.display())));
                }
                found => bytes += found.map_or(0, |found| found.len()),
            }
        }
        Ok(VersionEntry { version, digest, created_at: file.created_at, bytes })
    }

    fn require(&self, name: &AdapterName, version: u32) -> Result<()> {
        let numbers = self.layout.version_numbers(name)?;
        if numbers.contains(&version) {
            return Ok(());
        }
        if numbers.is_empty() {
            return Err(no_adapter(name));
        }
        let known = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("no version {version} of {:?}; there are {known}", name.as_str());
        Err(Error::new(ErrorKind::AdapterNotFound, message))
    }

    /// The highest number ever given to `name`; 0 for a name never used.
    fn highest(&self, name: &AdapterName) -> Result<u32> {
        let noted = self.layout.read_number(&self.layout.highest(name))?;
        let numbers = self.layout.version_numbers(name)?;
        let retired = match numbers.is_empty() {
            true => {
                self.layout.read_retired()?.into_iter().filter(|(retired, _)| retired == name).map(|(_, n)| n).max()
            }
            // It was read when the first of them was published.
            false => None,
        };
        Ok(numbers.into_iter().chain(noted).chain(retired).max().unwrap_or(0))
    }

    /// Writes everything beside the adapters, then renames it in: a version is there whole or not at all.
    fn move_in(&self, name: &AdapterName, files: &AdapterFiles, version: &VersionFile, draft: &Path) -> Result<()> {
        self.disk.create_folder(draft)?;
        for (file, contents) in files.entries() {
            self.disk.write(&draft.join(file), contents)?;
        }
        let json = serde_json::to_vec(version).expect("strings and numbers have a text");
        self.disk.write(&draft.join(VersionFile::NAME), &json)?;
        self.disk.sync_folder(draft)?;
        self.disk.create_folder(&self.layout.adapter(name))?;
        self.disk.create_folder(&self.layout.versions(name))?;
        self.require_inside(&self.layout.versions(name))?;
        self.disk.sync_folder(&self.layout.adapter(name))?;
        self.disk.sync_folder(&self.layout.root)?;
        self.disk.rename(draft, &self.layout.version(name, version.version))?;
        self.disk.sync_folder(&self.layout.versions(name))
    }

    /// After a failed activation: the caller is told that nothing was published, so nothing shall be, if it can be helped. Not if the
    /// failure came after `current` was replaced: a version that answers stays.
    fn withdraw(&self, name: &AdapterName, version: u32) {
        let current = self.layout.read_number(&self.layout.current(name));
        if current.is_ok_and(|current| current != Some(version)) {
            let _ = self.throw_away(&self.layout.version(name, version));
        }
    }

    fn write_number(&self, path: &Path, number: u32) -> Result<()> {
        self.replace(path, format!("{number}\n").as_bytes())
    }

    /// Replaces a small file: readers see the old one or the new one.
    fn replace(&self, path: &Path, contents: &[u8]) -> Result<()> {
        let parent = path.parent().expect("every file of the store is in its folder");
        self.cleaning_up("file", |draft| {
            self.disk.write(draft, contents)?;
            self.disk.rename(draft, path)
        })?;
        self.disk.sync_folder(parent)
    }

    /// Removes a folder: gone at once for readers, and then from the disk.
    fn throw_away(&self, folder: &Path) -> Result<()> {
        let parent = folder.parent().expect("every folder of the store is in another");
        self.cleaning_up("retired", |away| {
            self.disk.rename(folder, away)?;
            self.disk.sync_folder(parent)?;
            self.disk.remove_folder(away)
        })
    }

    /// Runs `action` with a path for what is under way; after a failure nothing is left there.
    fn cleaning_up(&self, what: &str, action: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let draft = self.layout.under_way(what);
        if draft.exists() {
            self.discard(&draft)?;
        }
        action(&draft).inspect_err(|_| drop(self.discard(&draft)))
    }

    fn discard(&self, path: &Path) -> Result<()> {
        if path.is_dir() { self.disk.remove_folder(path) } else { self.disk.remove_file(path) }
    }

    /// Removes what a process that died had under way, and the folders of adapters that have no version any more. Only for the holder of
    /// the lock: nobody else has anything under way then.
    fn sweep(&self) -> Result<()> {
        let root = &self.layout.root;
        for entry in fs::read_dir(root).map_err(|error| failed(root, error))? {
            let entry = entry.map_err(|error| failed(root, error))?;
            if entry.file_name().to_string_lossy().starts_with(UNDER_WAY) {
                self.discard(&entry.path())?;
            }
        }
        self.sweep_retired()
    }

    /// Folders in which nothing but a number is left: the number goes to the others, the folder goes.
    fn sweep_retired(&self) -> Result<()> {
        let root = &self.layout.root;
        let (mut gone, mut empty) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(root).map_err(|error| failed(root, error))? {
            let entry = entry.map_err(|error| failed(root, error))?;
            let name = entry.file_name().to_str().and_then(|name| name.parse::<AdapterName>().ok());
            let Some(name) = name.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) else { continue };
            if !self.layout.version_numbers(&name)?.is_empty() {
                continue;
            }
            match self.layout.read_number(&self.layout.highest(&name)) {
                Ok(Some(highest)) => gone.push((name, highest)),
                Ok(None) if self.layout.versions(&name).is_dir() => empty.push(name),
                // Not ours, or damaged: it stays.
                _ => {}
            }
        }
        if !gone.is_empty() {
            self.remember(gone.clone())?;
        }
        gone.into_iter().map(|(name, _)| name).chain(empty).try_for_each(|name| self.remove_remains(&name))
    }

    fn write_access(&self) -> Result<MutexGuard<'_, ()>> {
        if let Err(why) = &self.lock {
            let root = self.layout.root.display();
            return Err(why.clone().context(format!("the adapter store {root} can only be read here")));
        }
        // Whatever a writer that panicked left half done is under way still, and swept at the next start.
        Ok(self.writing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn no_adapter(name: &AdapterName) -> Error {
    Error::new(ErrorKind::AdapterNotFound, format!("no adapter {:?}", name.as_str()))
}

fn take_lock(path: &Path) -> Result<File> {
    let file = open_lock(path).map_err(|error| failed(path, error).into_unavailable())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::conflict("another process holds it, a running server perhaps: change it through that one"))
        }
        Err(TryLockError::Error(error)) => {
            Err(Error::unavailable(format!("{} cannot be locked: {error}", path.display())))
        }
    }
}

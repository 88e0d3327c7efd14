//! Immutable versions in a folder: publish whole or not at all, activate, roll back, retire. Publishing replaces one small file by
//! rename. One process writes, any number read. Leaves what is in the files to `bundle`, residency to `engine`.

mod disk;
mod layout;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::adapter::files::{CARD_NAME, CONCEPTS_NAME, CONFIG_NAME, FILES_BYTES_MAX, WEIGHTS_NAME};
use crate::adapter::store::disk::{Disk, failed};
use crate::adapter::store::layout::{Layout, UNDER_WAY, VersionFile, aliases_json};
use crate::adapter::{AdapterCard, AdapterFiles, LoraConfig};
use crate::domain::{AdapterName, Alias, Digest, Error, ErrorKind, Result};

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
    layout: Layout,
    disk: Disk,
    /// The lock is the process's; why not, if it could not be had.
    lock: Result<File, String>,
    /// One writer at a time within the process, too.
    writing: Mutex<()>,
}

impl AdapterStore {
    /// Opens `root` (created if missing) and sweeps what interrupted publications left.
    ///
    /// The first process to open it may write; while that one lives, others read, and their writing methods answer `conflict`.
    /// So they do where the folder itself cannot be written.
    pub fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(|error| failed(root, error))?;
        let layout = Layout { root: root.to_owned() };
        let lock = take_lock(&layout.lock());
        let store = Self { layout, disk: Disk::default(), lock, writing: Mutex::default() };
        if store.lock.is_ok() {
            store.sweep()?;
        }
        Ok(store)
    }

    pub fn root(&self) -> &Path {
        &self.layout.root
    }

    /// By name. A folder that cannot be read is skipped and named in the second list; what is no adapter's folder does not matter.
    pub fn list(&self) -> Result<(Vec<AdapterEntry>, Vec<String>)> {
        let (mut entries, mut broken) = (Vec::new(), Vec::new());
        for name in self.names()? {
            match self.entry(&name, &mut broken) {
                Ok(entry) => entries.extend((!entry.versions.is_empty()).then_some(entry)),
                Err(error) => broken.push(format!("{name}: {}", error.message())),
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
        if self.layout.read_aliases()?.contains_key(name) {
            return Err(Error::conflict(format!("{:?} is an alias; an adapter needs another name", name.as_str())));
        }
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
        let file = |file: &str| read_bounded(&folder.join(file));
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
        let config = LoraConfig::from_json(&read_bounded(&folder.join(CONFIG_NAME))?)?;
        Ok((config, AdapterCard::from_json(&read_bounded(&folder.join(CARD_NAME))?)?))
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
        self.write_number(&self.layout.highest(name), self.highest(name)?)?;
        match version {
            Some(version) => self.throw_away(&self.layout.version(name, version)),
            None => {
                self.disk.remove_file(&self.layout.pinned(name))?;
                self.throw_away(&self.layout.versions(name))?;
                self.disk.remove_file(&self.layout.current(name))
            }
        }
    }

    pub fn set_pinned(&self, name: &AdapterName, pinned: bool) -> Result<()> {
        let _writing = self.write_access()?;
        self.get(name)?;
        let path = self.layout.pinned(name);
        if pinned { self.disk.write(&path, b"") } else { self.disk.remove_file(&path) }?;
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
            Some(_) if !self.layout.version_numbers(alias)?.is_empty() => {
                return Err(Error::conflict(format!(
                    "{:?} is an adapter; an alias needs another name",
                    alias.as_str()
                )));
            }
            Some(value) => drop(aliases.insert(alias.clone(), value.clone())),
            None => {
                drop(aliases.remove(alias).ok_or_else(|| Error::not_found(format!("no alias {:?}", alias.as_str())))?)
            }
        }
        self.replace(&self.layout.aliases(), &aliases_json(&aliases))
    }

    /// Folders that may be adapters'.
    fn names(&self) -> Result<Vec<AdapterName>> {
        let root = &self.layout.root;
        let mut names = Vec::new();
        for entry in fs::read_dir(root).map_err(|error| failed(root, error))? {
            let entry = entry.map_err(|error| failed(root, error))?;
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            names.extend(name.filter(|_| entry.path().join("versions").is_dir()));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// With the versions that can be read; the others are noted in `broken`.
    fn entry(&self, name: &AdapterName, broken: &mut Vec<String>) -> Result<AdapterEntry> {
        let mut versions = Vec::new();
        for version in self.layout.version_numbers(name)? {
            match version_entry(&self.layout.version(name, version), version) {
                Ok(entry) => versions.push(entry),
                Err(error) => broken.push(format!("{name}@{version}: {}", error.message())),
            }
        }
        let current = self.layout.read_number(&self.layout.current(name))?;
        // A `current` that outlived its version means nothing: retiring removes the versions first.
        let active = current.filter(|current| versions.iter().any(|entry| entry.version == *current));
        Ok(AdapterEntry { name: name.clone(), active, pinned: self.layout.pinned(name).exists(), versions })
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
        let retired = self.layout.read_number(&self.layout.highest(name))?;
        Ok(self.layout.version_numbers(name)?.into_iter().chain(retired).max().unwrap_or(0))
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

    /// Removes what a process that died had under way. Only for the holder of the lock: nobody else has anything under way then.
    fn sweep(&self) -> Result<()> {
        let root = &self.layout.root;
        for entry in fs::read_dir(root).map_err(|error| failed(root, error))? {
            let entry = entry.map_err(|error| failed(root, error))?;
            if entry.file_name().to_string_lossy().starts_with(UNDER_WAY) {
                self.discard(&entry.path())?;
            }
        }
        Ok(())
    }

    fn write_access(&self) -> Result<MutexGuard<'_, ()>> {
        if let Err(why) = &self.lock {
            let root = self.layout.root.display();
            return Err(Error::conflict(format!("the adapter store {root} can only be read here: {why}")));
        }
        // Whatever a writer that panicked left half done is under way still, and swept at the next start.
        Ok(self.writing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn no_adapter(name: &AdapterName) -> Error {
    Error::new(ErrorKind::AdapterNotFound, format!("no adapter {:?}", name.as_str()))
}

fn take_lock(path: &Path) -> Result<File, String> {
    let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err("another process holds it, a running server perhaps: change it through that one".to_owned())
        }
        Err(TryLockError::Error(error)) => Err(format!("{} cannot be locked: {error}", path.display())),
    }
}

fn version_entry(folder: &Path, version: u32) -> Result<VersionEntry> {
    let (file, digest) = VersionFile::read(folder)?;
    if file.version != version {
        return Err(Error::unprocessable(format!("its {} says version {}", VersionFile::NAME, file.version)));
    }
    let mut bytes = 0;
    for (name, needed) in [(CONFIG_NAME, true), (WEIGHTS_NAME, true), (CARD_NAME, false), (CONCEPTS_NAME, false)] {
        let path = folder.join(name);
        match fs::metadata(&path) {
            Err(error) if needed => return Err(failed(&path, error)),
            found => bytes += found.map_or(0, |found| found.len()),
        }
    }
    Ok(VersionEntry { version, digest, created_at: file.created_at, bytes })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        let file = File::open(path)?;
        // Its length, or the list doubles its way there with a copy each time.
        let length = file.metadata()?.len().min(FILES_BYTES_MAX as u64);
        let mut contents = Vec::with_capacity(length as usize);
        file.take(FILES_BYTES_MAX as u64).read_to_end(&mut contents)?;
        Ok(contents)
    };
    read().map_err(|error| failed(path, error))
}

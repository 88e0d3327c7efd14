//! Named, validated, versioned training data on disk: one folder a dataset, one file a split, replaced by rename.
//! What makes data fit to train on is left to `training`.

mod file;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use crate::disk::{Damage, read};
use crate::domain::{AdapterName, Cancel, DataRef, Error, Excerpt, Hyperparameters, Result};
use crate::serving::long_work::LongWork;
use crate::training::dataset::{self, DatasetFamily, DoctorReport, OtherSplit, ReadOptions, Reading, Split};

use file::{MANIFEST, Manifest, Packed, StoredSplit, TEMPORARY, digest, storage_error, sync_folder};

/// Datasets in one store: each is a folder that every listing opens.
const DATASETS_MAX: usize = 1000;

/// Splits of one dataset: each upload reads all of them to find rows they share.
const SPLITS_MAX: usize = 16;

/// A split's file in bytes: larger than any upload.
const SPLIT_BYTES_MAX: u64 = 1 << 30;

/// Names that an error lists; more help nobody.
const NAMES_SHOWN_MAX: usize = 20;

/// Uploads read and checked at once: each may take a core, and several times its size in memory.
const UPLOADS_AT_ONCE_MAX: usize = 2;

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

/// What an upload is to become, and how it is to be read.
#[derive(Clone, Debug)]
pub struct Upload {
    pub family: DatasetFamily,
    pub split: String,
    pub options: ReadOptions,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DatasetInfo {
    pub name: String,
    pub family: DatasetFamily,
    pub splits: Vec<SplitInfo>,
}

/// Blocking inside, but for [`DatasetService::upload`]; other async callers go through `spawn_blocking`.
#[derive(Debug)]
pub struct DatasetService {
    root: PathBuf,
    /// Why there are no datasets at all.
    out_of_order: Option<Error>,
    /// Held to write by what changes files, to read by what needs a manifest and its files to belong together.
    files: RwLock<()>,
    uploads: LongWork,
}

impl DatasetService {
    /// Makes the folder if it is not there, and sweeps what an interrupted upload left.
    pub fn open(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).map_err(|e| storage_error(e).context(root.display()))?;
        let service = Self::over(root, None);
        service.sweep().unwrap_or_else(|error| warn!(%error, "what interrupted uploads left stays"));
        Ok(service)
    }

    /// Stands for datasets that cannot be had: every method answers `unavailable` with this reason.
    pub fn unavailable(root: PathBuf, why: Error) -> Self {
        Self::over(root, Some(why.into_unavailable()))
    }

    fn over(root: PathBuf, out_of_order: Option<Error>) -> Self {
        Self { root, out_of_order, files: RwLock::new(()), uploads: LongWork::new("uploads", UPLOADS_AT_ONCE_MAX) }
    }

    fn require_order(&self) -> Result<()> {
        self.out_of_order.clone().map_or(Ok(()), Err)
    }

    /// Datasets that are damaged: the manifest, and with `deeply` also the rows against their digests. With `repair` each is moved
    /// aside.
    pub fn check(&self, deeply: bool, repair: bool) -> Result<Vec<Damage>> {
        let _writing = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for name in self.names()? {
            if let Err(error) = self.check_one(&name, deeply) {
                let damage = Damage::new(&self.folder(&name), error.message());
                found.push(if repair { self.set_aside(&name, damage) } else { damage });
            }
        }
        Ok(found)
    }

    fn check_one(&self, name: &str, deeply: bool) -> Result<()> {
        let Some(manifest) = Manifest::read(&self.folder(name))? else { return Ok(()) };
        let family = manifest.family.parse()?;
        let splits = manifest.splits.iter().filter(|_| deeply);
        splits.map(|stored| self.load(name, family, stored, &Cancel::default())).try_for_each(|split| split.map(drop))
    }

    /// Under a name that is no dataset's, so that it is in nobody's way.
    fn set_aside(&self, name: &str, damage: Damage) -> Damage {
        let hidden = self.root.join(format!(".{name}"));
        if let Err(error) = fs::rename(&damage.path, &hidden) {
            return Damage { why: format!("{}; it cannot be moved aside: {error}", damage.why), ..damage };
        }
        let aside = Damage { path: hidden, why: damage.why, repaired: None }.set_aside();
        Damage { path: damage.path, ..aside }
    }

    /// [`DatasetService::put_as`] for a caller who may leave: on a thread that yields to inference, and given up when the future is
    /// dropped or `deadline` passes. `overloaded` while as many uploads are at work as may be.
    pub async fn upload(
        self: Arc<Self>,
        name: String,
        upload: Upload,
        bytes: impl AsRef<[u8]> + Send + 'static,
        deadline: Option<Instant>,
    ) -> Result<SplitInfo> {
        let service = self.clone();
        self.uploads.run(deadline, move |cancel| service.put_until(&name, &upload, bytes.as_ref(), cancel)).await
    }

    /// Runs the doctor over `bytes`; errors refuse with `unprocessable`, all problems and the report, else the split is there, whole.
    /// Fails with `conflict` if the dataset is of another family, with `unavailable` if the disk is full.
    pub fn put_as(&self, name: &str, upload: &Upload, bytes: &[u8]) -> Result<SplitInfo> {
        self.put_until(name, upload, bytes, &Cancel::default())
    }

    /// The same with nothing said of how the data is to be read.
    pub fn put(&self, name: &str, family: DatasetFamily, split: &str, bytes: &[u8]) -> Result<SplitInfo> {
        self.put_as(name, &Upload { family, split: split.to_owned(), options: ReadOptions::default() }, bytes)
    }

    fn put_until(&self, name: &str, upload: &Upload, bytes: &[u8], cancel: &Cancel) -> Result<SplitInfo> {
        let Upload { family, split, options } = upload;
        let family = *family;
        self.require_order()?;
        check_name("dataset", name)?;
        check_name("split", split)?;
        let others = self.other_splits(name, family, split, cancel)?;
        let max_length = Hyperparameters::default().max_length;
        let reading = Reading { family, split, options, others: &others, max_length };
        let (report, readable) = dataset::read_split(reading, bytes, cancel)?;
        let Some(readable) = readable else {
            return Err(refusal(format!("{name}:{split} is refused"), &report));
        };
        let packed = Packed::write(&readable, &self.root, cancel)?;
        drop(readable);
        cancel.check()?;
        let stored = self.store(name, family, split, packed, report)?;
        info!(dataset = name, split, rows = stored.rows, version = stored.version, "dataset stored");
        Ok(stored.into())
    }

    /// All datasets by name. A damaged one is left out, and logged.
    pub fn list(&self) -> Result<Vec<DatasetInfo>> {
        self.require_order()?;
        let mut datasets = Vec::new();
        for name in self.names()? {
            match self.get(&name) {
                Ok(dataset) => datasets.push(dataset),
                Err(error) => warn!(dataset = name, %error, "dataset left out of the list"),
            }
        }
        Ok(datasets)
    }

    /// `not_found` names the datasets there are.
    pub fn get(&self, name: &str) -> Result<DatasetInfo> {
        self.require_order()?;
        let manifest = self.manifest(name)?;
        let family = manifest.family.parse()?;
        Ok(DatasetInfo {
            name: name.to_owned(),
            family,
            splits: manifest.splits.into_iter().map(SplitInfo::from).collect(),
        })
    }

    /// All its splits. A job that has read its data already is not disturbed.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.require_order()?;
        let _writing = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let names = self.names()?; // not the manifest: a damaged dataset can be deleted
        if !names.iter().any(|there| there == name) {
            return Err(no_dataset(name, &names));
        }
        // Gone in one step; a crash while its files are removed leaves what `open` sweeps.
        let remove = || -> io::Result<()> {
            let gone = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(&self.root)?;
            fs::rename(self.folder(name), gone.path().join(name))?;
            sync_folder(&self.root)?;
            gone.close()
        };
        remove().map_err(storage_error)?;
        info!(dataset = name, "dataset deleted");
        Ok(())
    }

    /// The family, the rows and their digest. `not_found` names the datasets or splits there are.
    pub fn read(&self, reference: &DataRef) -> Result<(DatasetFamily, Split, String)> {
        self.read_until(reference, &Cancel::default())
    }

    /// The same for a caller who may leave.
    pub fn read_until(&self, reference: &DataRef, cancel: &Cancel) -> Result<(DatasetFamily, Split, String)> {
        self.require_order()?;
        let DataRef { dataset, split } = reference;
        let _reading = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let manifest = self.manifest(dataset)?;
        let stored = manifest.find(split).ok_or_else(|| {
            let there: Vec<_> = manifest.splits.iter().map(|stored| stored.split.clone()).collect();
            let (dataset, split) = (Excerpt(dataset), Excerpt(split));
            Error::not_found(format!("dataset {dataset:?} has no split {split:?}; it has {}", enumerate(&there)))
        })?;
        let family = manifest.family.parse()?;
        Ok((family, self.load(dataset, family, stored, cancel)?, stored.digest.clone()))
    }

    fn load(&self, name: &str, family: DatasetFamily, stored: &StoredSplit, cancel: &Cancel) -> Result<Split> {
        let path = self.folder(name).join(&stored.file);
        let bytes = read(&path, SPLIT_BYTES_MAX).map_err(|e| storage_error(e).context(path.display()))?;
        let split = dataset::read_stored(family, &bytes, cancel)?;
        if digest(&split, cancel)? != stored.digest {
            return Err(Error::unavailable(format!("{name}:{} is damaged on disk; upload it again", stored.split)));
        }
        Ok(split)
    }

    /// What `put` compares an upload with; one split at a time is in memory whole.
    fn other_splits(&self, name: &str, family: DatasetFamily, split: &str, cancel: &Cancel) -> Result<Vec<OtherSplit>> {
        let _reading = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let Some(manifest) = Manifest::read(&self.folder(name))? else { return Ok(Vec::new()) };
        check_fits(name, &manifest, family, split)?;
        let others = manifest.splits.iter().filter(|stored| stored.split != split);
        let other = |stored: &StoredSplit| Ok(OtherSplit::of(&stored.split, &self.load(name, family, stored, cancel)?));
        others.map(other).collect()
    }

    /// Puts the split's file beside the one it replaces, then the manifest that names it; a new dataset's folder appears with both.
    fn store(
        &self,
        name: &str,
        family: DatasetFamily,
        split: &str,
        packed: Packed,
        report: DoctorReport,
    ) -> Result<StoredSplit> {
        let _writing = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let folder = self.folder(name);
        let Some(mut manifest) = Manifest::read(&folder)? else {
            return self.store_first(name, family, split, packed, report);
        };
        check_fits(name, &manifest, family, split)?;
        let stored = stored_split(split, &packed, report, manifest.find(split));
        manifest.replace(stored.clone());
        let written = packed.keep_as(&folder, &stored.file).and_then(|()| manifest.write(&folder));
        // Old rows after a success, new ones after a failure: whatever the manifest on the disk does not name.
        sweep_folder(&folder).unwrap_or_else(|error| warn!(%error, "files of an old split are left"));
        written.map(|()| stored)
    }

    fn store_first(
        &self,
        name: &str,
        family: DatasetFamily,
        split: &str,
        packed: Packed,
        report: DoctorReport,
    ) -> Result<StoredSplit> {
        if self.names()?.len() >= DATASETS_MAX {
            let message = format!("{DATASETS_MAX} datasets are stored, the most there may be; delete one first");
            return Err(Error::conflict(message));
        }
        let stored = stored_split(split, &packed, report, None);
        let manifest = Manifest { family: family.as_str().to_owned(), splits: vec![stored.clone()] };
        // Removed when dropped, so a failure leaves nothing.
        let folder = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(&self.root).map_err(storage_error)?;
        packed.keep_as(folder.path(), &stored.file)?;
        manifest.write(folder.path())?;
        fs::rename(folder.path(), self.folder(name)).and_then(|()| sync_folder(&self.root)).map_err(storage_error)?;
        Ok(stored)
    }

    fn manifest(&self, name: &str) -> Result<Manifest> {
        let found = if check_name("dataset", name).is_ok() { Manifest::read(&self.folder(name))? } else { None };
        match found {
            Some(manifest) => Ok(manifest),
            None => Err(no_dataset(name, &self.names()?)),
        }
    }

    /// Folders with a manifest, by name.
    fn names(&self) -> Result<Vec<String>> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.root)? {
                let entry = entry?;
                let name = entry.file_name().into_string().unwrap_or_default();
                if check_name("dataset", &name).is_ok() && fs::symlink_metadata(entry.path().join(MANIFEST)).is_ok() {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        };
        list().map_err(storage_error)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Removes what interrupted uploads and deletions left.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                let is_folder = entry.file_type()?.is_dir();
                if is_folder { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
            }
        }
        for name in self.names().unwrap_or_default() {
            sweep_folder(&self.folder(&name)).unwrap_or_else(|error| warn!(dataset = name, %error, "not swept"));
        }
        Ok(())
    }
}

/// The failure of data with errors: `what` it means, the errors in words, and the whole report.
pub fn refusal(what: impl std::fmt::Display, report: &DoctorReport) -> Error {
    let problems = report.problems();
    let error = Error::unprocessable(format!("{what}; the data has {} kinds of errors", problems.len()));
    let error = error.with_problems(problems);
    match serde_json::to_value(report) {
        Ok(report) => error.with_report(report),
        Err(_) => error, // a report is strings and finite numbers
    }
}

/// Removes files that the manifest does not name.
fn sweep_folder(folder: &Path) -> Result<()> {
    let Some(manifest) = Manifest::read(folder)? else { return Ok(()) };
    let is_named = |name: &OsStr| name == MANIFEST || manifest.splits.iter().any(|stored| name == stored.file.as_str());
    let sweep = || -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if !is_named(&entry.file_name()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    sweep().map_err(storage_error)
}

fn stored_split(split: &str, packed: &Packed, report: DoctorReport, before: Option<&StoredSplit>) -> StoredSplit {
    let version = before.map_or(1, |stored| stored.version + 1);
    StoredSplit {
        split: split.to_owned(),
        file: format!("{split}.{version}.jsonl.zst"),
        rows: report.rows,
        digest: packed.digest.clone(),
        version,
        created_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        report,
    }
}

fn check_fits(name: &str, manifest: &Manifest, family: DatasetFamily, split: &str) -> Result<()> {
    if manifest.family != family.as_str() {
        let message = format!(
            "dataset {name:?} is of family {:?}, {split:?} is to be {family:?}",
            manifest.family,
            family = family.as_str()
        );
        return Err(Error::conflict(message));
    }
    if manifest.find(split).is_none() && manifest.splits.len() >= SPLITS_MAX {
        return Err(Error::conflict(format!("dataset {name:?} has {SPLITS_MAX} splits, the most there may be")));
    }
    Ok(())
}

/// Dataset and split names are folders and files: the alphabet of adapter names.
fn check_name(what: &str, name: &str) -> Result<()> {
    name.parse::<AdapterName>().map(|_| ()).map_err(|_| {
        Error::invalid(format!(
            "{what} name {:?} is not 1 to 128 of a-z, A-Z, 0-9, '.', '_' and '-' beginning with a letter or digit, as adapter names are",
            Excerpt(name)
        ))
    })
}

fn no_dataset(name: &str, names: &[String]) -> Error {
    Error::not_found(format!("no dataset {:?}; there is {}", Excerpt(name), enumerate(names)))
}

fn enumerate(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names if names.len() > NAMES_SHOWN_MAX => {
            format!("{} and {} more", names[..NAMES_SHOWN_MAX].join(", "), names.len() - NAMES_SHOWN_MAX)
        }
        names => names.join(", "),
    }
}

impl From<StoredSplit> for SplitInfo {
    fn from(stored: StoredSplit) -> Self {
        let StoredSplit { split, file: _, rows, digest, version, created_at, report } = stored;
        Self { split, rows, digest, version, created_at, report }
    }
}

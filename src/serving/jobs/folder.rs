//! A job's folder: `checkpoints/` (of `training`), `adapter/` or `primaries/` (trained, not yet published) and `report.json`.
//! What is there under its own name is whole: each is written beside it, made durable, then renamed.
//! Of a finished job the report alone stays, so that disk use is bounded by the jobs under way.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::adapter::AdapterFiles;
use crate::disk;
use crate::domain::{BackboneIdentity, Error, Family, JobId, Result};
use crate::serving::jobs::CheckpointView;
use crate::training::{Evaluation, TrainedAdapter};

/// A job's file in bytes: an adapter's weights have 256 MiB at most.
const FILE_BYTES_MAX: u64 = 256 << 20;

const REPORT: &str = "report.json";
const ADAPTER: &str = "adapter";
const CHECKPOINTS: &str = "checkpoints";

const PRIMARIES: &str = "primaries";
const FIGURES: &str = "figures.json";

/// What a run has left: everything that gate and publication need.
pub(super) struct Trained {
    pub(super) files: AdapterFiles,
    pub(super) figures: Figures,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) validation: Evaluation,
    pub(super) test: Option<Evaluation>,
    /// Of the scores: null where there was too little to fit one to.
    #[serde(default)]
    pub(super) calibration: Value,
    /// What the figures alone would hide.
    #[serde(default)]
    pub(super) warnings: Vec<String>,
    pub(super) rows_per_second: f64,
    pub(super) tokens_per_second: f64,
}

impl From<TrainedAdapter> for Trained {
    fn from(trained: TrainedAdapter) -> Self {
        let TrainedAdapter { files, validation, test, calibration, warnings, rows_per_second, tokens_per_second } =
            trained;
        let figures = Figures { validation, test, calibration, warnings, rows_per_second, tokens_per_second };
        Self { files, figures }
    }
}

/// What a pre-finetuning run has left: the backbone is in its own place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Remains {
    pub(super) backbone: BackboneIdentity,
    pub(super) primaries: Vec<(Family, AdapterFiles)>,
    pub(super) report: Value,
}

/// All jobs' folders.
pub(super) struct JobFolders(PathBuf);

impl JobFolders {
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).map_err(|error| at(&root, error))?;
        Ok(Self(root))
    }

    /// `id` must be one that the journal knows: it becomes a path.
    pub(super) fn of(&self, id: &JobId) -> JobFolder {
        JobFolder(self.0.join(&id.0))
    }

    /// The folders there are, by the ids they are named after.
    pub(super) fn ids(&self) -> Result<Vec<JobId>> {
        Ok(entries(&self.0)?
            .into_iter()
            .filter_map(|path| Some(JobId(path.file_name()?.to_str()?.to_owned())))
            .collect())
    }
}

pub(super) struct JobFolder(PathBuf);

impl JobFolder {
    /// Created if it is missing.
    pub(super) fn checkpoint_folder(&self) -> Result<PathBuf> {
        let path = self.0.join(CHECKPOINTS);
        fs::create_dir_all(&path).map_err(|error| at(&path, error))?;
        Ok(path)
    }

    /// By step. A checkpoint's name holds its step; what has no number in its name is no checkpoint.
    pub(super) fn checkpoints(&self) -> Result<Vec<CheckpointView>> {
        let mut found = Vec::new();
        for path in entries(&self.0.join(CHECKPOINTS))? {
            let Some(step) = step_of(&path) else { continue };
            let metadata = fs::metadata(&path).map_err(|error| at(&path, error))?;
            found.push(CheckpointView { step, created_at: metadata.modified()?, bytes: bytes(&path)? });
        }
        found.sort_by_key(|checkpoint| checkpoint.step);
        Ok(found)
    }

    pub(super) fn latest_checkpoint(&self) -> Option<u64> {
        self.checkpoints().ok()?.last().map(|checkpoint| checkpoint.step)
    }

    pub(super) fn save_trained(&self, trained: &Trained) -> Result<()> {
        fs::create_dir_all(&self.0).map_err(|error| at(&self.0, error))?;
        let draft = tempfile::Builder::new().prefix(".adapter-").tempdir_in(&self.0)?;
        let write = |name: &str, bytes: &[u8]| write_durable(&draft.path().join(name), bytes);
        trained.files.entries().try_for_each(|(name, contents)| write(name, contents))?;
        write(FIGURES, &to_json(&trained.figures)?)?;
        sync_folder(draft.path())?;
        let path = self.0.join(ADAPTER);
        remove(&path)?;
        fs::rename(draft.path(), &path).map_err(|error| at(&path, error))?;
        sync_folder(&self.0)
    }

    /// None if the run has not come to its end yet.
    pub(super) fn trained(&self) -> Result<Option<Trained>> {
        let folder = self.0.join(ADAPTER);
        if !folder.is_dir() {
            return Ok(None);
        }
        let files = read_files(&folder)?;
        let figures = folder.join(FIGURES);
        let figures = from_json(&disk::read(&figures, FILE_BYTES_MAX).map_err(|error| at(&figures, error))?, &figures)?;
        Ok(Some(Trained { files, figures }))
    }

    pub(super) fn save_remains(&self, remains: &Remains) -> Result<()> {
        fs::create_dir_all(&self.0).map_err(|error| at(&self.0, error))?;
        let draft = tempfile::Builder::new().prefix(".primaries-").tempdir_in(&self.0)?;
        for (family, files) in &remains.primaries {
            let folder = draft.path().join(family.as_str());
            fs::create_dir(&folder).map_err(|error| at(&folder, error))?;
            files.entries().try_for_each(|(name, bytes)| write_durable(&folder.join(name), bytes))?;
            sync_folder(&folder)?;
        }
        let facts = json!({
            "name": remains.backbone.name,
            "fingerprint": remains.backbone.fingerprint.as_str(),
            "report": remains.report,
        });
        write_durable(&draft.path().join(FIGURES), &to_json(&facts)?)?;
        sync_folder(draft.path())?;
        let path = self.0.join(PRIMARIES);
        remove(&path)?;
        fs::rename(draft.path(), &path).map_err(|error| at(&path, error))?;
        sync_folder(&self.0)
    }

    /// None if the run has not come to its end yet.
    pub(super) fn remains(&self) -> Result<Option<Remains>> {
        let root = self.0.join(PRIMARIES);
        if !root.is_dir() {
            return Ok(None);
        }
        let file = root.join(FIGURES);
        let facts: Value = from_json(&disk::read(&file, FILE_BYTES_MAX).map_err(|error| at(&file, error))?, &file)?;
        let text = |key: &str| facts[key].as_str().unwrap_or_default();
        let primary = |family: Family| Ok((family, read_files(&root.join(family.as_str()))?));
        Ok(Some(Remains {
            backbone: BackboneIdentity { name: text("name").to_owned(), fingerprint: text("fingerprint").parse()? },
            primaries: [Family::Ner, Family::Classify].into_iter().map(primary).collect::<Result<_>>()?,
            report: facts["report"].clone(),
        }))
    }

    pub(super) fn write_report(&self, report: &Value) -> Result<()> {
        fs::create_dir_all(&self.0).map_err(|error| at(&self.0, error))?;
        let draft = self.0.join(".report.json");
        write_durable(&draft, &to_json(report)?)?;
        let path = self.0.join(REPORT);
        fs::rename(&draft, &path).map_err(|error| at(&path, error))?;
        sync_folder(&self.0)
    }

    pub(super) fn report(&self) -> Result<Option<Value>> {
        let path = self.0.join(REPORT);
        match disk::read(&path, FILE_BYTES_MAX) {
            Ok(bytes) => from_json(&bytes, &path).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path, error)),
        }
    }

    /// All but the report goes.
    pub(super) fn tidy(&self) -> Result<()> {
        entries(&self.0)?.iter().filter(|path| !path.ends_with(REPORT)).try_for_each(|path| remove(path))
    }

    pub(super) fn remove(&self) -> Result<()> {
        remove(&self.0)
    }
}

/// The files of an adapter's folder.
fn read_files(folder: &Path) -> Result<AdapterFiles> {
    let read =
        |name: &str| disk::read(&folder.join(name), FILE_BYTES_MAX).map_err(|error| at(&folder.join(name), error));
    AdapterFiles::from_parts(|name| folder.join(name).is_file().then(|| read(name)).transpose())
}

/// The number at the end of `…-000120`, `step120` or `120.safetensors`.
fn step_of(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    let digits = stem.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    if stem.starts_with('.') { None } else { digits.parse().ok() }
}

/// In a folder; none if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(folder, error)),
    };
    read.map(|entry| entry.map(|entry| entry.path()).map_err(|error| at(folder, error))).collect()
}

fn bytes(path: &Path) -> Result<u64> {
    if path.is_dir() {
        return entries(path)?.iter().map(|path| bytes(path)).sum();
    }
    Ok(fs::metadata(path).map_err(|error| at(path, error))?.len())
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at(path, error)),
        _ => Ok(()),
    }
}

fn write_durable(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| at(path, error))
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| at(path, error))
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::internal("figures as JSON").with_source(error))
}

fn from_json<T: for<'a> Deserialize<'a>>(bytes: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::internal(format!("{}: {error}", path.display())).with_source(error))
}

/// The client learns which file of the job, the log where it is.
fn at(path: &Path, error: std::io::Error) -> Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    tracing::warn!(path = %path.display(), %error, "job file failed");
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::unavailable(format!("job file {name}: the disk is full")).with_source(error)
        }
        _ => Error::from(error).context(format!("job file {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, JobFolder) {
        let root = tempfile::tempdir().unwrap();
        let folder = JobFolders::open(root.path().join("jobs")).unwrap().of(&JobId("job_1".into()));
        (root, folder)
    }

    fn trained() -> Trained {
        let files = AdapterFiles {
            config: b"{}".to_vec(),
            weights: vec![1, 2, 3],
            card: Some(b"card".to_vec()),
            concepts: Some(b"head".to_vec()),
        };
        let validation = Evaluation { rows: 7, ..Evaluation::default() };
        Trained {
            files,
            figures: Figures {
                validation,
                test: None,
                calibration: serde_json::Value::Null,
                warnings: Vec::new(),
                rows_per_second: 0.1,
                tokens_per_second: 3.0,
            },
        }
    }

    #[test]
    fn what_was_trained_is_read_back_as_it_was() {
        let (_root, folder) = folder();
        assert!(folder.trained().unwrap().is_none());
        folder.save_trained(&trained()).unwrap();
        folder.save_trained(&trained()).unwrap();
        let read = folder.trained().unwrap().unwrap();
        assert_eq!(read.files, trained().files);
        assert_eq!(read.figures, trained().figures);
    }

    #[test]
    fn of_a_finished_job_the_report_alone_stays() {
        let (_root, folder) = folder();
        folder.tidy().unwrap();
        assert_eq!(folder.report().unwrap(), None);
        folder.save_trained(&trained()).unwrap();
        fs::write(folder.checkpoint_folder().unwrap().join("step-10.safetensors"), b"x").unwrap();
        folder.write_report(&serde_json::json!({"gate": null})).unwrap();
        folder.tidy().unwrap();
        assert_eq!(folder.report().unwrap(), Some(serde_json::json!({"gate": null})));
        assert_eq!(entries(&folder.0).unwrap().len(), 1);
        folder.remove().unwrap();
        assert!(!folder.0.exists());
    }

    #[test]
    fn checkpoints_are_told_by_the_step_in_their_name() {
        let (_root, folder) = folder();
        let path = folder.checkpoint_folder().unwrap();
        fs::create_dir(path.join("step-000200")).unwrap();
        fs::write(path.join("step-000200/weights"), [0; 30]).unwrap();
        fs::write(path.join("step-40.safetensors"), [0; 10]).unwrap();
        fs::write(path.join(".draft-90"), b"").unwrap();
        fs::write(path.join("cache.bin"), b"").unwrap();
        let found: Vec<_> = folder.checkpoints().unwrap().iter().map(|c| (c.step, c.bytes)).collect();
        assert_eq!(found, [(40, 10), (200, 30)]);
        assert_eq!(folder.latest_checkpoint(), Some(200));
    }
}

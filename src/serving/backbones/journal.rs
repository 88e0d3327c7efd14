//! Which backbones were resident, and which of them active, for the next start: one small file, replaced by rename.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::{BackboneIdentity, Error, Result};

/// `STATE_DIR/backbones.json`, and what it said at the start.
#[derive(Clone, Debug)]
pub struct BackboneJournal {
    path: PathBuf,
    before: Vec<BackboneIdentity>,
    active: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JournalFile {
    /// The name of the active one, as the source knows it.
    active: String,
    resident: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    fingerprint: String,
}

impl BackboneJournal {
    /// Reads it; a file that is not there says nothing, one that is broken is an error naming it.
    pub fn open(path: PathBuf) -> Result<Self> {
        let file = match fs::read(&path) {
            Ok(json) => Some(parse(&json).map_err(|e| e.context(path.display()))?),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(Error::from(e).context(path.display())),
        };
        let (active, before) = file.unzip();
        Ok(Self { path, before: before.unwrap_or_default(), active })
    }

    /// The name of the one that was activated last.
    pub fn active(&self) -> Option<&str> {
        self.active.as_deref()
    }

    pub(super) fn before(&self) -> Vec<BackboneIdentity> {
        self.before.clone()
    }

    /// On disk when it returns, the old file or the new one.
    pub(super) fn write(&self, active: &BackboneIdentity, resident: Vec<BackboneIdentity>) -> Result<()> {
        let entry = |one: BackboneIdentity| Entry { name: one.name, fingerprint: one.fingerprint.to_string() };
        let file = JournalFile { active: active.name.clone(), resident: resident.into_iter().map(entry).collect() };
        let json = serde_json::to_vec_pretty(&file).expect("strings always serialise");
        replace(&self.path, &json).map_err(|e| Error::from(e).context(self.path.display()))
    }
}

fn parse(json: &[u8]) -> Result<(String, Vec<BackboneIdentity>)> {
    let file: JournalFile =
        serde_json::from_slice(json).map_err(|e| Error::invalid(format!("no journal of backbones: {e}")))?;
    let identity = |one: Entry| Ok(BackboneIdentity { name: one.name, fingerprint: one.fingerprint.parse()? });
    Ok((file.active, file.resident.into_iter().map(identity).collect::<Result<_>>()?))
}

fn replace(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let draft = path.with_extension("tmp");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = File::create(&draft)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Digest;

    #[test]
    fn what_was_written_last_is_read_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/backbones.json");
        let identity = |name: &str, byte| BackboneIdentity {
            name: name.to_owned(),
            fingerprint: Digest::from_sha256(&[byte; 32]),
        };
        let (old, new) = (identity("default", 1), identity("minilm-mtpf", 2));
        let journal = BackboneJournal::open(path.clone()).unwrap();
        assert_eq!((journal.active(), journal.before()), (None, Vec::new()));
        journal.write(&old, vec![old.clone()]).unwrap();
        journal.write(&new, vec![old.clone(), new.clone()]).unwrap();
        let journal = BackboneJournal::open(path.clone()).unwrap();
        assert_eq!((journal.active(), journal.before()), (Some("minilm-mtpf"), vec![old, new]));
        fs::write(&path, "{").unwrap();
        let broken = BackboneJournal::open(path).unwrap_err();
        assert!(broken.to_string().contains("backbones.json"), "{broken}");
    }
}

//! Which backbones were resident, and which of them active, for the next start: one small file, replaced by rename. A damaged one is
//! neither believed nor overwritten.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk::{Damage, failed, read_if_there, replace};
use crate::domain::{BackboneIdentity, Error, Result};

/// The file in bytes: a few backbones, each a name and a fingerprint.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `STATE_DIR/backbones.json`, and what it said at the start.
#[derive(Clone, Debug)]
pub struct BackboneJournal {
    path: PathBuf,
    before: Vec<BackboneIdentity>,
    active: Option<String>,
    /// Why it is not believed, and not written.
    lost: Option<Error>,
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
    /// Reads it; a file that is not there says nothing, and neither does one that cannot be read: [`BackboneJournal::lost`].
    pub fn open(path: PathBuf) -> Self {
        let read = || {
            let json = read_if_there(&path, FILE_BYTES_MAX).map_err(|e| failed(&path, e))?;
            json.map(|json| parse(&json).map_err(|e| e.context(path.display()))).transpose()
        };
        match read() {
            Ok(file) => {
                let (active, before) = file.unzip();
                Self { path, before: before.unwrap_or_default(), active, lost: None }
            }
            Err(error) => {
                let lost = Some(error.into_unavailable());
                Self { path, before: Vec::new(), active: None, lost }
            }
        }
    }

    /// The name of the one that was activated last.
    pub fn active(&self) -> Option<&str> {
        self.active.as_deref()
    }

    /// Why nobody knows what was resident. Changes are refused with it, since the file is not overwritten.
    pub fn lost(&self) -> Option<&Error> {
        self.lost.as_ref()
    }

    /// The one that was activated last cannot be served: what the file says stays in it.
    #[must_use]
    pub fn distrusted(self, why: Error) -> Self {
        Self { before: Vec::new(), active: None, lost: Some(why.into_unavailable()), ..self }
    }

    pub(super) fn before(&self) -> Result<Vec<BackboneIdentity>> {
        self.lost.clone().map_or_else(|| Ok(self.before.clone()), Err)
    }

    /// What is wrong with the file at `path`; with `repair` it is moved aside.
    pub fn check(path: PathBuf, repair: bool) -> Option<Damage> {
        let journal = Self::open(path);
        let damage = Damage::new(&journal.path, journal.lost?.message());
        Some(if repair {
            damage.set_aside().and_then(|| "the next start serves the default backbone, or --backbone's".to_owned())
        } else {
            damage
        })
    }

    /// On disk when it returns, the old file or the new one.
    pub(super) fn write(&self, active: &BackboneIdentity, resident: Vec<BackboneIdentity>) -> Result<()> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone().context("which backbones are resident cannot be kept"));
        }
        let entry = |one: BackboneIdentity| Entry { name: one.name, fingerprint: one.fingerprint.to_string() };
        let file = JournalFile { active: active.name.clone(), resident: resident.into_iter().map(entry).collect() };
        let json = serde_json::to_vec_pretty(&file).expect("strings always serialise");
        replace(&self.path, &json).map_err(|e| failed(&self.path, e))
    }
}

fn parse(json: &[u8]) -> Result<(String, Vec<BackboneIdentity>)> {
    let file: JournalFile =
        serde_json::from_slice(json).map_err(|e| Error::unavailable(format!("no journal of backbones: {e}")))?;
    let identity = |one: Entry| Ok(BackboneIdentity { name: one.name, fingerprint: one.fingerprint.parse()? });
    Ok((file.active, file.resident.into_iter().map(identity).collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::domain::{Digest, ErrorKind};

    #[test]
    fn what_was_written_last_is_read_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/backbones.json");
        let identity = |name: &str, byte| BackboneIdentity {
            name: name.to_owned(),
            fingerprint: Digest::from_sha256(&[byte; 32]),
        };
        let (old, new) = (identity("default", 1), identity("minilm-mtpf", 2));
        let journal = BackboneJournal::open(path.clone());
        assert_eq!((journal.active(), journal.before().unwrap()), (None, Vec::new()));
        journal.write(&old, vec![old.clone()]).unwrap();
        journal.write(&new, vec![old.clone(), new.clone()]).unwrap();
        let journal = BackboneJournal::open(path);
        assert_eq!((journal.active(), journal.before().unwrap()), (Some("minilm-mtpf"), vec![old, new]));
    }

    #[test]
    fn a_damaged_journal_is_neither_believed_nor_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backbones.json");
        let long = " ".repeat(FILE_BYTES_MAX as usize + 1);
        let digest = r#"{"active": "a", "resident": [{"name": "a", "fingerprint": "abc"}]}"#;
        for damage in ["{", "", "[]", r#"{"active": 3, "resident": []}"#, digest, &long] {
            fs::write(&path, damage).unwrap();
            let journal = BackboneJournal::open(path.clone());
            assert_eq!(journal.active(), None);
            let identity = BackboneIdentity { name: "a".to_owned(), fingerprint: Digest::from_sha256(&[1; 32]) };
            for error in [journal.before().unwrap_err(), journal.write(&identity, Vec::new()).unwrap_err()] {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.message().contains("backbones.json"), "{error}");
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), damage);
        }
        assert!(BackboneJournal::check(path.clone(), false).unwrap().repaired.is_none());
        let repaired = BackboneJournal::check(path.clone(), true).unwrap().repaired.unwrap();
        assert!(repaired.contains("backbones.json.damaged-1"), "{repaired}");
        assert_eq!(BackboneJournal::check(path, true), None);
    }
}

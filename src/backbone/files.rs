//! The files of a backbone: hashing them, and the fingerprint made of the hashes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::domain::{Digest, Error, Result};

/// Without these there is no backbone. In the order of the fingerprint.
pub(super) const REQUIRED: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];
/// What the reference library's tokenizer was made with: a limit of tokens, among others.
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Kept if a source has them; not part of the fingerprint: `tokenizer.json` says everything about tokens, and what else is in them says
/// no more than how long a text may be.
pub(super) const OPTIONAL: [&str; 2] = [TOKENIZER_CONFIG, "sentence_bert_config.json"];

/// Larger than any BERT-like encoder we run; a source that never ends must not fill the disk.
pub(super) const FILE_BYTES_MAX: u64 = 16 << 30;
/// A hash and a write a piece: large enough that the calls cost nothing.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileDigest {
    pub(super) bytes: u64,
    pub(super) sha256: Digest,
}

/// By file name.
pub(super) type Files = BTreeMap<String, FileDigest>;

/// SHA-256 of what `sha256sum config.json model.safetensors tokenizer.json` prints, so that anyone can compute it:
/// a line of hash, two spaces and name for each file.
pub(super) fn fingerprint(files: &Files) -> Result<Digest> {
    let mut hasher = Sha256::new();
    for name in REQUIRED {
        let file = files.get(name).ok_or_else(|| Error::unprocessable(format!("{name} is missing")))?;
        let hex = file.sha256.as_str().trim_start_matches("sha256:");
        hasher.update(format!("{hex}  {name}\n"));
    }
    Ok(Digest::from_sha256(&hasher.finalize().into()))
}

/// Hashes the required files of `folder`, and of the optional ones those that are there. Names all that are missing.
pub(super) fn hash_folder(folder: &Path) -> Result<Files> {
    let missing: Vec<String> = REQUIRED
        .into_iter()
        .filter(|name| !folder.join(name).is_file())
        .map(|name| format!("{name} is missing"))
        .collect();
    if !missing.is_empty() {
        let what = format!("folder {} holds no backbone in Hugging Face layout", folder.display());
        return Err(Error::unprocessable(what).with_problems(missing));
    }
    let optional = OPTIONAL.into_iter().filter(|name| folder.join(name).is_file());
    let names = REQUIRED.into_iter().chain(optional);
    names.map(|name| Ok((name.to_owned(), hash_file(&folder.join(name))?))).collect()
}

pub(super) fn hash_file(path: &Path) -> Result<FileDigest> {
    let hash = || copy_hashed(&mut File::open(path)?, &mut io::sink(), &mut |_| {});
    hash().map_err(|e| Error::from(e).context(path.display()))
}

/// A folder being filled: what arrives is hashed as it is written, and refused if it is not what was wanted.
pub(super) struct Landing {
    folder: PathBuf,
    files: Files,
}

impl Landing {
    /// Creates `folder`.
    pub(super) fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir(&folder).map_err(|e| Error::from(e).context(folder.display()))?;
        Ok(Self { folder, files: Files::new() })
    }

    /// Writes one file through to the disk. `on_bytes` is told how many have come so far.
    pub(super) fn receive(
        &mut self,
        name: &str,
        wanted: Option<&Digest>,
        from: &mut dyn Read,
        on_bytes: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut write = || {
            let mut file = File::create(self.folder.join(name))?;
            let digest = copy_hashed(from, &mut file, on_bytes)?;
            file.sync_all().map(|()| digest)
        };
        let got = write().map_err(|e| Error::unavailable(e.to_string()).with_source(e).context(name))?;
        if let Some(wanted) = wanted.filter(|wanted| **wanted != got.sha256) {
            return Err(Error::unavailable(format!(
                "{name} has {} in {} bytes, wanted {wanted}",
                got.sha256, got.bytes
            )));
        }
        self.files.insert(name.to_owned(), got);
        Ok(())
    }

    pub(super) fn finish(self) -> (PathBuf, Files) {
        (self.folder, self.files)
    }
}

fn copy_hashed(from: &mut dyn Read, to: &mut dyn Write, on_bytes: &mut dyn FnMut(u64)) -> io::Result<FileDigest> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        let len = match from.read(&mut piece) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if len == 0 {
            return Ok(FileDigest { bytes, sha256: Digest::from_sha256(&hasher.finalize().into()) });
        }
        bytes += len as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("more than {FILE_BYTES_MAX} bytes")));
        }
        hasher.update(&piece[..len]);
        to.write_all(&piece[..len])?;
        on_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_what_two_shell_commands_print() {
        let folder = tempfile::tempdir().unwrap();
        for name in REQUIRED {
            fs::write(folder.path().join(name), name.as_bytes()).unwrap();
        }
        let files = hash_folder(folder.path()).unwrap();
        // cd FOLDER && sha256sum config.json model.safetensors tokenizer.json | sha256sum
        let by_shell = "sha256:9b8a3ad9fc9c1a39db342dab60d8173fc8b3a9d5af776eeaaa5ad607c1ea65bc";
        assert_eq!(fingerprint(&files).unwrap().as_str(), by_shell);
    }

    #[test]
    fn every_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        let error = hash_folder(folder.path()).unwrap_err();
        assert_eq!(error.problems(), ["model.safetensors is missing", "tokenizer.json is missing"]);
    }
}

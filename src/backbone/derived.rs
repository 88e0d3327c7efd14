//! Backbones made here: another one's folder with other weights, whole or not at all, and a file that says how it came to be.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use crate::backbone::BackboneInfo;
use crate::backbone::cache::{inspect, sync_folder};
use crate::domain::{Error, Result};

/// Says where a derived backbone came from.
pub(super) const PROVENANCE: &str = "trunkline-provenance.json";

/// What a derived backbone takes over: configuration and tokenizer, in every form that libraries read.
const TAKEN_OVER: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
];

/// A folder at `target` in Hugging Face layout: configuration and tokenizer of the one at `parent`, `model.safetensors` by
/// `write_weights`, and `provenance` beside them. It appears whole or not at all. A folder there that is equal stays;
/// `conflict` if it is another backbone.
pub fn derive(
    parent: &Path,
    target: &Path,
    provenance: &Value,
    write_weights: impl FnOnce(&Path) -> Result<()>,
) -> Result<BackboneInfo> {
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let at = |e: std::io::Error| Error::from(e).context(beside.display());
    fs::create_dir_all(beside).map_err(at)?;
    let draft = tempfile::Builder::new().prefix(&format!(".derive-{name}@")).tempdir_in(beside).map_err(at)?;
    for file in TAKEN_OVER.into_iter().filter(|file| parent.join(file).is_file()) {
        let contents = fs::read(parent.join(file)).map_err(|e| Error::from(e).context(parent.join(file).display()))?;
        write(&draft.path().join(file), &contents)?;
    }
    write_weights(&draft.path().join("model.safetensors"))?;
    let text = serde_json::to_vec_pretty(provenance).expect("a JSON value has a text");
    write(&draft.path().join(PROVENANCE), &text)?;
    sync_folder(draft.path())?;
    let made = inspect(&name, draft.path().to_owned())?;
    if target.exists() {
        let there = inspect(&name, target.to_owned())?;
        if there.fingerprint == made.fingerprint {
            return Ok(there);
        }
        let (path, found) = (target.display(), there.fingerprint);
        return Err(Error::conflict(format!("{path} is another backbone already, {found}; choose another name")));
    }
    let draft = draft.keep();
    fs::rename(&draft, target).map_err(|e| {
        drop(fs::remove_dir_all(&draft)); // what stays costs space alone
        Error::from(e).context(target.display())
    })?;
    sync_folder(beside)?;
    Ok(BackboneInfo { folder: target.to_owned(), ..made })
}

/// Through to the disk.
pub(super) fn write(path: &Path, contents: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(contents)?;
        file.sync_all()
    };
    write().map_err(|e| Error::from(e).context(path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ErrorKind;

    fn derived(weights: &[u8], parent: &Path, target: &Path) -> Result<BackboneInfo> {
        derive(parent, target, &serde_json::json!({"seed": 1}), |path| write(path, weights))
    }

    #[test]
    fn a_derived_backbone_is_there_whole_and_made_once() {
        let root = tempfile::tempdir().unwrap();
        let (parent, target) = (root.path().join("parent"), root.path().join("all/child"));
        fs::create_dir(&parent).unwrap();
        for (file, contents) in
            [("config.json", "{}"), ("tokenizer.json", "[]"), ("model.safetensors", "old"), ("x.bin", "x")]
        {
            fs::write(parent.join(file), contents).unwrap();
        }
        let made = derived(b"new", &parent, &target).unwrap();
        assert_eq!((made.name.as_str(), &made.folder), ("child", &target));
        let mut names: Vec<String> =
            fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json", "trunkline-provenance.json"]);
        assert_eq!(fs::read(target.join("model.safetensors")).unwrap(), b"new");
        assert_eq!(derived(b"new", &parent, &target).unwrap(), made);
        assert_eq!(derived(b"newer", &parent, &target).unwrap_err().kind(), ErrorKind::Conflict);
        let failing = derive(&parent, &root.path().join("all/none"), &Value::Null, |_| Err(Error::internal("full")));
        assert!(failing.is_err());
        assert_eq!(fs::read_dir(root.path().join("all")).unwrap().count(), 1, "nothing half done stays");
    }
}

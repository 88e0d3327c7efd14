//! A backbone kept as what differs from another one: the tensors that changed, in bf16 where that loses no bit. What is made of it
//! is the backbone byte for byte, or nothing.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backbone::BackboneInfo;
use crate::backbone::derived::{PROVENANCE, write};
use crate::backbone::files::FILE_BYTES_MAX;
use crate::disk;
use crate::domain::{Digest, Error, Result};

/// What is kept, and of what it is the difference.
const DESCRIPTION: &str = "difference.json";
/// The tensors that changed; under `HEADER` in its metadata the header of the whole file, as it was.
const TENSORS: &str = "difference.safetensors";
const HEADER: &str = "header";
const WEIGHTS: &str = "model.safetensors";
/// Before the header of a safetensors file: its length, as 8 bytes, little-endian.
const LENGTH_BYTES: usize = 8;
const F32_BYTES: usize = 4;

/// `difference.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// What the parent is called: `default`, or a hub name.
    parent: String,
    parent_fingerprint: String,
    /// Of the backbone itself.
    fingerprint: String,
}

/// A folder that holds one.
pub(super) struct Difference {
    pub parent: String,
    pub parent_fingerprint: Digest,
    pub fingerprint: Digest,
}

impl Difference {
    /// None: the folder holds none.
    pub(super) fn find(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(DESCRIPTION);
        if !path.is_file() {
            return Ok(None);
        }
        let wrong = |e: &dyn std::fmt::Display| Error::unprocessable(format!("{}: {e}", path.display()));
        let text = read(&path)?;
        let found: Description = serde_json::from_slice(&text).map_err(|e| wrong(&e))?;
        let digest = |text: &str| text.parse::<Digest>().map_err(|e| wrong(&e));
        Ok(Some(Self {
            parent_fingerprint: digest(&found.parent_fingerprint)?,
            fingerprint: digest(&found.fingerprint)?,
            parent: found.parent,
        }))
    }
}

/// Writes what makes `child` of `parent` into the folder `target`; bytes written. `unprocessable` where tokenizer or
/// configuration differ, or tensors have other names, types or shapes: then nothing would be saved.
pub fn pack(parent: &BackboneInfo, child: &BackboneInfo, target: &Path) -> Result<u64> {
    for file in ["config.json", "tokenizer.json"] {
        if read(&parent.folder.join(file))? != read(&child.folder.join(file))? {
            return Err(Error::unprocessable(format!("{file} is not that of {}", parent.name)));
        }
    }
    let (old, new) = (read(&parent.folder.join(WEIGHTS))?, read(&child.folder.join(WEIGHTS))?);
    let (old, header) = (tensors(&old, parent)?, header(&new)?);
    let new = tensors(&new, child)?;
    let mut changed: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)> = HashMap::new();
    for (name, tensor) in new.iter() {
        let before = old.tensor(name).ok().filter(|old| (old.dtype(), old.shape()) == (tensor.dtype(), tensor.shape()));
        let Some(before) = before else {
            return Err(Error::unprocessable(format!("{name} is in {} otherwise or not at all", parent.name)));
        };
        if before.data() != tensor.data() {
            let (dtype, bytes) = smallest(&tensor);
            changed.insert(name.to_owned(), (dtype, tensor.shape().to_vec(), bytes));
        }
    }
    let failed = |e: safetensors::SafeTensorError| Error::internal(format!("{TENSORS}: {e}"));
    let views = changed.iter().map(|(name, (dtype, shape, bytes))| {
        Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).map_err(failed)?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([(HEADER.to_owned(), header.to_owned())]);
    let contents = safetensors::serialize(views, Some(metadata)).map_err(failed)?;
    fs::create_dir_all(target).map_err(|e| Error::from(e).context(target.display()))?;
    write(&target.join(TENSORS), &contents)?;
    if child.folder.join(PROVENANCE).is_file() {
        write(&target.join(PROVENANCE), &read(&child.folder.join(PROVENANCE))?)?;
    }
    let description = Description {
        parent: parent.name.clone(),
        parent_fingerprint: parent.fingerprint.to_string(),
        fingerprint: child.fingerprint.to_string(),
    };
    let text = serde_json::to_string_pretty(&description).expect("strings always serialise") + "\n";
    write(&target.join(DESCRIPTION), text.as_bytes())?;
    Ok((contents.len() + text.len()) as u64)
}

/// How the backbone that `folder` holds came to be, as far as it says.
pub(super) fn provenance(folder: &Path) -> Value {
    let text = fs::read(folder.join(PROVENANCE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// `model.safetensors` of the backbone that `folder` tells apart from the one in `parent`. Whether it is right shows by its hash.
pub(super) fn restore(folder: &Path, parent: &Path) -> Result<Vec<u8>> {
    let path = folder.join(TENSORS);
    let wrong = |what: &dyn std::fmt::Display| Error::unprocessable(format!("{}: {what}", path.display()));
    let (kept, old) = (read(&path)?, read(&parent.join(WEIGHTS))?);
    let (_, own) = SafeTensors::read_metadata(&kept).map_err(|e| wrong(&e))?;
    let header = own.metadata().as_ref().and_then(|metadata| metadata.get(HEADER));
    let header = header.ok_or_else(|| wrong(&"its metadata has no header"))?;
    let whole: Metadata = serde_json::from_str(header).map_err(|e| wrong(&e))?;
    let kept = SafeTensors::deserialize(&kept).map_err(|e| wrong(&e))?;
    let old = SafeTensors::deserialize(&old).map_err(|e| Error::unprocessable(format!("{}: {e}", parent.display())))?;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    for name in whole.offset_keys() {
        let info = whole.info(&name).ok_or_else(|| wrong(&format!("no {name} in the header")))?;
        match kept.tensor(&name) {
            Ok(tensor) => {
                file.extend(expanded(&tensor, info).ok_or_else(|| wrong(&format!("{name} has another type")))?)
            }
            Err(_) => file.extend_from_slice(old.tensor(&name).map_err(|e| wrong(&e))?.data()),
        }
    }
    Ok(file)
}

/// In bf16 where each number is one already, else as it is.
fn smallest(tensor: &TensorView<'_>) -> (Dtype, Vec<u8>) {
    let numbers = || tensor.data().chunks_exact(F32_BYTES);
    // little-endian: a bf16 is the upper half of its f32
    if tensor.dtype() == Dtype::F32 && numbers().all(|number| number[..2] == [0, 0]) {
        return (Dtype::BF16, numbers().flat_map(|number| [number[2], number[3]]).collect());
    }
    (tensor.dtype(), tensor.data().to_vec())
}

fn expanded(kept: &TensorView<'_>, wanted: &TensorInfo) -> Option<Vec<u8>> {
    match (kept.dtype(), wanted.dtype) {
        (Dtype::BF16, Dtype::F32) => {
            Some(kept.data().chunks_exact(2).flat_map(|half| [0, 0, half[0], half[1]]).collect())
        }
        (kept_as, wanted) if kept_as == wanted => Some(kept.data().to_vec()),
        _ => None,
    }
}

fn tensors<'a>(file: &'a [u8], of: &BackboneInfo) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(file).map_err(|e| Error::unprocessable(format!("{} of {}: {e}", WEIGHTS, of.name)))
}

/// The JSON text that a safetensors file begins with.
fn header(file: &[u8]) -> Result<&str> {
    let short = || Error::unprocessable(format!("{WEIGHTS} is too short for its header"));
    let (length, rest) = file.split_first_chunk::<LENGTH_BYTES>().ok_or_else(short)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| short())?;
    let text = rest.get(..length).ok_or_else(short)?;
    std::str::from_utf8(text).map_err(|e| Error::unprocessable(format!("{WEIGHTS}: {e}")))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    disk::read(path, FILE_BYTES_MAX).map_err(|e| disk::failed(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::cache::inspect;

    /// A backbone with one tensor of words and one of a layer.
    fn backbone(folder: &Path, tokenizer: &str, layer: &[f32]) -> BackboneInfo {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let (words, layer_bytes) = (bytes(&[0.1, 0.2, 0.3]), bytes(layer));
        let view = |bytes, len| TensorView::new(Dtype::F32, vec![len], bytes).unwrap();
        let views = [("words", view(&words, 3)), ("layer", view(&layer_bytes, layer.len()))];
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        fs::write(folder.join(WEIGHTS), safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
        inspect("parent", folder.to_owned()).unwrap()
    }

    #[test]
    fn what_is_packed_comes_back_byte_for_byte_and_small() {
        let root = tempfile::tempdir().unwrap();
        let parent = backbone(&root.path().join("parent"), "[]", &[0.1, 0.2]);
        let cases: [(&str, &[f32], Dtype); 2] =
            [("bf16", &[1.5, -0.0078125], Dtype::BF16), ("f32", &[1.5, 0.1], Dtype::F32)];
        for (name, layer, dtype) in cases {
            let child = backbone(&root.path().join(name), "[]", layer);
            let target = root.path().join(format!("{name}-difference"));
            pack(&parent, &child, &target).unwrap();
            let found = Difference::find(&target).unwrap().unwrap();
            assert_eq!((found.parent.as_str(), &found.fingerprint), ("parent", &child.fingerprint));
            assert_eq!(found.parent_fingerprint, parent.fingerprint);
            let restored = restore(&target, &parent.folder).unwrap();
            assert_eq!(restored, fs::read(child.folder.join(WEIGHTS)).unwrap(), "{name}");
            let kept = fs::read(target.join(TENSORS)).unwrap();
            let kept = SafeTensors::deserialize(&kept).unwrap();
            assert_eq!(kept.names(), ["layer"], "words did not change");
            assert_eq!(kept.tensor("layer").unwrap().dtype(), dtype);
        }
    }

    #[test]
    fn what_is_no_difference_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let parent = backbone(&root.path().join("parent"), "[]", &[0.1, 0.2]);
        let refused = |name: &str, tokenizer: &str, layer: &[f32]| {
            let child = backbone(&root.path().join(name), tokenizer, layer);
            pack(&parent, &child, &root.path().join("refused")).unwrap_err().message().to_owned()
        };
        assert!(refused("words", "[1]", &[0.1, 0.2]).contains("tokenizer.json"));
        assert!(refused("shape", "[]", &[0.1, 0.2, 0.3]).contains("layer"));
        assert!(!root.path().join("refused").exists(), "nothing is left of what was refused");
        assert!(Difference::find(&parent.folder).unwrap().is_none());
        fs::write(parent.folder.join(DESCRIPTION), r#"{"parent": "default"}"#).unwrap();
        let error = Difference::find(&parent.folder).err().unwrap();
        assert!(error.message().contains("parent_fingerprint"), "{error}");
    }
}

//! `model.safetensors` of a Hugging Face folder: tensors by name, whatever prefix the checkpoint was saved with. A tensor is read when
//! it is asked for; the file is never in memory as a whole.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorView};

use crate::disk;
use crate::domain::{Error, Result};

/// The embedding table every encoder has, by its names below the prefix.
const MARKERS: [&str; 2] = ["embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight"];

/// The header's JSON in bytes: that of a thousand tensors is a hundredth of it.
const HEADER_BYTES_MAX: u64 = 16 << 20;

/// Bytes read and converted at a time; a multiple of every type's size.
const READ_BYTES: usize = 256 << 10;

/// The tensors of a checkpoint.
pub(super) struct Weights {
    path: PathBuf,
    /// Stays open: what is read later is of the very file that was checked.
    file: Mutex<File>,
    places: HashMap<String, Place>,
    /// What stands before the encoder's names: `bert.`, `model.`, nothing.
    prefix: String,
    device: Device,
}

/// Where a tensor is in the file.
struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<u64>,
}

impl Weights {
    pub(super) fn open(path: &Path, device: &Device) -> Result<Self> {
        let unreadable = |e: String| Error::unprocessable(format!("{}: {e}", path.display()));
        let mut file = disk::open(path).map_err(|e| unreadable(e.to_string()).with_source(e))?;
        let places = places(&mut file).map_err(unreadable)?;
        let prefix = prefix(places.keys());
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), places, prefix, device: device.clone() })
    }

    /// The encoder's tensor of this name, as f32; it must be there with this shape.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let found = self.find(&format!("{}{name}", self.prefix)).ok_or_else(|| {
            Error::unprocessable(format!("model.safetensors has no tensor {name:?} (looked under {:?})", self.prefix))
        })?;
        if found.shape != shape {
            let got = &found.shape;
            return Err(Error::unprocessable(format!("model.safetensors: {name:?} is {got:?}, wanted {shape:?}")));
        }
        self.read(found)
    }

    /// The same, where a module may have no such tensor.
    pub(super) fn get_if(&self, wanted: bool, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        wanted.then(|| self.get(name, shape)).transpose()
    }

    /// A tensor of the encoder, if the checkpoint has it.
    pub(super) fn find_below(&self, name: &str) -> Result<Option<Tensor>> {
        self.find_beside(&format!("{}{name}", self.prefix))
    }

    /// A tensor beside the encoder, such as a head's, if the checkpoint has it.
    pub(super) fn find_beside(&self, name: &str) -> Result<Option<Tensor>> {
        self.find(name).map(|place| self.read(place)).transpose()
    }

    /// A copy of this file at `path`: the encoder's tensors of `changed` (by their names below the prefix) with those numbers,
    /// everything else as it was; all floating-point numbers as f32.
    pub(super) fn write_with(&self, changed: &HashMap<&str, &[f32]>, path: &Path) -> Result<()> {
        let mut names: Vec<&String> = self.places.keys().collect();
        names.sort_unstable();
        let mut tensors = Vec::new();
        for name in names {
            let place = &self.places[name];
            let below = name.strip_prefix(&self.prefix).unwrap_or(name);
            let below =
                below.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
            let (dtype, bytes) = match (changed.get(below.as_str()), place.dtype) {
                (Some(numbers), _) => (Dtype::F32, to_bytes(numbers)),
                (None, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) => {
                    (Dtype::F32, to_bytes(&self.numbers(place)?))
                }
                (None, other) => (other, self.bytes(place)?),
            };
            tensors.push((name, dtype, &place.shape, bytes));
        }
        let unwritable = |e: safetensors::SafeTensorError| Error::internal(format!("{}: {e}", path.display()));
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            TensorView::new(*dtype, shape.to_vec(), bytes).map(|view| (name, view)).map_err(unwritable)
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let contents = safetensors::serialize(views, Some(metadata)).map_err(unwritable)?;
        let mut file = File::create(path).map_err(|e| Error::from(e).context(path.display()))?;
        Ok(file.write_all(&contents).and_then(|()| file.sync_all())?)
    }

    fn bytes(&self, place: &Place) -> Result<Vec<u8>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = vec![0; (place.bytes.end - place.bytes.start) as usize];
        file.seek(SeekFrom::Start(place.bytes.start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn numbers(&self, place: &Place) -> Result<Vec<f32>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        numbers(&mut file, place).map_err(|e| e.context(self.path.display()))
    }

    /// Norms of checkpoints from before 2019 call their weights gamma and beta.
    fn find(&self, name: &str) -> Option<&Place> {
        let old = || name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        self.places.get(name).or_else(|| self.places.get(&old()))
    }

    fn read(&self, place: &Place) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.numbers(place)?, place.shape.as_slice(), &self.device)?)
    }
}

/// From the file's header, which must account for every byte.
fn places(file: &mut File) -> Result<HashMap<String, Place>, String> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|e| e.to_string())?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        return Err(format!("its header claims {length} bytes; at most {HEADER_BYTES_MAX} are read"));
    }
    let mut header = Vec::new();
    Read::by_ref(file).take(length).read_to_end(&mut header).map_err(|e| e.to_string())?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| format!("not a safetensors file: {e}"))?;
    let start = 8 + length;
    let place = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let bytes = start + info.data_offsets.0 as u64..start + info.data_offsets.1 as u64;
        (name, Place { dtype: info.dtype, shape: info.shape.clone(), bytes })
    };
    let places: HashMap<String, Place> = metadata.tensors().into_iter().map(place).collect();
    let (end, len) = (places.values().map(|p| p.bytes.end).max().unwrap_or(start), file.metadata().map(|m| m.len()));
    match len {
        Ok(len) if len == end => Ok(places),
        Ok(len) => Err(format!("it has {len} bytes; its header says {end}")),
        Err(e) => Err(e.to_string()),
    }
}

fn numbers(file: &mut File, place: &Place) -> Result<Vec<f32>> {
    match place.dtype {
        Dtype::F32 => read_as(file, place, f32::from_le_bytes),
        Dtype::F16 => read_as(file, place, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => read_as(file, place, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Dtype::F64 => read_as(file, place, |bytes| f64::from_le_bytes(bytes) as f32),
        other => Err(Error::unprocessable(format!("a tensor has type {other:?}; F32, F16, BF16 or F64 is wanted"))),
    }
}

fn read_as<const N: usize>(file: &mut File, place: &Place, number: impl Fn([u8; N]) -> f32) -> Result<Vec<f32>> {
    let mut left = (place.bytes.end - place.bytes.start) as usize;
    let mut numbers = Vec::with_capacity(left / N);
    let mut buffer = vec![0; READ_BYTES.min(left)];
    file.seek(SeekFrom::Start(place.bytes.start))?;
    while left > 0 {
        let part = &mut buffer[..READ_BYTES.min(left)];
        file.read_exact(part)?;
        numbers.extend(part.as_chunks().0.iter().map(|bytes| number(*bytes)));
        left -= part.len();
    }
    Ok(numbers)
}

fn to_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn prefix<'a>(mut names: impl Iterator<Item = &'a String>) -> String {
    names.find_map(|name| MARKERS.iter().find_map(|marker| name.strip_suffix(marker))).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, IndexOp};

    use super::*;

    fn file(tensors: &[(&str, Tensor)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tensors: HashMap<String, Tensor> = tensors.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
        candle_core::safetensors::save(&tensors, file.path()).unwrap();
        file
    }

    fn weights(names: &[&str]) -> Weights {
        let tensors: Vec<_> =
            names.iter().map(|name| (*name, Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap())).collect();
        Weights::open(file(&tensors).path(), &Device::Cpu).unwrap()
    }

    #[test]
    fn names_are_found_under_any_prefix() {
        for prefix in ["", "bert.", "roberta.", "model."] {
            let weights = weights(&[
                &format!("{prefix}embeddings.word_embeddings.weight"),
                &format!("{prefix}x.LayerNorm.gamma"),
            ]);
            assert!(weights.get("embeddings.word_embeddings.weight", &[2, 3]).is_ok(), "{prefix:?}");
            assert!(weights.get("x.LayerNorm.weight", &[2, 3]).is_ok(), "{prefix:?}");
        }
    }

    #[test]
    fn missing_and_misshapen_tensors_are_named() {
        let weights = weights(&["bert.embeddings.word_embeddings.weight"]);
        let missing = weights.get("encoder.layer.0.output.dense.weight", &[2, 3]).unwrap_err();
        assert!(missing.message().contains("encoder.layer.0.output.dense.weight"), "{missing}");
        let misshapen = weights.get("embeddings.word_embeddings.weight", &[9, 3]).unwrap_err();
        assert!(misshapen.message().contains("[2, 3], wanted [9, 3]"), "{misshapen}");
    }

    #[test]
    fn every_number_type_is_read_from_its_own_place() {
        // Longer than what is read at a time.
        let whole = Tensor::arange(0f32, 70_000., &Device::Cpu).unwrap();
        let fits_all = whole.i(..256).unwrap();
        let of = |dtype| fits_all.to_dtype(dtype).unwrap();
        let file = file(&[
            ("a", whole.clone()),
            ("b", of(DType::F16)),
            ("c", of(DType::BF16)),
            ("d", of(DType::F64)),
            ("e", of(DType::U32)),
        ]);
        let weights = Weights::open(file.path(), &Device::Cpu).unwrap();
        let read = |name: &str, len: usize| weights.get(name, &[len]).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(read("a", 70_000), whole.to_vec1::<f32>().unwrap());
        for name in ["b", "c", "d"] {
            assert_eq!(read(name, 256), fits_all.to_vec1::<f32>().unwrap(), "{name}");
        }
        assert!(weights.get("e", &[256]).unwrap_err().to_string().contains("U32"));
    }

    #[test]
    fn a_file_that_is_cut_or_no_safetensors_is_refused() {
        let whole = std::fs::read(file(&[("a", Tensor::zeros(9, DType::F32, &Device::Cpu).unwrap())]).path()).unwrap();
        let bomb = u64::MAX.to_le_bytes();
        for bytes in [&whole[..whole.len() - 1], &whole[..20], &whole[..3], &bomb, b"PK\x03\x04 something else"] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            assert!(Weights::open(file.path(), &Device::Cpu).is_err(), "{} bytes", bytes.len());
        }
        assert!(whole.len() > 20);
    }
}

//! `model.safetensors` of a Hugging Face folder: tensors by name, whatever prefix the checkpoint was saved with.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::domain::{Error, Result};

/// The embedding table every encoder has, by its names below the prefix.
const MARKERS: [&str; 2] = ["embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight"];

/// The tensors of a checkpoint.
pub(super) struct Weights {
    tensors: HashMap<String, Tensor>,
    /// What stands before the encoder's names: `bert.`, `model.`, nothing.
    prefix: String,
}

impl Weights {
    pub(super) fn read(file: &Path, device: &Device) -> Result<Self> {
        let unreadable = |e| Error::unprocessable(format!("{}: {e}", file.display())).with_source(e);
        let tensors = candle_core::safetensors::load(file, device).map_err(unreadable)?;
        Ok(Self { prefix: prefix(tensors.keys()), tensors })
    }

    /// The encoder's tensor of this name, as f32; it must be there with this shape.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let found = self.find(&format!("{}{name}", self.prefix)).ok_or_else(|| {
            Error::unprocessable(format!("model.safetensors has no tensor {name:?} (looked under {:?})", self.prefix))
        })?;
        if found.dims() != shape {
            let got = found.dims();
            return Err(Error::unprocessable(format!("model.safetensors: {name:?} is {got:?}, wanted {shape:?}")));
        }
        Ok(found.to_dtype(DType::F32)?.contiguous()?)
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
        Ok(self.find(name).map(|tensor| tensor.to_dtype(DType::F32)?.contiguous()).transpose()?)
    }

    /// Norms of checkpoints from before 2019 call their weights gamma and beta.
    fn find(&self, name: &str) -> Option<&Tensor> {
        let old = || name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        self.tensors.get(name).or_else(|| self.tensors.get(&old()))
    }
}

fn prefix<'a>(mut names: impl Iterator<Item = &'a String>) -> String {
    names.find_map(|name| MARKERS.iter().find_map(|marker| name.strip_suffix(marker))).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(names: &[&str]) -> Weights {
        let tensor = |name: &&str| (name.to_string(), Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap());
        let tensors: HashMap<_, _> = names.iter().map(tensor).collect();
        Weights { prefix: prefix(tensors.keys()), tensors }
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
}

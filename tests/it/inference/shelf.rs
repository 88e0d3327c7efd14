//! Backbones to switch between: `tiny`, `moved` (the same with other weights), `other` (another tokenizer), `broken` (computes NaN).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::safetensors::{load, save};
use candle_core::{Device, Tensor};
use tempfile::TempDir;

use trunkline::domain::{BackboneIdentity, Digest, Error, Result};
use trunkline::engine::ResidentBackbone;
use trunkline::model::Encoder;
use trunkline::serving::{Backbone, BackboneSource, FoundBackbone};
use trunkline::text::Tokenizer;

use super::world::{fingerprint, folder};

pub(crate) struct Shelf;

impl BackboneSource for Shelf {
    fn find(&self, name: &str) -> Result<FoundBackbone> {
        let (fingerprint, folder) = match name {
            "tiny" => (fingerprint(), folder().to_owned()),
            "moved" => (Digest::from_sha256(&[8; 32]), changed("moved", |tensor| tensor.affine(0.9, 0.01).unwrap())),
            "other" => (Digest::from_sha256(&[9; 32]), PathBuf::from("tests/fixtures/architectures/roberta")),
            "broken" => {
                (Digest::from_sha256(&[10; 32]), changed("broken", |tensor| tensor.affine(1.0, f64::NAN).unwrap()))
            }
            _ => return Err(Error::not_found(format!("no backbone {name:?} on the shelf"))),
        };
        Ok(FoundBackbone { identity: BackboneIdentity { name: name.to_owned(), fingerprint }, folder })
    }

    fn load(&self, found: &FoundBackbone) -> Result<Backbone> {
        let encoder = Arc::new(Encoder::load(&found.folder, &Device::Cpu)?);
        let resident = ResidentBackbone::admit(found.identity.clone(), encoder)?;
        let tokenizer = Arc::new(Tokenizer::load(&found.folder)?);
        Ok(Backbone { resident, tokenizer, folder: found.folder.clone(), embedded_tokens_max: None })
    }

    fn names(&self) -> Vec<String> {
        ["tiny", "moved", "other", "broken"].map(str::to_owned).to_vec()
    }
}

pub(crate) fn open(name: &str) -> Backbone {
    Shelf.load(&Shelf.find(name).unwrap()).unwrap()
}

/// The tiny backbone's folder with every weight changed; made once a process.
fn changed(name: &'static str, change: fn(&Tensor) -> Tensor) -> PathBuf {
    static FOLDERS: OnceLock<TempDir> = OnceLock::new();
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _making = MAKING.lock().unwrap();
    let place = FOLDERS.get_or_init(|| TempDir::new().unwrap()).path().join(name);
    if !place.exists() {
        std::fs::create_dir(&place).unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::copy(folder().join(file), place.join(file)).unwrap();
        }
        save(&weights(folder(), change), place.join("model.safetensors")).unwrap();
    }
    place
}

fn weights(folder: &Path, change: fn(&Tensor) -> Tensor) -> HashMap<String, Tensor> {
    let tensors = load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    let is_real = |tensor: &Tensor| tensor.dtype().is_float();
    tensors.into_iter().map(|(name, tensor)| (name, if is_real(&tensor) { change(&tensor) } else { tensor })).collect()
}

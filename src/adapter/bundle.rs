//! An adapter checked against its backbone: configuration, LoRA weights and head, ready to run.

use crate::adapter::{AdapterCard, LoraConfig};
use crate::domain::{Digest, Family, LabelSet, Result};
use crate::model::{Encoder, Head, LoraWeights};

/// An adapter folder in memory, as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterFiles {
    /// `adapter_config.json`
    pub config: Vec<u8>,
    /// `adapter_model.safetensors`
    pub weights: Vec<u8>,
    /// `trunkline.json`; a folder fresh from PEFT has none.
    pub card: Option<Vec<u8>>,
}

impl AdapterFiles {
    /// SHA-256 over names, lengths and contents of the files: the version's digest.
    pub fn digest(&self) -> Digest {
        todo!()
    }

    /// Gives a folder fresh from PEFT a card, from the upload's `?labels=` and `?family=` (else `LABEL_0…` and the config's `task_type`).
    /// Files that have a card already are left alone if `labels` and `family` are None, and refused if they contradict it.
    pub fn with_card(self, labels: Option<Vec<String>>, family: Option<Family>, fingerprint: &Digest) -> Result<Self> {
        let _ = (labels, family, fingerprint);
        todo!()
    }

    pub fn bytes(&self) -> usize {
        self.config.len() + self.weights.len() + self.card.as_ref().map_or(0, Vec::len)
    }
}

/// Everything an engine or trainer needs of one adapter version. Tensors are f32 on the encoder's device.
#[derive(Clone, Debug)]
pub struct AdapterBundle {
    pub config: LoraConfig,
    pub card: AdapterCard,
    pub labels: LabelSet,
    pub lora: LoraWeights,
    pub head: Head,
    /// Trained numbers: LoRA and head.
    pub parameters: usize,
}

impl AdapterBundle {
    /// Reads and checks all of it; `unprocessable` with every problem found, by tensor name. Nothing is ever initialised that the files lack.
    pub fn read(files: &AdapterFiles, encoder: &Encoder, fingerprint: &Digest) -> Result<Self> {
        let _ = (files, encoder, fingerprint);
        todo!()
    }

    /// A fresh adapter for training: A uniform (Kaiming, a = √5) and head from `seed`, B zero.
    pub fn fresh(config: LoraConfig, card: AdapterCard, encoder: &Encoder, seed: u64) -> Result<Self> {
        let _ = (config, card, encoder, seed);
        todo!()
    }

    /// The files of this adapter, as PEFT writes them. Same weights, same bytes.
    pub fn to_files(&self, encoder: &Encoder) -> Result<AdapterFiles> {
        let _ = encoder;
        todo!()
    }

    pub fn family(&self) -> Family {
        self.card.family
    }
}

//! An adapter folder in memory: its files and their digest.

use sha2::{Digest as _, Sha256};

use crate::adapter::AdapterCard;
use crate::domain::{Digest, Error, Result};

pub(crate) const CONFIG_NAME: &str = "adapter_config.json";
pub(crate) const WEIGHTS_NAME: &str = "adapter_model.safetensors";
pub(crate) const CARD_NAME: &str = "trunkline.json";
pub(crate) const CONCEPTS_NAME: &str = "concept_head.safetensors";
/// Of the whole model, not of the adapter.
pub(crate) const MODEL_CONFIG_NAME: &str = "config.json";
/// What an adapter's folder has.
pub(crate) const FILE_NAMES: [&str; 4] = [CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, CONCEPTS_NAME];

/// All files of one adapter in bytes: rank 512 on every linear of a large encoder is about half of it.
pub(crate) const FILES_BYTES_MAX: usize = 256 << 20;

/// An adapter folder in memory, as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterFiles {
    /// `adapter_config.json`
    pub config: Vec<u8>,
    /// `adapter_model.safetensors`
    pub weights: Vec<u8>,
    /// `trunkline.json`; a folder fresh from PEFT has none.
    pub card: Option<Vec<u8>>,
    /// `concept_head.safetensors`: the head of an adapter that compares with names, which PEFT has no place for.
    pub concepts: Option<Vec<u8>>,
}

impl AdapterFiles {
    /// The version's digest: SHA-256 over each file there is, in the order of [`AdapterFiles::entries`], as its name, a zero byte,
    /// its length in eight little-endian bytes, and its contents.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for (name, contents) in self.entries() {
            hash.update(name);
            hash.update([0]);
            hash.update((contents.len() as u64).to_le_bytes());
            hash.update(contents);
        }
        Digest::from_sha256(&hash.finalize().into())
    }

    /// From what `read` gives for each name an adapter's folder may have; None for a file that is not there.
    pub fn from_parts(mut read: impl FnMut(&'static str) -> Result<Option<Vec<u8>>>) -> Result<Self> {
        let mut needed =
            |name| read(name)?.ok_or_else(|| Error::unprocessable(format!("{name} is missing; a PEFT folder has it")));
        let (config, weights) = (needed(CONFIG_NAME)?, needed(WEIGHTS_NAME)?);
        Ok(Self { config, weights, card: read(CARD_NAME)?, concepts: read(CONCEPTS_NAME)? })
    }

    /// Names and contents: configuration, weights, card, concept head.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let card = self.card.as_deref().map(|card| (CARD_NAME, card));
        let concepts = self.concepts.as_deref().map(|concepts| (CONCEPTS_NAME, concepts));
        [(CONFIG_NAME, &*self.config), (WEIGHTS_NAME, &*self.weights)].into_iter().chain(card).chain(concepts)
    }

    pub(crate) fn read_card(&self) -> Result<AdapterCard> {
        let missing =
            || Error::unprocessable(format!("{CARD_NAME} is missing: nothing says what the head's rows mean"));
        AdapterCard::from_json(self.card.as_deref().ok_or_else(missing)?)
    }

    pub fn bytes(&self) -> usize {
        self.entries().map(|(_, contents)| contents.len()).sum()
    }
}

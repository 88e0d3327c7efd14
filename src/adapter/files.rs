//! An adapter folder in memory: its files, their digest, and a card for folders that come without one.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::adapter::weights;
use crate::adapter::{AdapterCard, LoraConfig};
use crate::domain::{Digest, Error, Family, HeadForm, LabelSet, ProblemType, Result};

pub(crate) const CONFIG_NAME: &str = "adapter_config.json";
pub(crate) const WEIGHTS_NAME: &str = "adapter_model.safetensors";
pub(crate) const CARD_NAME: &str = "trunkline.json";
pub(crate) const CONCEPTS_NAME: &str = "concept_head.safetensors";

/// All files of one adapter in bytes: rank 512 on every linear of a large encoder is about half of it.
pub(crate) const FILES_BYTES_MAX: usize = 256 << 20;

/// Where heads keep their last product, in the reference library's classes.
const OUTPUT_WEIGHTS: [&str; 2] = ["classifier.weight", "classifier.out_proj.weight"];

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

    /// Gives a folder fresh from PEFT a card, from the upload's `?labels=` and `?family=` (else `LABEL_0…` and the config's `task_type`);
    /// `max_length` is the encoder's. Files that have a card already are left alone, and refused if `labels` or `family` contradict it.
    pub fn with_card(
        self,
        labels: Option<Vec<String>>,
        family: Option<Family>,
        fingerprint: &Digest,
        max_length: usize,
    ) -> Result<Self> {
        if let Some(card) = &self.card {
            refuse_contradiction(&AdapterCard::from_json(card)?, labels.as_deref(), family)?;
            return Ok(self);
        }
        let family = self.family_of(family)?;
        let card = AdapterCard {
            family,
            head: HeadForm::Labels,
            labels: match labels {
                Some(labels) => labels,
                None => self.numbered_labels()?,
            },
            problem_type: ProblemType::SingleLabel,
            backbone_fingerprint: fingerprint.clone(),
            max_length,
            pooling: "cls".to_owned(),
            thresholds: BTreeMap::new(),
            training: None,
        };
        Ok(Self { card: Some(card.to_json()), ..self })
    }

    fn family_of(&self, wanted: Option<Family>) -> Result<Family> {
        match (wanted, LoraConfig::from_json(&self.config)?.family()) {
            (Some(wanted), Some(configured)) if wanted != configured => Err(Error::unprocessable(format!(
                "family {wanted} was asked for, but the task_type of {CONFIG_NAME} says {configured}"
            ))),
            (Some(family), _) | (None, Some(family)) => Ok(family),
            (None, None) => Err(Error::unprocessable(format!(
                "{CONFIG_NAME} has no task_type: say ?family=ner or ?family=classify"
            ))),
        }
    }

    /// `LABEL_0…`, as the reference library numbers labels that nobody named.
    fn numbered_labels(&self) -> Result<Vec<String>> {
        let rows = weights::rows_of(&self.weights, &OUTPUT_WEIGHTS)?;
        let rows = rows.ok_or_else(|| {
            Error::unprocessable(format!("{WEIGHTS_NAME} has no head: {OUTPUT_WEIGHTS:?} is missing"))
        })?;
        if rows > LabelSet::MAX {
            return Err(Error::unprocessable(format!(
                "the head has {rows} labels; at most {} are served",
                LabelSet::MAX
            )));
        }
        Ok((0..rows).map(|row| format!("LABEL_{row}")).collect())
    }
}

fn refuse_contradiction(card: &AdapterCard, labels: Option<&[String]>, family: Option<Family>) -> Result<()> {
    if let Some(family) = family.filter(|&family| family != card.family) {
        return Err(Error::unprocessable(format!(
            "family {family} was asked for, but {CARD_NAME} says {}",
            card.family
        )));
    }
    match labels {
        Some(labels) if labels != card.labels => Err(Error::unprocessable(format!(
            "the labels given are not what {CARD_NAME} says: {}; leave them out or change the card",
            difference(labels, &card.labels)
        ))),
        _ => Ok(()),
    }
}

/// Where two different lists part.
fn difference(given: &[String], own: &[String]) -> String {
    match given.iter().zip(own).position(|(given, own)| given != own) {
        Some(at) => format!("label {at} is {:?}, not {:?}", given[at], own[at]),
        None => format!("{} are given for {}", given.len(), own.len()),
    }
}

//! An adapter version on the device. Dropping the last handle gives its memory back.

use std::sync::Arc;

use crate::adapter::{AdapterBundle, AdapterCard};
use crate::domain::{AdapterIdentity, LabelSet, Result};
use crate::engine::ResidentBackbone;
use crate::model::{Encoder, LoraWeights, TaskHead};

/// What serving needs of an adapter; its weights are in the form that the encoder computes with, and in no other.
#[derive(Clone)]
pub struct ResidentAdapter {
    pub identity: AdapterIdentity,
    /// It was made for this one, and runs on no other.
    pub backbone: Arc<ResidentBackbone>,
    /// The backbone's, or the same network in f32.
    encoder: Arc<Encoder>,
    pub card: AdapterCard,
    /// None for a head that compares with names.
    pub labels: LabelSet,
    pub head: TaskHead,
    pub(super) lora: LoraWeights,
    /// Of the configuration; single modules may have others.
    pub rank: usize,
    /// Ascending.
    pub layers: Vec<usize>,
    /// Trained numbers: LoRA and head.
    pub parameters: usize,
    /// Of weights on the device.
    pub bytes: usize,
}

impl ResidentAdapter {
    /// Brings the weights into the form `backbone` computes with.
    pub fn new(identity: AdapterIdentity, bundle: AdapterBundle, backbone: &Arc<ResidentBackbone>) -> Result<Self> {
        Self::on(backbone.encoder().clone(), identity, bundle, backbone)
    }

    /// The same, computed in f32 whatever the backbone computes in.
    pub fn exact(identity: AdapterIdentity, bundle: AdapterBundle, backbone: &Arc<ResidentBackbone>) -> Result<Self> {
        Self::on(backbone.exact()?, identity, bundle, backbone)
    }

    fn on(
        encoder: Arc<Encoder>,
        identity: AdapterIdentity,
        bundle: AdapterBundle,
        backbone: &Arc<ResidentBackbone>,
    ) -> Result<Self> {
        let lora = encoder.prepare(bundle.lora)?;
        let mut layers: Vec<usize> = lora.sites().iter().map(|site| site.layer).collect();
        layers.dedup();
        let (head, rank, parameters) = (bundle.head, bundle.config.rank, bundle.parameters);
        let bytes = lora.bytes() + head.bytes();
        let (backbone, card, labels) = (backbone.clone(), bundle.card, bundle.labels);
        Ok(Self { identity, backbone, encoder, card, labels, head, lora, rank, layers, parameters, bytes })
    }

    /// What computes it.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// `f32` or `bf16`.
    pub fn precision(&self) -> &'static str {
        self.encoder.precision()
    }

    /// The same weights under another name; they are shared.
    pub fn identified(&self, identity: AdapterIdentity) -> Arc<Self> {
        Arc::new(Self { identity, ..self.clone() })
    }
}

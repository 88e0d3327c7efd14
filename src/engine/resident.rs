//! An adapter version on the device. Dropping the last handle gives its memory back.

use crate::adapter::AdapterBundle;
use crate::domain::{AdapterIdentity, Result};
use crate::model::Encoder;

pub struct ResidentAdapter {
    pub identity: AdapterIdentity,
    pub bundle: AdapterBundle,
    /// Of tensors on the device.
    pub bytes: usize,
}

impl ResidentAdapter {
    /// Brings the weights into the form `encoder` computes with.
    pub fn new(identity: AdapterIdentity, mut bundle: AdapterBundle, encoder: &Encoder) -> Result<Self> {
        encoder.prepare(&mut bundle.lora)?;
        let bytes = bundle.parameters * size_of::<f32>() + bundle.lora.packed_bytes();
        Ok(Self { identity, bundle, bytes })
    }
}

//! An adapter version on the device. Dropping the last handle gives its memory back.

use crate::adapter::AdapterBundle;
use crate::domain::AdapterIdentity;

pub struct ResidentAdapter {
    pub identity: AdapterIdentity,
    pub bundle: AdapterBundle,
    /// Of tensors on the device.
    pub bytes: usize,
}

impl ResidentAdapter {
    pub fn new(identity: AdapterIdentity, bundle: AdapterBundle) -> Self {
        let bytes = bundle.parameters * size_of::<f32>();
        Self { identity, bundle, bytes }
    }
}

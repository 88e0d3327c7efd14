//! What tensors are called in the task model, which is how everything in this layer names them. Leaves the file's prefix to `weights`.

use crate::model::{Architecture, Site};

/// `bert.encoder.layer.4.attention.self.query`
pub(crate) fn module_name(architecture: Architecture, site: Site) -> String {
    format!("{}{}", architecture.task_prefix(), architecture.module_path(site))
}

/// (rank, in)
pub(crate) fn lora_a(module: &str) -> String {
    format!("{module}.lora_A.weight")
}

/// (out, rank)
pub(crate) fn lora_b(module: &str) -> String {
    format!("{module}.lora_B.weight")
}

/// (out)
pub(crate) fn lora_b_bias(module: &str) -> String {
    format!("{module}.lora_B.bias")
}

//! The backbone's own tensors that an adapter may bring its copy of.

use candle_core::Tensor;

use crate::model::Encoder;

impl Encoder {
    /// By its name in the task model: the pooler's (`bert.pooler.dense.weight`, `….bias`) and every bias of linears and norms
    /// (`bert.encoder.layer.4.attention.self.query.bias`), f32. None for every other name, and for what the backbone has not.
    pub fn backbone_tensor(&self, name: &str) -> Option<Tensor> {
        let _ = name;
        todo!()
    }
}

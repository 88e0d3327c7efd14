//! Which device the tensors live on.

use candle_core::Device;

use crate::domain::{Error, Result};

/// `cpu`, or `cuda:N` in a build with the feature `cuda`.
pub fn open_device(name: &str) -> Result<Device> {
    match (name, name.strip_prefix("cuda:").map(str::parse)) {
        ("cpu", _) => Ok(Device::Cpu),
        (_, Some(Ok(index))) => open_cuda(index),
        _ => Err(Error::invalid(format!("device {name:?} is neither \"cpu\" nor \"cuda:N\""))),
    }
}

fn open_cuda(index: usize) -> Result<Device> {
    if !candle_core::utils::cuda_is_available() {
        return Err(Error::invalid(format!(
            "device \"cuda:{index}\": this build has no CUDA; build with --features cuda, or use --device cpu"
        )));
    }
    Device::new_cuda(index)
        .map_err(|e| Error::unavailable(format!("device \"cuda:{index}\" cannot be opened")).with_source(e))
}

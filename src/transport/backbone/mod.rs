//! The resident backbone.

mod grpc;
pub(super) mod http;
mod wire;

pub(super) use grpc::{activate, get};

use crate::domain::{Error, Result};
use crate::transport::BackboneView;
use crate::transport::call::Call;

/// The resident backbone is active already; another one is loaded by a start.
fn confirm<'a>(call: &'a Call, asked: &str) -> Result<&'a BackboneView> {
    let resident = &call.services().backbone;
    if asked == resident.name || asked == resident.fingerprint.as_str() {
        return Ok(resident);
    }
    Err(Error::conflict(format!(
        "the resident backbone is {}; another one needs a restart with --backbone {asked}",
        resident.name
    )))
}

//! Backbones: which are resident, and the switch from one to another.

mod grpc;
pub(super) mod http;
mod wire;

pub(super) use grpc::{activate, get, load, retire};

use crate::domain::{Error, Result};
use crate::transport::call::Call;
use wire::{Backbone, ResidentBackbone};

/// What there is now; the answer of every route here.
async fn view(call: &Call) -> Result<Backbone> {
    let registry = call.inference().registry();
    let available = registry.backbones().names().await?;
    let resident: Vec<ResidentBackbone> = registry.backbone_views().into_iter().map(Into::into).collect();
    let active = resident.iter().find(|one| one.is_active).cloned();
    let active = active.ok_or_else(|| Error::internal("no resident backbone is active"))?;
    Ok(Backbone { active, resident, available })
}

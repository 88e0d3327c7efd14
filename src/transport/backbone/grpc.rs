//! Backbones over gRPC.

use crate::domain::Result;
use crate::transport::backbone::{view, wire};
use crate::transport::call::Call;
use crate::transport::proto;

pub(in crate::transport) async fn get(call: Call, _: proto::GetBackboneRequest) -> Result<proto::Backbone> {
    Ok(view(&call).await?.into())
}

pub(in crate::transport) async fn load(call: Call, request: proto::LoadBackboneRequest) -> Result<proto::Backbone> {
    call.inference().registry().load_backbone(&request.backbone).await?;
    Ok(view(&call).await?.into())
}

pub(in crate::transport) async fn activate(
    call: Call,
    request: proto::ActivateBackboneRequest,
) -> Result<proto::Backbone> {
    call.inference().registry().activate_backbone(&request.backbone).await?;
    Ok(view(&call).await?.into())
}

pub(in crate::transport) async fn retire(call: Call, request: proto::RetireBackboneRequest) -> Result<proto::Backbone> {
    call.inference().registry().retire_backbone(&request.backbone).await?;
    Ok(view(&call).await?.into())
}

impl From<wire::Backbone> for proto::Backbone {
    fn from(backbone: wire::Backbone) -> Self {
        let active = backbone.active;
        Self {
            name: active.name,
            fingerprint: active.fingerprint,
            architecture: active.architecture,
            precision: active.precision,
            kernel: active.kernel,
            max_length: active.max_length as u32,
            hidden_size: active.hidden_size as u32,
            layers: active.layers as u32,
            bytes: active.bytes as u64,
            adapters: active.adapters,
            resident: backbone.resident.into_iter().map(Into::into).collect(),
            available: backbone.available,
        }
    }
}

impl From<wire::ResidentBackbone> for proto::ResidentBackbone {
    fn from(backbone: wire::ResidentBackbone) -> Self {
        Self {
            name: backbone.name,
            fingerprint: backbone.fingerprint,
            is_active: backbone.is_active,
            architecture: backbone.architecture,
            precision: backbone.precision,
            kernel: backbone.kernel,
            max_length: backbone.max_length as u32,
            hidden_size: backbone.hidden_size as u32,
            layers: backbone.layers as u32,
            bytes: backbone.bytes as u64,
            adapters: backbone.adapters,
        }
    }
}

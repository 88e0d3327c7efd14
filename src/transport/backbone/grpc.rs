//! The backbone over gRPC.

use crate::domain::Result;
use crate::transport::BackboneView;
use crate::transport::backbone::confirm;
use crate::transport::call::Call;
use crate::transport::proto;

pub(in crate::transport) async fn get(call: Call, _: proto::GetBackboneRequest) -> Result<proto::Backbone> {
    Ok((&call.services().backbone).into())
}

pub(in crate::transport) async fn activate(
    call: Call,
    request: proto::ActivateBackboneRequest,
) -> Result<proto::Backbone> {
    Ok(confirm(&call, &request.backbone)?.into())
}

impl From<&BackboneView> for proto::Backbone {
    fn from(view: &BackboneView) -> Self {
        Self {
            name: view.name.clone(),
            fingerprint: view.fingerprint.to_string(),
            architecture: view.architecture.clone(),
            precision: view.precision.clone(),
            kernel: view.kernel.clone(),
            max_length: view.max_length as u32,
            hidden_size: view.hidden_size as u32,
            layers: view.layers as u32,
        }
    }
}

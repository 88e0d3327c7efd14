//! Adapters over gRPC.

use crate::domain::Result;
use crate::serving::{AdapterView, PublishedVersion, VersionView};
use crate::transport::call::Call;
use crate::transport::proto;
use crate::transport::rpc::{timestamp, to_value};
use crate::transport::wire::adapter_name;

pub(in crate::transport) async fn list(
    call: Call,
    _: proto::ListAdaptersRequest,
) -> Result<proto::ListAdaptersResponse> {
    let adapters = call.inference().registry().list().into_iter().map(Into::into).collect();
    Ok(proto::ListAdaptersResponse { adapters })
}

pub(in crate::transport) async fn publish(
    call: Call,
    request: proto::PublishAdapterRequest,
) -> Result<proto::PublishedVersion> {
    let name = adapter_name(&request.name)?;
    let labels = (!request.labels.is_empty()).then_some(request.labels);
    let family = request.family.map(|family| family.parse()).transpose()?;
    let activate = request.activate.unwrap_or(true);
    let registry = call.inference().registry();
    let (published, warnings) = registry.publish_archive(&name, request.archive, labels, family, activate).await?;
    Ok(proto::PublishedVersion { warnings, ..published.into() })
}

pub(in crate::transport) async fn delete(
    call: Call,
    request: proto::DeleteAdapterRequest,
) -> Result<proto::DeleteAdapterResponse> {
    call.inference().registry().retire(&adapter_name(&request.name)?, request.version).await?;
    Ok(proto::DeleteAdapterResponse {})
}

pub(in crate::transport) async fn activate(
    call: Call,
    request: proto::ActivateAdapterRequest,
) -> Result<proto::Adapter> {
    Ok(call.inference().registry().activate(&adapter_name(&request.name)?, request.version).await?.into())
}

pub(in crate::transport) async fn load(call: Call, request: proto::AdapterVersionRequest) -> Result<proto::Adapter> {
    Ok(call.inference().registry().load(&adapter_name(&request.name)?, request.version).await?.into())
}

pub(in crate::transport) async fn unload(call: Call, request: proto::AdapterVersionRequest) -> Result<proto::Adapter> {
    Ok(call.inference().registry().unload(&adapter_name(&request.name)?, request.version).await?.into())
}

pub(in crate::transport) async fn pin(call: Call, request: proto::AdapterNameRequest) -> Result<proto::Adapter> {
    Ok(call.inference().registry().set_pinned(&adapter_name(&request.name)?, true).await?.into())
}

pub(in crate::transport) async fn unpin(call: Call, request: proto::AdapterNameRequest) -> Result<proto::Adapter> {
    Ok(call.inference().registry().set_pinned(&adapter_name(&request.name)?, false).await?.into())
}

pub(in crate::transport) async fn download(
    call: Call,
    request: proto::AdapterVersionRequest,
) -> Result<proto::DownloadAdapterResponse> {
    let archive = call.inference().registry().download(&adapter_name(&request.name)?, request.version).await?;
    Ok(proto::DownloadAdapterResponse { archive })
}

impl From<AdapterView> for proto::Adapter {
    fn from(view: AdapterView) -> Self {
        Self {
            name: view.name.to_string(),
            family: view.family.map(|family| family.to_string()),
            labels: view.labels,
            active_version: view.active_version,
            versions: view.versions.into_iter().map(Into::into).collect(),
            pinned: view.pinned,
            aliases: view.aliases.iter().map(ToString::to_string).collect(),
            rank: view.rank.map(|rank| rank as u32),
            layers: view.layers.iter().map(|&layer| layer as u32).collect(),
            parameters: view.parameters as u64,
            bytes: view.bytes,
            metrics: view.metrics.map(to_value),
            precision: view.precision.map(str::to_owned),
        }
    }
}

impl From<VersionView> for proto::AdapterVersion {
    fn from(view: VersionView) -> Self {
        Self {
            version: view.version,
            digest: view.digest.to_string(),
            created_at: Some(timestamp(view.created_at)),
            state: view.state.as_str().to_owned(),
            reason: view.reason,
        }
    }
}

impl From<PublishedVersion> for proto::PublishedVersion {
    fn from(published: PublishedVersion) -> Self {
        Self {
            name: published.name.to_string(),
            version: published.version,
            digest: published.digest.to_string(),
            active: published.active,
            warnings: Vec::new(),
        }
    }
}

//! Aliases over gRPC.

use crate::domain;
use crate::domain::{AdapterName, Result};
use crate::transport::aliases::wire;
use crate::transport::call::Call;
use crate::transport::proto;
use crate::transport::wire::adapter_name;

pub(in crate::transport) async fn list(call: Call, _: proto::ListAliasesRequest) -> Result<proto::ListAliasesResponse> {
    let aliases = call.inference().registry().aliases()?;
    Ok(proto::ListAliasesResponse { aliases: aliases.iter().map(|(name, alias)| message(name, alias)).collect() })
}

pub(in crate::transport) async fn get(call: Call, request: proto::AliasRequest) -> Result<proto::Alias> {
    let name = adapter_name(&request.alias)?;
    Ok(message(&name, &super::find(&call, &name)?))
}

pub(in crate::transport) async fn put(call: Call, request: proto::Alias) -> Result<proto::Alias> {
    let name = adapter_name(&request.alias)?;
    let target = |t: proto::AliasTarget| wire::Target { adapter: t.adapter, weight: t.weight.unwrap_or(1) };
    let targets = request.targets.into_iter().map(target).collect();
    let value = wire::AliasSpec { targets, shadow: request.shadow }.into_domain()?;
    call.inference().registry().set_alias(&name, value.clone()).await?;
    Ok(message(&name, &value))
}

pub(in crate::transport) async fn delete(
    call: Call,
    request: proto::AliasRequest,
) -> Result<proto::DeleteAliasResponse> {
    call.inference().registry().remove_alias(&adapter_name(&request.alias)?).await?;
    Ok(proto::DeleteAliasResponse {})
}

fn message(name: &AdapterName, alias: &domain::Alias) -> proto::Alias {
    let target =
        |t: &domain::AliasTarget| proto::AliasTarget { adapter: t.adapter.to_string(), weight: Some(t.weight) };
    proto::Alias {
        alias: name.to_string(),
        targets: alias.targets.iter().map(target).collect(),
        shadow: alias.shadow.as_ref().map(ToString::to_string),
    }
}

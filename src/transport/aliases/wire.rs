//! The JSON of aliases.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain;
use crate::domain::{AdapterName, Error, Result};
use crate::transport::schema;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct AliasSpec {
    /// At least one, at most 32; each gets its share of the requests.
    #[schema(min_items = 1, max_items = 32)]
    pub(in crate::transport) targets: Vec<Target>,
    /// Sees the same requests without answering.
    #[schema(value_type = Option<schema::AdapterReference>)]
    pub(in crate::transport) shadow: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::transport) struct Target {
    /// `name` or `name@version`.
    #[schema(value_type = schema::AdapterReference, example = "people-places@3")]
    pub(in crate::transport) adapter: String,
    #[serde(default = "one")]
    #[schema(default = 1, maximum = 4294967295u32, example = 90)]
    pub(in crate::transport) weight: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::transport) struct Alias {
    #[schema(example = "default-ner")]
    alias: String,
    targets: Vec<Target>,
    shadow: Option<String>,
}

fn one() -> u32 {
    1
}

impl AliasSpec {
    pub(in crate::transport) fn into_domain(self) -> Result<domain::Alias> {
        let target = |(at, target): (usize, Target)| {
            let adapter = target.adapter.parse().map_err(|e: Error| e.context(format!("targets[{at}].adapter")))?;
            Ok(domain::AliasTarget { adapter, weight: target.weight })
        };
        let shadow = |shadow: String| shadow.parse().map_err(|e: Error| e.context("shadow"));
        let alias = domain::Alias {
            targets: self.targets.into_iter().enumerate().map(target).collect::<Result<_>>()?,
            shadow: self.shadow.map(shadow).transpose()?,
        };
        alias.check().map(|()| alias)
    }
}

impl Alias {
    pub(in crate::transport) fn new(name: &AdapterName, alias: &domain::Alias) -> Self {
        let target = |t: &domain::AliasTarget| Target { adapter: t.adapter.to_string(), weight: t.weight };
        Self {
            alias: name.to_string(),
            targets: alias.targets.iter().map(target).collect(),
            shadow: alias.shadow.as_ref().map(ToString::to_string),
        }
    }
}

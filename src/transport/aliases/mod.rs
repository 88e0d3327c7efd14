//! Aliases: weighted splits and shadows of adapters.

mod grpc;
pub(super) mod http;
mod wire;

pub(super) use grpc::{delete, get, list, put};

use crate::domain::{AdapterName, Alias, Error, Result};
use crate::transport::call::Call;

fn find(call: &Call, alias: &AdapterName) -> Result<Alias> {
    let all = call.inference().registry().aliases()?;
    let known: Vec<String> = all.iter().map(|(name, _)| name.to_string()).collect();
    let found = all.into_iter().find(|(name, _)| name == alias).map(|(_, value)| value);
    found.ok_or_else(|| Error::not_found(format!("no alias {alias}; there are: {}", known.join(", "))))
}

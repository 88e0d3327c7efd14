//! Where a running server finds other backbones: in the cache, among what jobs left, in folders. Nothing is fetched for a request.

use std::path::Path;

use serde_json::Value;

use crate::app::wiring::{Model, ModelArgs};
use crate::backbone::BackboneCache;
use crate::domain::{BackboneIdentity, Error, ErrorKind, Result};
use crate::serving::{Backbone, BackboneSource, FoundBackbone, WriteWeights};

pub(super) struct LocalBackbones {
    pub(super) cache: BackboneCache,
    /// Device, precision and kernel, as for the first one.
    pub(super) model: ModelArgs,
    pub(super) batch_tokens_max: usize,
}

impl BackboneSource for LocalBackbones {
    fn find(&self, name: &str) -> Result<FoundBackbone> {
        // On the command line a name that means nothing is wrong usage; of a server it is something that is not there.
        let info = self.cache.verify(name).map_err(|error| match error.kind() {
            ErrorKind::InvalidRequest => Error::not_found(error.message()),
            _ => error,
        })?;
        let identity = BackboneIdentity { name: info.name, fingerprint: info.fingerprint };
        Ok(FoundBackbone { identity, folder: info.folder })
    }

    fn load(&self, found: &FoundBackbone) -> Result<Backbone> {
        let model = self.model.load_found(&found.identity.name, &found.identity.fingerprint, &found.folder)?;
        fits(self.batch_tokens_max, &model).map_err(|error| Error::conflict(error.message().to_owned()))?;
        model.backbone()
    }

    fn keep(&self, name: &str, parent: &Path, provenance: &Value, write: WriteWeights<'_>) -> Result<FoundBackbone> {
        let info = self.cache.derive(name, parent, provenance, write)?;
        let identity = BackboneIdentity { name: info.name, fingerprint: info.fingerprint };
        Ok(FoundBackbone { identity, folder: info.folder })
    }

    fn names(&self) -> Vec<String> {
        let cached = self.cache.list().unwrap_or_default().into_iter().map(|info| info.name);
        cached.chain(self.cache.local_names()).collect()
    }
}

/// A pass must take the longest sequence.
pub(super) fn fits(batch_tokens_max: usize, model: &Model) -> Result<()> {
    let longest = model.encoder.config().max_length;
    if batch_tokens_max >= longest {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "--max-batch-tokens {batch_tokens_max}: backbone {} reads up to {longest} tokens at once, and one sequence must fit",
        model.name
    )))
}

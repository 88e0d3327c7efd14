//! What several tests need.

mod server;

pub(crate) use server::TestServer;

use std::path::Path;
use std::sync::OnceLock;

use trunkline::backbone::{BackboneCache, BackboneInfo, Sources};

/// The folder of the verified plain backbone, which golden numbers are of; fetched into the default cache if it is not there, once a process.
pub(crate) fn plain_backbone() -> &'static Path {
    static INFO: OnceLock<BackboneInfo> = OnceLock::new();
    &INFO.get_or_init(|| backbone("all-MiniLM-L6-v2")).folder
}

/// As `--backbone` finds it, in this machine's own cache.
pub(crate) fn backbone(name: &str) -> BackboneInfo {
    let root = BackboneCache::default_root(env).expect("a home folder");
    let cache =
        BackboneCache::new(root).with_sources(Sources::from_env(env)).with_bundled("backbones/minilm-mtpf".into());
    cache.resolve(name, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[allow(clippy::disallowed_methods)] // tests have no configuration of their own
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

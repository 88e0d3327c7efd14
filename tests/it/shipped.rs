//! What the repository ships is whole and fits together.

use std::path::Path;

use candle_core::Device;
use trunkline::adapter::{AdapterBundle, AdapterStore};
use trunkline::model::Encoder;

use crate::support::backbone;

#[test]
fn every_shipped_adapter_loads_on_the_backbone_it_was_made_for() {
    {
        let (folder, least) = ("adapters", 8);
        let found = backbone("default");
        let encoder = Encoder::load(&found.folder, &Device::Cpu).unwrap();
        let store = AdapterStore::open(Path::new(folder)).unwrap();
        let (adapters, damaged) = store.list().unwrap();
        assert!(adapters.len() >= least && damaged.is_empty(), "{folder}: {} adapters, {damaged:?}", adapters.len());
        for adapter in adapters {
            for version in &adapter.versions {
                let files = store.read(&adapter.name, version.version).unwrap();
                assert_eq!(files.digest(), version.digest, "{folder}: {}", adapter.name);
                let read = AdapterBundle::read(&files, &encoder, &found.fingerprint);
                assert!(read.is_ok(), "{folder}: {}: {:?}", adapter.name, read.err());
            }
        }
    }
}

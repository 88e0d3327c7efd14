//! An adapter is served in the precision of its backbone while it answers as in f32; an extreme one is served in f32, it alone.

use std::sync::Arc;

use candle_core::Device;
use trunkline::domain::{AdapterIdentity, BackboneIdentity};
use trunkline::engine::{
    Batch, BatchSequence, Engine, EngineConfig, LOGITS_APART_MAX, Output, ResidentAdapter, ResidentBackbone, Sample,
    Work,
};
use trunkline::model::Encoder;
use trunkline::model::kernels::packed::Kernel;

use super::world::{Kind, encoder, fingerprint, folder};

fn samples() -> Vec<Sample> {
    let sample = |seed: u32| -> Sample {
        let ids: Arc<[u32]> = (0..24).map(|at| (at * 37 + seed * 101) % 500).collect();
        (ids.clone(), vec![0; ids.len()].into())
    };
    (0..4).map(sample).collect()
}

fn backbone(encoder: Arc<Encoder>) -> Arc<ResidentBackbone> {
    let identity = BackboneIdentity { name: "tiny".to_owned(), fingerprint: fingerprint() };
    ResidentBackbone::admit(identity, encoder).unwrap()
}

/// With weights of up to `spread`.
fn admitted(on: &Arc<ResidentBackbone>, spread: f32) -> Arc<ResidentAdapter> {
    use rand::Rng as _;
    let bundle = Kind::ner(1).bundle_for(&encoder(), |rng| rng.random_range(-spread..spread));
    let family = bundle.family();
    let identity = AdapterIdentity { name: "a".parse().unwrap(), version: 1, digest: fingerprint(), family };
    on.admit_agreeing(identity, bundle, &samples()).unwrap()
}

async fn logits(engine: &Engine, adapters: &[&Arc<ResidentAdapter>]) -> Vec<Vec<f32>> {
    let (ids, type_ids) = samples().remove(0);
    let sequence = |adapter: &&Arc<ResidentAdapter>| {
        let work = Work::Head(Arc::clone(adapter));
        BatchSequence { ids: ids.clone(), type_ids: type_ids.clone(), work }
    };
    let answer = engine.run(Batch { sequences: adapters.iter().map(sequence).collect() }).await.unwrap();
    let numbers = |output| match output {
        Ok(Output::Logits(matrix)) => matrix.data().to_vec(),
        other => panic!("{other:?}"),
    };
    answer.outputs.into_iter().map(numbers).collect()
}

#[tokio::test]
async fn where_f32_serves_every_adapter_is_served_in_it() {
    let on = backbone(encoder());
    assert_eq!(admitted(&on, 5.0).precision(), "f32");
}

#[tokio::test]
async fn an_extreme_adapter_is_served_in_f32_beside_others_in_bf16() {
    let kernel = Kernel::best(true);
    if !kernel.is_bf16() {
        return; // this machine does not multiply bf16: the test above is all there is to it
    }
    let on = backbone(Arc::new(Encoder::load_for(folder(), &Device::Cpu, kernel).unwrap()));
    let (usual, extreme) = (admitted(&on, 0.05), admitted(&on, 20.0));
    assert_eq!((usual.precision(), extreme.precision()), ("bf16", "f32"));
    let exact = backbone(encoder());
    let wanted = [admitted(&exact, 0.05), admitted(&exact, 20.0)];
    let engine = Engine::start(&EngineConfig { threads: 1, prefix_cache_bytes: 1 << 20 }).unwrap();
    // In one batch, twice: the second pass finds what the first kept.
    for _ in 0..2 {
        let got = logits(&engine, &[&usual, &extreme]).await;
        let wanted = logits(&engine, &[&wanted[0], &wanted[1]]).await;
        let apart = |at: usize| got[at].iter().zip(&wanted[at]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart(0) <= LOGITS_APART_MAX, "{}", apart(0));
        assert!(apart(1) <= 1e-3, "{}", apart(1));
    }
}

#[test]
fn adapters_in_f32_share_one_copy_of_the_layers_which_goes_with_the_last_of_them() {
    let kernel = Kernel::best(true);
    if !kernel.is_bf16() {
        return; // f32 is what this machine serves in: there is no copy
    }
    let on = backbone(Arc::new(Encoder::load_for(folder(), &Device::Cpu, kernel).unwrap()));
    let (one, other) = (admitted(&on, 20.0), admitted(&on, 20.0));
    assert!(Arc::ptr_eq(one.encoder(), other.encoder()) && !Arc::ptr_eq(one.encoder(), on.encoder()));
    let copy = Arc::downgrade(one.encoder());
    drop((one, other));
    assert!(copy.upgrade().is_none(), "nobody needs it");
}

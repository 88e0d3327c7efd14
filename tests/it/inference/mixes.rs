//! Alone = in any batch: random mixes of texts and adapters, on every kernel of this machine. `MIXES=10000` draws more of them.

use std::sync::Arc;

use candle_core::Device;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use trunkline::domain::{AdapterIdentity, EmbedParameters, Family, Matrix, Pooling};
use trunkline::engine::{
    Batch, BatchSequence, Engine, EngineConfig, Output, ResidentAdapter, ResidentBackbone, Through, Work,
};
use trunkline::model::Encoder;
use trunkline::model::kernels::packed::Kernel;

use super::world::{Kind, base_of, fingerprint, folder};
use crate::support::{env, plain_backbone};

/// Mixes in CI, of the tiny encoder and of the default backbone.
const TINY_MIXES: usize = 200;
const REAL_MIXES: usize = 5;
const ADAPTERS: u64 = 24;
const SEQUENCES_MAX: usize = 24;
/// Tokens of a text.
const LENGTH_MAX: usize = 32;
/// What the product promises: of logits and scores in f32, of scores in bf16.
const F32_TOLERANCE: f32 = 1e-5;
const BF16_TOLERANCE: f32 = 1e-2;

/// An engine with what it can be asked for.
struct Bench {
    engine: Engine,
    works: Vec<Work>,
    rng: ChaCha8Rng,
    vocabulary: u32,
    tolerance: f32,
}

impl Bench {
    fn new(encoder: Encoder, spread: f32) -> Self {
        let base = base_of(Arc::new(encoder));
        let encoder = base.encoder();
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        let adapters: Vec<_> = (0..ADAPTERS).map(|seed| adapter(&base, seed, spread, &mut rng)).collect();
        let heads = adapters.iter().cloned().map(Work::Head);
        let embed = |adapter: Option<Arc<ResidentAdapter>>, pooling| {
            let through = adapter.map_or_else(|| Through::Base(base.clone()), Through::Adapter);
            Work::Embed(through, EmbedParameters { pooling, normalize: true, ..Default::default() })
        };
        let embeds =
            [embed(None, Pooling::Mean), embed(None, Pooling::Cls), embed(adapters.first().cloned(), Pooling::Mean)];
        Self {
            engine: Engine::start(&EngineConfig { threads: 2, prefix_cache_bytes: 0 }).unwrap(),
            works: heads.chain(embeds).collect(),
            rng,
            vocabulary: encoder.config().vocab_size as u32,
            tolerance: if encoder.precision() == "bf16" { BF16_TOLERANCE } else { F32_TOLERANCE },
        }
    }

    /// Some texts come again, for other adapters, so that layers are shared.
    fn draw(&mut self) -> Vec<BatchSequence> {
        let count = self.rng.random_range(2..=SEQUENCES_MAX);
        let mut texts: Vec<Arc<[u32]>> = Vec::new();
        let mut sequence = |_| {
            let again = texts.choose(&mut self.rng).filter(|_| self.rng.random_bool(0.3)).cloned();
            let ids = again.unwrap_or_else(|| {
                let length = self.rng.random_range(1..=LENGTH_MAX);
                (0..length).map(|_| self.rng.random_range(0..self.vocabulary)).collect()
            });
            texts.push(ids.clone());
            let work = self.works.choose(&mut self.rng).unwrap().clone();
            BatchSequence { type_ids: vec![0; ids.len()].into(), ids, work }
        };
        (0..count).map(&mut sequence).collect()
    }

    async fn run(&self, sequences: &[BatchSequence]) -> Vec<Output> {
        let answer = self.engine.run(Batch { sequences: sequences.to_vec() }).await.unwrap();
        answer.outputs.into_iter().map(Result::unwrap).collect()
    }

    /// The greatest difference of a score.
    async fn check(&mut self, mixes: usize) -> f32 {
        let mut worst = 0.0_f32;
        for mix in 0..mixes {
            let sequences = self.draw();
            let together = self.run(&sequences).await;
            for (sequence, mixed) in sequences.iter().zip(&together) {
                let alone = self.run(std::slice::from_ref(sequence)).await;
                let difference = difference(&alone[0], mixed);
                assert!(difference <= self.tolerance, "mix {mix} moves a score by {difference}");
                worst = worst.max(difference);
            }
        }
        worst
    }
}

fn adapter(base: &Arc<ResidentBackbone>, seed: u64, spread: f32, rng: &mut ChaCha8Rng) -> Arc<ResidentAdapter> {
    let family = *[Family::Ner, Family::Classify].choose(rng).unwrap();
    let layer = rng.random_bool(0.7).then(|| rng.random_range(0..base.encoder().config().layers));
    let kind =
        Kind { family, layer, rank: rng.random_range(1..=64), labels: rng.random_range(2..=60), ..Kind::ner(seed) };
    let bundle = kind.bundle_for(base.encoder(), |rng| rng.random_range(-spread..spread));
    let name = format!("a{seed}").parse().unwrap();
    let identity = AdapterIdentity { name, version: 1, digest: fingerprint(), family };
    Arc::new(ResidentAdapter::new(identity, bundle, base).unwrap())
}

/// Of the scores that callers see; the best label must be the same.
fn difference(alone: &Output, mixed: &Output) -> f32 {
    match (alone, mixed) {
        (Output::Logits(alone), Output::Logits(mixed)) => {
            assert_eq!((alone.rows(), alone.columns()), (mixed.rows(), mixed.columns()));
            alone.iter_rows().zip(mixed.iter_rows()).for_each(|(a, b)| assert_eq!(best(a), best(b), "another label"));
            greatest(&scores(alone), &scores(mixed))
        }
        (Output::Embedding(alone), Output::Embedding(mixed)) => greatest(alone, mixed),
        _ => panic!("answers of different kinds"),
    }
}

fn greatest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// Softmax of each row.
fn scores(logits: &Matrix) -> Vec<f32> {
    let of_row = |row: &[f32]| {
        let highest = row.iter().copied().fold(f32::MIN, f32::max);
        let powers: Vec<f32> = row.iter().map(|x| (x - highest).exp()).collect();
        let sum: f32 = powers.iter().sum();
        powers.into_iter().map(move |power| power / sum).collect::<Vec<_>>()
    };
    logits.iter_rows().flat_map(of_row).collect()
}

fn kernels() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|kernel| kernel.is_available())
}

fn mixes(usual: usize) -> usize {
    env("MIXES").map_or(usual, |mixes| mixes.parse().unwrap())
}

#[tokio::test]
async fn a_text_is_answered_alone_as_in_any_of_many_random_batches() {
    for kernel in kernels() {
        let encoder = Encoder::load_for(folder(), &Device::Cpu, kernel).unwrap();
        let worst = Bench::new(encoder, 0.4).check(mixes(TINY_MIXES)).await;
        println!("{}: greatest difference of a score {worst:e}", kernel.name());
    }
}

/// The sizes that are served: more than one tile, chunk and strip.
#[tokio::test]
async fn so_it_is_on_the_plain_backbone() {
    for kernel in [Kernel::best(true), Kernel::best(false)] {
        let encoder = Encoder::load_for(plain_backbone(), &Device::Cpu, kernel).unwrap();
        let worst = Bench::new(encoder, 0.05).check(mixes(REAL_MIXES)).await;
        println!("{}: greatest difference of a score {worst:e}", kernel.name());
    }
}

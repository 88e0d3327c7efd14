//! Adapters through the engine, heads included: many against one on the same texts, and one text through several.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use trunkline::adapter::{AdapterBundle, AdapterCard, LoraConfig, TargetModules};
use trunkline::domain::{AdapterIdentity, BackboneIdentity, Digest, Family, HeadForm, ProblemType};
use trunkline::engine::{Batch, BatchSequence, Engine, EngineConfig, ResidentAdapter, ResidentBackbone, Work};
use trunkline::model::{Encoder, Packed};

use crate::measure::{Effort, alternate};
use crate::texts::Texts;

const MANY: usize = 64;
/// In turn; the middle one is also what a single adapter has.
const RANKS: [usize; 5] = [16, 4, 64, 8, 32];
/// Batches of one pass, so that a pass meets rare adapters too.
const BATCHES: usize = 4;
const BATCH_TOKENS: usize = 2048;
/// Of the text that many adapters see.
const SHARED_TOKENS: usize = 32;
const SHARING: usize = 8;
const SEED: u64 = 7;

pub(crate) fn run(encoder: &Arc<Encoder>, texts: &Texts, effort: Effort) -> Vec<Value> {
    [1, 2].into_iter().flat_map(|threads| Bench::new(encoder, threads).run(texts, effort)).collect()
}

struct Bench {
    encoder: Arc<Encoder>,
    base: Arc<ResidentBackbone>,
    engine: Engine,
    runtime: Runtime,
    threads: usize,
}

impl Bench {
    fn new(encoder: &Arc<Encoder>, threads: usize) -> Self {
        let engine = Engine::start(&EngineConfig { threads, prefix_cache_bytes: 0 }).expect("an engine");
        let runtime = Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let identity = BackboneIdentity { name: "measured".to_owned(), fingerprint: digest() };
        let base = ResidentBackbone::admit(identity, encoder.clone()).expect("a backbone");
        Self { encoder: encoder.clone(), base, engine, runtime, threads }
    }

    fn run(&self, texts: &Texts, effort: Effort) -> [Value; 2] {
        [self.many(texts, effort), self.sharing(texts, effort)]
    }

    /// 64 adapters by Zipf's law against a single one of each family.
    fn many(&self, texts: &Texts, effort: Effort) -> Value {
        let texts = texts.mixed(BATCH_TOKENS);
        let all: Vec<_> =
            (0..MANY).map(|at| self.adapter(family(at), RANKS[at % RANKS.len()], layers(family(at)))).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let drawn: Vec<Batch> = (0..BATCHES).map(|_| batch(&texts, || all[zipf(MANY, &mut rng)].clone())).collect();
        let single = |family| {
            let one = self.adapter(family, RANKS[0], layers(family));
            vec![batch(&texts, || one.clone()); BATCHES]
        };
        let (ner, classify) = (single(Family::Ner), single(Family::Classify));
        let times =
            alternate(&[&|| self.pass(&drawn), &|| self.pass(&ner), &|| self.pass(&classify)], self.threads, effort);
        let against = [times.ratio(1, 0), times.ratio(2, 0)];
        let tokens = self.threads as f64 * (BATCHES * BATCH_TOKENS) as f64 / times.median(0);
        println!(
            "{:>7} threads: {MANY} adapters (ranks 4-64, Zipf 1.0) {tokens:.0} tokens/s; throughput against one NER adapter {:.3}, one classify adapter {:.3}",
            self.threads, against[0], against[1]
        );
        json!({"threads": self.threads, "many_adapters": MANY, "tokens_per_s": tokens,
            "throughput_against_one_ner": against[0], "throughput_against_one_classify": against[1]})
    }

    /// One text through eight adapters of the last two layers: one batch against eight.
    fn sharing(&self, texts: &Texts, effort: Effort) -> Value {
        let text = texts.shape(1, SHARED_TOKENS);
        let layers = self.encoder.config().layers - 2..self.encoder.config().layers;
        let adapters = (0..SHARING).map(|at| self.adapter(family(at), 8, layers.clone().collect()));
        let singles: Vec<Batch> = adapters.map(|adapter| batch(&text, || adapter.clone())).collect();
        let shared = [Batch { sequences: singles.iter().flat_map(|single| single.sequences.clone()).collect() }];
        let times = alternate(&[&|| self.pass(&shared), &|| self.pass(&singles)], self.threads, effort);
        let (milliseconds, ratio) = (times.median(0) * 1e3, times.ratio(1, 0));
        println!(
            "{:>7} threads: one text of {SHARED_TOKENS} tokens through {SHARING} adapters of the last two layers {milliseconds:.3} ms; {SHARING} single passes take {ratio:.2} times as long",
            self.threads
        );
        json!({"threads": self.threads, "sharing_adapters": SHARING, "seconds": milliseconds / 1e3, "singles_take_times": ratio})
    }

    fn pass(&self, batches: &[Batch]) {
        for batch in batches {
            let answer = self.runtime.block_on(self.engine.run(batch.clone())).expect("an answer");
            assert!(answer.outputs.iter().all(Result::is_ok), "every sequence has an answer");
        }
    }

    /// Random weights: a fresh adapter's update is zero, and costs nothing.
    fn adapter(&self, family: Family, rank: usize, layers: Vec<usize>) -> Arc<ResidentAdapter> {
        let modules = ["query", "key", "value", "dense"].map(str::to_owned).to_vec();
        let config = LoraConfig {
            rank,
            target_modules: TargetModules::Suffixes(modules),
            layers_to_transform: Some(layers),
            ..LoraConfig::default()
        };
        let fresh = AdapterBundle::fresh(config, card(family), &self.encoder, SEED).expect("an adapter");
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut draw = |(name, tensor): (String, Tensor)| {
            let numbers: Vec<f32> = (0..tensor.elem_count()).map(|_| rng.random_range(-0.02..0.02)).collect();
            (name, Tensor::from_vec(numbers, tensor.dims(), tensor.device()).expect("a tensor"))
        };
        let tensors: HashMap<String, Tensor> = fresh.trainable().into_iter().map(&mut draw).collect();
        let bundle = fresh.with_tensors(&self.encoder, &tensors).expect("the same adapter");
        let name = "measured".parse().expect("a name");
        let identity = AdapterIdentity { name, version: 1, digest: digest(), family };
        Arc::new(ResidentAdapter::new(identity, bundle, &self.base).expect("a resident adapter"))
    }
}

fn family(at: usize) -> Family {
    if at.is_multiple_of(2) { Family::Ner } else { Family::Classify }
}

/// What training with `auto` changes of the default backbone's six layers.
fn layers(family: Family) -> Vec<usize> {
    match family {
        Family::Ner => vec![2, 3, 4, 5],
        Family::Classify => vec![4, 5],
    }
}

fn card(family: Family) -> AdapterCard {
    let labels = match family {
        Family::Ner => ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
        Family::Classify => ["one", "two", "three", "four", "five"],
    };
    AdapterCard {
        family,
        head: HeadForm::Labels,
        labels: labels.map(str::to_owned).to_vec(),
        problem_type: ProblemType::SingleLabel,
        backbone_fingerprint: digest(),
        max_length: 128,
        pooling: "cls".to_owned(),
        thresholds: BTreeMap::new(),
        training: None,
    }
}

fn digest() -> Digest {
    Digest::from_sha256(&[0; 32])
}

/// Every text of `texts` with the adapter that comes next.
fn batch(texts: &Packed, mut next: impl FnMut() -> Arc<ResidentAdapter>) -> Batch {
    let sequence = |bounds: &[usize]| BatchSequence {
        ids: texts.ids[bounds[0]..bounds[1]].into(),
        type_ids: texts.type_ids[bounds[0]..bounds[1]].into(),
        work: Work::Head(next()),
    };
    Batch { sequences: texts.bounds.windows(2).map(sequence).collect() }
}

/// Of `items`, the i-th (from 0) with a share of 1 / (i + 1).
fn zipf(items: usize, rng: &mut ChaCha8Rng) -> usize {
    let share = |at: usize| 1.0 / (at + 1) as f64;
    let mut left = rng.random::<f64>() * (0..items).map(share).sum::<f64>();
    (0..items - 1)
        .find(|&at| {
            left -= share(at);
            left < 0.0
        })
        .unwrap_or(items - 1)
}

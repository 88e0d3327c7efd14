//! On a tiny encoder of each kind: gradients against difference quotients, equal data for all strategies, stops and what is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::gradient::Sinks;
use super::pool::Pool;
use super::primary::Primary;
use super::read::{Batch, Reader};
use super::step::{Found, Stepper};
use super::*;
use crate::adapter::AdapterBundle;
use crate::domain::{
    Auto, DataRef, Digest, Family, FineTuneSpec, HeadForm, Hyperparameters, LayerChoice, MixedSet,
    PreFinetuneHyperparameters, PreFinetuneOutputs, PreFinetuneSpec, Publish, Strategy,
};
use crate::model::kernels::packed::Kernel;
use crate::model::{Encoder, Mode, TrainableEncoder};
use crate::text::Tokenizer;
use crate::training::dataset::{Example, Split};
use crate::training::predict::{Held, hidden};
use crate::training::workers::Workers;
use crate::training::{Control, FineTuneSetup, Observer, Outcome, TrainingEvent, fine_tune};

fn folder(architecture: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures").join(architecture)
}

fn fingerprint() -> Digest {
    Digest::from_sha256(&[7; 32])
}

fn split(examples: Vec<Example>) -> Split {
    Split { examples, multi_label: false }
}

fn set(name: &str, examples: Vec<Example>) -> PoolSet {
    PoolSet { name: name.to_owned(), weight: 1.0, split: split(examples) }
}

/// Two NER sets that share one type by name.
fn ner() -> Vec<PoolSet> {
    let row = |text: &str, tags: &str| Example::Ner {
        words: text.split(' ').map(str::to_owned).collect(),
        tags: tags.split(' ').map(str::to_owned).collect(),
    };
    let people =
        [("Anna lives in Rome", "B-PER O O B-LOC"), ("Bob met Anna", "B-PER O B-PER"), ("no one came", "O O O")];
    let films = [("the film Alien by Scott", "O O B-title O B-person"), ("a funny movie", "O B-genre O")];
    let rows = |texts: &[(&str, &str)]| texts.iter().cycle().take(30).map(|(text, tags)| row(text, tags)).collect();
    vec![set("people", rows(&people)), set("films", rows(&films))]
}

/// One set of pairs and one of classes.
fn texts() -> Vec<PoolSet> {
    let words = ["red", "blue", "old", "new", "fast", "slow", "good", "bad"];
    let pair = |i: usize| Example::Pair {
        a: format!("a {} car", words[i % 8]),
        b: format!("the car is {} and {}", words[i % 8], words[(i / 8) % 8]),
        label: None,
        score: None,
    };
    let text = |i: usize| Example::Classify {
        text: format!("{} weather on day {i}", words[i % 8]),
        text_pair: None,
        labels: vec![["sunny_day", "rain"][i % 2].to_owned()],
    };
    vec![set("pairs", (0..40).map(pair).collect()), set("weather", (0..40).map(text).collect())]
}

fn asked() -> PreFinetuneHyperparameters {
    PreFinetuneHyperparameters {
        steps: 6,
        batch_size: 8,
        layers: LayerChoice::Last(2),
        rank: 2,
        backbone_learning_rate: 1e-3,
        adapter_learning_rate: 1e-2,
        max_length: 24,
        measure_every: 2,
        label_name_share: 0.5,
        ..PreFinetuneHyperparameters::default()
    }
}

fn spec(strategy: Strategy) -> PreFinetuneSpec {
    let mix = |sets: Vec<PoolSet>| {
        let data = |set: PoolSet| DataRef { dataset: set.name, split: "train".to_owned() };
        sets.into_iter().map(|set| MixedSet { data: data(set), weight: 1.0 }).collect()
    };
    PreFinetuneSpec {
        backbone: "default".to_owned(),
        strategy,
        ner: mix(ner()),
        classify: mix(texts()),
        hyperparameters: asked(),
        outputs: PreFinetuneOutputs {
            backbone: "b".parse().unwrap(),
            ner_primary: "n".parse().unwrap(),
            classify_primary: "c".parse().unwrap(),
        },
        publish: Publish::Stage,
    }
}

/// Everything a step needs.
struct World {
    encoder: TrainableEncoder,
    tokenizer: Tokenizer,
    pool: Pool,
    primaries: Vec<Primary>,
    asked: PreFinetuneHyperparameters,
}

impl World {
    fn new(architecture: &str, strategy: Strategy) -> Self {
        let folder = folder(architecture);
        let encoder = Arc::new(Encoder::load(&folder, &Device::Cpu).unwrap());
        let asked = asked();
        let primary = |&family: &Family| Primary::new(family, strategy, &asked, &encoder, &fingerprint()).unwrap();
        let primaries = strategy.families().iter().map(primary).collect();
        Self {
            encoder: TrainableEncoder::new(encoder.clone(), Kernel::best(false)).unwrap(),
            tokenizer: Tokenizer::load(&folder).unwrap(),
            pool: Pool::new(strategy.families(), ner(), texts()).unwrap(),
            primaries,
            asked,
        }
    }

    fn batches(&self, step: u64) -> Vec<Batch> {
        let reader = Reader::new(&self.tokenizer, &self.pool, &self.asked, self.asked.max_length);
        self.primaries.iter().map(|primary| reader.batch(primary.family, step).unwrap()).collect()
    }

    fn sinks(&self, threads: usize) -> Sinks {
        Sinks::new(self.encoder.numbers().len(), threads, self.primaries.len())
    }

    fn found(&self, batches: &[Batch], sinks: &Sinks, threads: usize) -> Vec<Found> {
        let Self { encoder, primaries, asked, .. } = self;
        let stepper = Stepper { encoder, primaries, asked, sinks, workers: Workers(threads) };
        stepper.gradients(batches, 0, false).expect("nobody stops it")
    }

    /// What the step descends: the sum of the losses.
    fn loss(&self, batches: &[Batch]) -> f64 {
        self.found(batches, &self.sinks(1), 1).iter().map(|found| found.loss).sum()
    }

    /// Gradients by the backbone and by each family's own variables.
    fn gradients(&self, batches: &[Batch], threads: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
        let sinks = self.sinks(threads);
        let found = self.found(batches, &sinks, threads);
        let mut gradient = vec![0.0; self.encoder.numbers().len()];
        sinks.drain(&mut gradient, Workers(threads));
        (gradient, found.into_iter().map(|found| found.gradient).collect())
    }

    /// Moves LoRA's B off zero, so that A gets a gradient too.
    fn stir(&self) {
        for primary in &self.primaries {
            let numbers = primary.variables.flat().unwrap();
            let moved: Vec<f32> =
                numbers.iter().enumerate().map(|(i, x)| x + 0.02 * ((i * 37 % 17) as f32 - 8.0) / 8.0).collect();
            primary.variables.set(&moved).unwrap();
        }
    }
}

/// Where the gradient is largest within `range`.
fn steepest(gradient: &[f32], range: std::ops::Range<usize>) -> usize {
    range.max_by(|&i, &j| gradient[i].abs().total_cmp(&gradient[j].abs())).expect("a tensor has numbers")
}

/// The slope of `loss` by one number, from three steps of f32 sized by it.
fn quotient(mut loss: impl FnMut(f32) -> f64, by: f32) -> f64 {
    (loss(by) - loss(-by)) / (2.0 * f64::from(by))
}

fn assert_slope(what: &str, got: f32, wanted: f64) {
    let got = f64::from(got);
    assert!((got - wanted).abs() < 3e-4 + 0.03 * wanted.abs(), "{what}: gradient {got}, difference quotient {wanted}");
}

#[test]
fn a_steps_gradient_is_the_slope_in_every_tensor_of_the_backbone_and_of_both_families() {
    for architecture in ["bert", "modernbert"] {
        let world = World::new(architecture, Strategy::TaskPrimary);
        world.stir();
        let batches = world.batches(1);
        let (gradient, own) = world.gradients(&batches, 2);
        for slot in world.encoder.slots() {
            let at = steepest(&gradient, slot.range.clone());
            let loss = |by: f32| {
                world.encoder.update(|numbers| numbers[at] += by);
                let loss = world.loss(&batches);
                world.encoder.update(|numbers| numbers[at] -= by);
                loss
            };
            assert_slope(&format!("{architecture} {}", slot.name), gradient[at], quotient(loss, 2e-3));
        }
        for (primary, gradient) in world.primaries.iter().zip(&own) {
            let numbers = primary.variables.flat().unwrap();
            for group in primary.groups(&world.asked) {
                let at = steepest(gradient, group.range);
                let loss = |by: f32| {
                    let mut moved = numbers.clone();
                    moved[at] += by;
                    primary.variables.set(&moved).unwrap();
                    let loss = world.loss(&batches);
                    primary.variables.set(&numbers).unwrap();
                    loss
                };
                assert_slope(&format!("{architecture} {} {at}", primary.family), gradient[at], quotient(loss, 2e-3));
            }
        }
    }
}

#[test]
fn however_many_threads_share_a_batch_its_gradient_is_the_same() {
    let world = World::new("bert", Strategy::TaskPrimary);
    let batches = world.batches(3);
    let (alone, alone_own) = world.gradients(&batches, 1);
    let largest = alone.iter().fold(0f32, |max, x| max.max(x.abs()));
    for threads in 2..5 {
        let (shared, own) = world.gradients(&batches, threads);
        let near = |got: &[f32], wanted: &[f32]| got.iter().zip(wanted).all(|(x, y)| (x - y).abs() < 1e-4 * largest);
        assert!(near(&shared, &alone) && near(&own[0], &alone_own[0]) && near(&own[1], &alone_own[1]), "{threads}");
        assert_eq!(world.gradients(&batches, threads).0, shared, "the same every time");
    }
}

#[test]
fn bf16_products_give_nearly_the_same_gradient() {
    let mut world = World::new("bert", Strategy::TaskPrimary);
    let batches = world.batches(2);
    let (exact, _) = world.gradients(&batches, 1);
    world.encoder = TrainableEncoder::new(world.encoder.origin().clone(), Kernel::best(true)).unwrap();
    let (rounded, _) = world.gradients(&batches, 1);
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>();
    let cosine = dot(&exact, &rounded) / (dot(&exact, &exact) * dot(&rounded, &rounded)).sqrt();
    assert!(cosine > 0.995, "{cosine}");
}

#[test]
fn what_is_kept_in_bf16_is_what_products_in_bf16_read() {
    let mut world = World::new("bert", Strategy::TaskPrimary);
    world.encoder = TrainableEncoder::new(world.encoder.origin().clone(), Kernel::best(true)).unwrap();
    let batches = world.batches(2);
    let (before, _) = world.gradients(&batches, 1);
    let numbers = world.encoder.numbers();
    world.encoder.keep_bf16();
    let kept = world.encoder.numbers();
    for slot in world.encoder.slots() {
        let is_matrix = slot.shape.len() == 2;
        let is_right = |at: usize| if is_matrix { kept[at].to_bits() & 0xffff == 0 } else { kept[at] == numbers[at] };
        assert!(slot.range.clone().all(is_right), "{}", slot.name);
    }
    let (after, _) = world.gradients(&batches, 1);
    if Kernel::best(true).is_bf16() {
        assert!(before == after, "not a bit of a gradient changes");
    }
}

#[test]
fn all_strategies_see_the_same_rows_and_start_from_the_same_losses() {
    let losses = |strategy| {
        let world = World::new("bert", strategy);
        let found = world.found(&world.batches(5), &world.sinks(2), 2);
        found.iter().map(|found| found.loss).collect::<Vec<_>>()
    };
    let both = losses(Strategy::Joint);
    assert_eq!(losses(Strategy::NerOnly), both[..1]);
    assert_eq!(losses(Strategy::ClassifyOnly), both[1..]);
    // fresh LoRA changes nothing
    for (primary, joint) in losses(Strategy::TaskPrimary).iter().zip(&both) {
        assert!((primary - joint).abs() < 1e-5, "{primary} {joint}");
    }
}

#[test]
fn only_task_primaries_train_lora() {
    for (strategy, trains) in [(Strategy::TaskPrimary, true), (Strategy::Joint, false)] {
        let world = World::new("bert", strategy);
        let (_, own) = world.gradients(&world.batches(0), 1);
        for (primary, gradient) in world.primaries.iter().zip(own) {
            let of_lora = primary.groups(&world.asked).into_iter().filter(|group| group.rate == 1.0);
            let is_nothing = of_lora.flat_map(|group| gradient[group.range].to_vec()).all(|slope| slope == 0.0);
            assert_eq!(is_nothing, !trains, "{strategy:?} {}", primary.family);
        }
    }
}

/// Stops a run after `left` steps.
#[derive(Default)]
struct Watch {
    events: Vec<TrainingEvent>,
    left: Option<usize>,
}

impl Observer for Watch {
    fn event(&mut self, event: TrainingEvent) {
        self.events.push(event);
    }

    fn control(&mut self) -> Control {
        let steps = self.events.iter().filter(|event| matches!(event, TrainingEvent::Step { .. })).count();
        if self.left.is_some_and(|left| steps >= left) { Control::Pause } else { Control::Continue }
    }
}

fn setup(strategy: Strategy, checkpoints: &Path) -> PreFinetuneSetup {
    let folder = folder("bert");
    PreFinetuneSetup {
        encoder: Arc::new(Encoder::load(&folder, &Device::Cpu).unwrap()),
        tokenizer: Arc::new(Tokenizer::load(&folder).unwrap()),
        fingerprint: fingerprint(),
        spec: spec(strategy),
        ner: ner(),
        classify: texts(),
        checkpoint_folder: checkpoints.to_owned(),
        threads: 2,
    }
}

fn finish(setup: PreFinetuneSetup) -> Box<PreFinetuned> {
    match pre_finetune(setup, &mut Watch::default()).unwrap() {
        PreFinetuneOutcome::Finished(trained) => trained,
        PreFinetuneOutcome::Stopped(control) => panic!("{control:?}"),
    }
}

/// All bytes a run leaves.
fn left(trained: &PreFinetuned, folder: &Path) -> Vec<Vec<u8>> {
    let path = folder.join("model.safetensors");
    trained.write_weights(&path).unwrap();
    let primaries = [Family::Ner, Family::Classify].map(|family| trained.primary(family, &fingerprint()).unwrap());
    let files = primaries.iter().flat_map(|files| files.entries()).map(|(_, contents)| contents.to_vec());
    std::iter::once(std::fs::read(&path).unwrap()).chain(files).collect()
}

#[test]
fn a_run_that_is_stopped_and_goes_on_leaves_the_same_bytes() {
    let at = tempfile::tempdir().unwrap();
    let whole = finish(setup(Strategy::TaskPrimary, &at.path().join("whole")));
    let parts = at.path().join("parts");
    for steps in [1, 3] {
        let mut watch = Watch { left: Some(steps), ..Watch::default() };
        let ended = pre_finetune(setup(Strategy::TaskPrimary, &parts), &mut watch).unwrap();
        assert!(matches!(ended, PreFinetuneOutcome::Stopped(Control::Pause)));
    }
    let resumed = finish(setup(Strategy::TaskPrimary, &parts));
    assert!(left(&whole, at.path()) == left(&resumed, at.path()), "equal bytes");
    assert_eq!((&whole.report, &whole.provenance), (&resumed.report, &resumed.provenance));
    let other = PreFinetuneSetup { threads: 2, ..setup(Strategy::Joint, &parts) };
    let mut watch = Watch { left: Some(0), ..Watch::default() };
    pre_finetune(other, &mut watch).unwrap();
    let passed_over = |event: &TrainingEvent| matches!(event, TrainingEvent::Message(text) if text.contains("belongs to another spec"));
    assert!(watch.events.iter().any(passed_over), "a checkpoint of another strategy is not gone on from");
}

#[test]
fn every_strategy_leaves_a_backbone_two_primaries_and_a_report() {
    let at = tempfile::tempdir().unwrap();
    for strategy in Strategy::ALL {
        let trained = finish(setup(strategy, &at.path().join(strategy.as_str())));
        let backbone = at.path().join("backbone");
        std::fs::create_dir_all(&backbone).unwrap();
        std::fs::copy(folder("bert").join("config.json"), backbone.join("config.json")).unwrap();
        trained.write_weights(&backbone.join("model.safetensors")).unwrap();
        let encoder = Encoder::load(&backbone, &Device::Cpu).unwrap();
        let reread = TrainableEncoder::new(Arc::new(encoder), Kernel::best(false)).unwrap();
        let before = TrainableEncoder::new(setup(strategy, at.path()).encoder, Kernel::best(false)).unwrap();
        assert!(reread.numbers() != before.numbers(), "{strategy:?} trains the backbone");
        for (family, form) in [(Family::Ner, HeadForm::Concepts), (Family::Classify, HeadForm::Similarity)] {
            let files = trained.primary(family, &fingerprint()).unwrap();
            let primary = AdapterBundle::read(&files, reread.origin(), &fingerprint()).unwrap();
            assert_eq!((primary.family(), primary.head.form()), (family, form));
            let moved = primary
                .lora
                .deltas()
                .values()
                .any(|delta| delta.b.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().any(|x| *x != 0.0));
            assert_eq!(moved, strategy == Strategy::TaskPrimary, "{strategy:?} {family}");
            let has_threshold = strategy.families().contains(&Family::Ner) && family == Family::Ner;
            assert_eq!(primary.card.concept_threshold().is_some(), has_threshold);
        }
        let series = trained.report.pointer("/pre_finetune/series").unwrap().as_array().unwrap();
        let steps: Vec<u64> = series.iter().map(|point| point["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 3, 5, 6]);
        for point in series {
            let cosines = point["cosine"].as_array().unwrap();
            assert_eq!(cosines.len(), if strategy.families().len() == 2 { 3 } else { 0 });
            assert!(cosines.iter().all(|cosine| cosine.as_f64().unwrap().abs() <= 1.0));
            assert_eq!(point["ner_loss"].is_f64(), strategy.families().contains(&Family::Ner));
        }
        for plot in ["conflict.svg", "cosine.svg", "losses.svg"] {
            let plot = trained.report.pointer(&format!("/pre_finetune/plots/{plot}")).unwrap();
            assert!(plot.as_str().unwrap().starts_with("<svg"));
        }
        let conflict = trained.report.pointer("/pre_finetune/conflict").unwrap();
        assert_eq!(conflict.is_object(), strategy.families().len() == 2, "{conflict}");
        for side in ["begin", "end"].iter().filter_map(|side| conflict.get(side)) {
            assert_eq!(side["cosine"].as_array().unwrap().len(), 3, "a cosine or none for each layer: {side}");
        }
    }
}

#[test]
fn a_tagger_that_begins_at_names_ranks_types_as_the_primary_does() {
    let at = tempfile::tempdir().unwrap();
    let setup = setup(Strategy::TaskPrimary, &at.path().join("primary"));
    let (encoder, tokenizer) = (setup.encoder.clone(), setup.tokenizer.clone());
    let files = finish(setup).primary(Family::Ner, &fingerprint()).unwrap();
    let primary = AdapterBundle::read(&files, &encoder, &fingerprint()).unwrap();
    let tuned = started_from(&primary, (encoder.clone(), tokenizer.clone()), &at.path().join("tagger"));
    let states = |adapter: &AdapterBundle, texts: &[&str]| -> Vec<Tensor> {
        let text = |text: &&str| Example::Classify { text: (*text).to_owned(), text_pair: None, labels: Vec::new() };
        let examples: Vec<Example> = texts.iter().map(text).collect();
        let both = (&*encoder, &*tokenizer);
        let held = Held::prepare(both, adapter, &examples, &mut 0, Workers(1), &mut || Control::Continue).ok().unwrap();
        let of = |row| hidden(&encoder, adapter, (&held.sequences, &held.prefix), &[row], Mode::Eval).unwrap();
        (0..texts.len()).map(of).collect()
    };
    let head = primary.head.concepts().unwrap();
    let names = states(&primary, &["title", "person", "genre"]);
    let names: Vec<Tensor> = names.iter().map(|states| states.mean_keepdim(0).unwrap()).collect();
    let concepts = head.concepts(&Tensor::cat(&names, 0).unwrap()).unwrap();
    let tags = ["B-title", "B-person", "B-genre"].map(|tag| tuned.labels.index_of(tag).unwrap());
    let best = |scores: &[f32]| (0..3).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
    for words in ["who made Alien", "funny films by Ridley Scott are rare"] {
        let (before, after) = (states(&primary, &[words]).remove(0), states(&tuned, &[words]).remove(0));
        let bounds = [0, before.dim(0).unwrap()];
        let wanted = head.logits(&before, &bounds, &concepts).unwrap().to_vec2::<f32>().unwrap();
        let got = tuned.head.forward(&after, &bounds, Mode::Eval).unwrap().to_vec2::<f32>().unwrap();
        for (wanted, got) in wanted.iter().zip(&got) {
            assert_eq!(best(&tags.map(|tag| got[tag])), best(wanted), "{words}");
        }
    }
}

/// A tagger of films after a run whose steps move nothing: what it ends with is what it began with.
fn started_from(primary: &AdapterBundle, both: (Arc<Encoder>, Arc<Tokenizer>), checkpoints: &Path) -> AdapterBundle {
    let hyperparameters =
        Hyperparameters { epochs: Auto::Set(1), learning_rate: Auto::Set(1e-12), ..Hyperparameters::default() };
    let spec = FineTuneSpec {
        adapter: "tagger".parse().unwrap(),
        family: Family::Ner,
        init_from: None,
        train: "films:train".parse().unwrap(),
        validation: None,
        test: None,
        hyperparameters,
        gate: None,
        publish: Publish::Never,
    };
    let setup = FineTuneSetup {
        encoder: both.0.clone(),
        tokenizer: both.1,
        fingerprint: fingerprint(),
        spec,
        train: ner().remove(1).split,
        validation: None,
        test: None,
        init: Some(primary.clone()),
        pools_mean: None,
        checkpoint_folder: checkpoints.to_owned(),
        threads: 1,
        job_id: None,
    };
    match fine_tune(setup, &mut Watch::default()).unwrap() {
        Outcome::Finished(tuned) => AdapterBundle::read(&tuned.files, &both.0, &fingerprint()).unwrap(),
        Outcome::Stopped(control) => panic!("{control:?}"),
    }
}

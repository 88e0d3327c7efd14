//! On every architecture a gradient reaches every variable of an adapter and its head, and it is the slope of the loss.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use trunkline::model::{Delta, Encoder, Head, HeadKind, LoraWeights, Mode, Packed, SegmentAdapters, Site};

const RANK: usize = 2;
const LABELS: usize = 3;

/// An adapter and head of variables, with the batch they see.
struct Setup {
    encoder: Encoder,
    kind: HeadKind,
    pooling: &'static str,
    deltas: Vec<(Site, Var, Var)>,
    head: Vec<(String, Var)>,
    packed: Packed,
}

/// Deterministic numbers in ±0.3.
fn draw(shape: &[usize], seed: u64) -> Tensor {
    let len: usize = shape.iter().product();
    let number = |i: usize| ((i as f64 + 1.0) * (seed as f64 + 1.0) * 12.9898).sin() as f32 * 0.3;
    Tensor::from_vec((0..len).map(number).collect::<Vec<f32>>(), shape, &Device::Cpu).expect("a tensor")
}

fn variable(shape: &[usize], seed: u64) -> Var {
    Var::from_tensor(&draw(shape, seed)).expect("a variable")
}

impl Setup {
    fn new(architecture: &str, kind: HeadKind, pooling: &'static str) -> Self {
        let folder = Path::new("tests/fixtures/architectures").join(architecture);
        let encoder = Encoder::load(&folder, &Device::Cpu).expect("an encoder");
        let delta = |(i, site): (usize, Site)| {
            let (out, width) = encoder.site_shape(site);
            (site, variable(&[RANK, width], 2 * i as u64), variable(&[out, RANK], 2 * i as u64 + 1))
        };
        let deltas = encoder.sites().into_iter().enumerate().map(delta).collect();
        let required = Head::required(kind, &encoder, pooling, LABELS).into_iter().enumerate();
        let head = required.map(|(i, (name, shape))| (name, variable(&shape, 1000 + i as u64))).collect();
        // longer than the local attention's window
        let ids: Vec<u32> = (0..30).map(|i| 3 + 7 * i % 500).collect();
        let packed = Packed::new([(&ids[..20], &[0; 20][..]), (&ids[20..], &[0; 10][..])]);
        Self { encoder, kind, pooling, deltas, head, packed }
    }

    fn variables(&self) -> impl Iterator<Item = (String, &Var)> {
        let deltas =
            self.deltas.iter().flat_map(|(site, a, b)| [(format!("{site:?} A"), a), (format!("{site:?} B"), b)]);
        deltas.chain(self.head.iter().map(|(name, var)| (name.clone(), var)))
    }

    fn loss(&self, mode: Mode) -> Tensor {
        let delta = |(site, a, b): &(Site, Var, Var)| {
            (*site, Delta { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scale: 0.5 })
        };
        let lora = LoraWeights::new(self.deltas.iter().map(delta).collect(), BTreeMap::new());
        let segments = SegmentAdapters(vec![(0..self.packed.tokens(), &lora)]);
        let tensors: HashMap<String, Tensor> =
            self.head.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let head = Head::from_tensors(self.kind, &self.encoder, self.pooling, LABELS, &tensors).expect("a head");
        let (encoder, bounds) = (&self.encoder, &self.packed.bounds);
        let hidden = encoder.embed(&self.packed).expect("embeddings");
        let hidden =
            encoder.forward(&hidden, bounds, &segments, 0..encoder.config().layers, mode).expect("hidden states");
        let logits = head.forward(&hidden, bounds, mode).expect("logits");
        (&logits * draw(logits.dims(), 77)).and_then(|x| x.sum_all()).expect("a loss")
    }

    /// The slope of the loss as `var` moves along `direction`.
    fn slope(&self, var: &Var, direction: &Tensor, mode: Mode) -> f32 {
        let start = var.as_tensor().copy().expect("a copy");
        let at = |step: f64| {
            var.set(&(&start + (direction * step).expect("a step")).expect("a sum")).expect("a new value");
            self.loss(mode).to_scalar::<f32>().expect("a number")
        };
        let step = 3e-3;
        let slope = (at(step) - at(-step)) / (2.0 * step as f32);
        var.set(&start).expect("the old value");
        slope
    }
}

fn check(architecture: &str, kind: HeadKind, pooling: &'static str, mode: Mode) {
    let setup = Setup::new(architecture, kind, pooling);
    let grads = setup.loss(mode).backward().expect("a backward pass");
    for (name, var) in setup.variables() {
        let what = format!("{architecture}, {kind:?}, {pooling}, {mode:?}: {name}");
        let gradient = grads.get(var).unwrap_or_else(|| panic!("{what}: no gradient"));
        let length = gradient.sqr().and_then(|x| x.sum_all()).and_then(|x| x.to_scalar::<f32>()).expect("a sum").sqrt();
        assert!(length.is_finite() && 1e-6 < length, "{what}: a gradient of length {length}");
        let slope = setup.slope(var, &(gradient / f64::from(length)).expect("a direction"), mode);
        assert!((slope - length).abs() < 0.01 * length + 5e-4, "{what}: gradient {length}, slope {slope}");
    }
}

#[test]
fn gradients_are_slopes_on_every_architecture() {
    // a seed under which no ReLU bends within a step
    let train = Mode::Train { dropout: 0.2, seed: 6 };
    for architecture in ["bert", "roberta", "distilbert", "electra", "modernbert"] {
        check(architecture, HeadKind::Token, "cls", Mode::Eval);
        check(architecture, HeadKind::Sequence, "cls", train);
        check(architecture, HeadKind::Sequence, "mean", Mode::Eval);
    }
}

#[test]
fn the_same_seed_drops_the_same_and_another_one_does_not() {
    let setup = Setup::new("bert", HeadKind::Token, "cls");
    let loss = |seed| setup.loss(Mode::Train { dropout: 0.2, seed }).to_scalar::<f32>().expect("a number");
    assert_eq!(loss(1), loss(1));
    assert_ne!(loss(1), loss(2));
    assert_ne!(loss(1), setup.loss(Mode::Eval).to_scalar::<f32>().expect("a number"));
}

#[test]
fn an_encoder_is_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Encoder>();
}

//! Heads: hidden states to logits, equal to the reference library's classes for each architecture.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::domain::{Error, Result};
use crate::model::encoder::check_bounds;
use crate::model::layers::{Place, activate, dense, dropout, first_rows, layer_norm, mean_rows};
use crate::model::lora::tensor_bytes;
use crate::model::{Activation, Architecture, Encoder, EncoderConfig, Mode};

/// What a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// One row of logits a token.
    Token,
    /// One row of logits a sequence.
    Sequence,
}

/// A task's head.
#[derive(Clone, Debug)]
pub struct Head {
    kind: HeadKind,
    labels: usize,
    pooling: Pooling,
    plan: Plan,
    /// The adapter's own, and the backbone's that its steps use.
    tensors: HashMap<String, Tensor>,
    /// The names of the adapter's own, sorted.
    own: Vec<String>,
}

/// What a head reads of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    Tokens,
    First,
    Mean,
}

/// The way from pooled states to logits: at most one dense layer with its function and norm, then the classifier.
#[derive(Clone, Copy, Debug)]
struct Plan {
    dense: Option<DenseStep>,
    classifier: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct DenseStep {
    name: &'static str,
    has_bias: bool,
    function: StepFunction,
    norm: Option<NormStep>,
    /// Whether dropout comes before it too.
    drops: bool,
}

#[derive(Clone, Copy, Debug)]
enum StepFunction {
    Tanh,
    Activation(Activation),
}

#[derive(Clone, Copy, Debug)]
struct NormStep {
    name: &'static str,
    has_bias: bool,
    eps: f64,
}

impl Plan {
    /// The classifier alone.
    const PLAIN: Self = Self { dense: None, classifier: "classifier" };

    /// `pools_mean`: the adapter's card asks for the mean of the tokens instead of what its architecture does.
    fn of(kind: HeadKind, config: &EncoderConfig, pools_mean: bool) -> Self {
        let step = |name, function| DenseStep { name, has_bias: true, function, norm: None, drops: false };
        let dropped = |name, function| DenseStep { drops: true, ..step(name, function) };
        let with = |dense, classifier| Self { dense: Some(dense), classifier };
        let act = StepFunction::Activation;
        match (kind, config.architecture) {
            (_, Architecture::ModernBert) if !pools_mean => with(modern_step(config), "classifier"),
            (HeadKind::Token, _) => Self::PLAIN,
            _ if pools_mean => Self::PLAIN,
            (_, Architecture::Bert) => with(step("bert.pooler.dense", StepFunction::Tanh), "classifier"),
            (_, Architecture::Roberta) => with(dropped("classifier.dense", StepFunction::Tanh), "classifier.out_proj"),
            (_, Architecture::Electra) => {
                with(dropped("classifier.dense", act(Activation::Gelu)), "classifier.out_proj")
            }
            (_, _) => with(step("pre_classifier", act(Activation::Relu)), "classifier"),
        }
    }

    /// Names and shapes of all its tensors.
    fn tensors(&self, hidden: usize, labels: usize) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        let mut add = |module: &str, shape: &[usize], has_bias: bool| {
            tensors.push((format!("{module}.weight"), shape.to_vec()));
            if has_bias {
                tensors.push((format!("{module}.bias"), vec![shape[0]]));
            }
        };
        if let Some(step) = &self.dense {
            add(step.name, &[hidden, hidden], step.has_bias);
            if let Some(norm) = &step.norm {
                add(norm.name, &[hidden], norm.has_bias);
            }
        }
        add(self.classifier, &[labels, hidden], true);
        tensors
    }
}

fn modern_step(config: &EncoderConfig) -> DenseStep {
    let norm = NormStep { name: "head.norm", has_bias: config.biases.norm, eps: config.layer_norm_eps };
    let function = StepFunction::Activation(config.head_activation);
    DenseStep { name: "head.dense", has_bias: config.biases.head, function, norm: Some(norm), drops: false }
}

impl Head {
    /// The tensors an adapter must bring for such a head, with their shapes, as the reference library names them in its
    /// task models: `classifier.weight`, `classifier.out_proj.bias`, `bert.pooler.dense.weight`… What the backbone's own file carries (a pooler) is not among them.
    pub fn required(kind: HeadKind, encoder: &Encoder, pooling: &str, labels: usize) -> Vec<(String, Vec<usize>)> {
        let plan = Plan::of(kind, encoder.config(), pooling == "mean");
        let mut tensors = plan.tensors(encoder.config().hidden_size, labels);
        tensors.retain(|(name, shape)| encoder.backbone_tensor(name).is_none_or(|tensor| tensor.dims() != shape));
        tensors
    }

    /// Every tensor that such a head computes with, whoever has it; names and shapes as [`Head::required`].
    pub fn tensors_of(kind: HeadKind, encoder: &Encoder, pooling: &str, labels: usize) -> Vec<(String, Vec<usize>)> {
        Plan::of(kind, encoder.config(), pooling == "mean").tensors(encoder.config().hidden_size, labels)
    }

    /// From an adapter's tensors; what it does not bring comes from the backbone's file. `pooling` is `cls` (the
    /// architecture's own) or `mean`. `unprocessable`, naming every missing tensor and every wrong shape.
    pub fn from_tensors(
        kind: HeadKind,
        encoder: &Encoder,
        pooling: &str,
        labels: usize,
        tensors: &HashMap<String, Tensor>,
    ) -> Result<Self> {
        let pools_mean = parse_pooling(pooling)?;
        let plan = Plan::of(kind, encoder.config(), pools_mean);
        let mut head = Self {
            kind,
            labels,
            pooling: match kind {
                HeadKind::Token => Pooling::Tokens,
                _ if pools_mean || encoder.config().head_pools_mean => Pooling::Mean,
                _ => Pooling::First,
            },
            plan,
            tensors: HashMap::new(),
            own: Vec::new(),
        };
        let problems: Vec<String> = plan
            .tensors(encoder.config().hidden_size, labels)
            .into_iter()
            .filter_map(|(name, shape)| head.take(name, &shape, tensors, encoder).err())
            .collect();
        head.own.sort();
        match problems.len() {
            0 => Ok(head),
            count => Err(Error::unprocessable(format!("the head has {count} faults")).with_problems(problems)),
        }
    }

    /// The adapter's tensor, else the backbone's; what is wrong with it otherwise.
    fn take(
        &mut self,
        name: String,
        shape: &[usize],
        tensors: &HashMap<String, Tensor>,
        encoder: &Encoder,
    ) -> Result<(), String> {
        let own = tensors.get(&name).cloned();
        let is_own = own.is_some();
        let tensor = own.or_else(|| encoder.backbone_tensor(&name));
        let tensor = tensor.ok_or_else(|| format!("tensor {name:?} of shape {shape:?} is missing"))?;
        if tensor.dims() != shape {
            return Err(format!("tensor {name:?} has shape {:?}, wanted {shape:?}", tensor.dims()));
        }
        if is_own {
            self.own.push(name.clone());
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// The adapter's own tensors by name, sorted: what training updates and files keep.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.own.iter().map(|name| (name.clone(), self.tensors[name].clone())).collect()
    }

    /// Bytes of the adapter's own tensors; the backbone's are counted with the backbone.
    pub fn bytes(&self) -> usize {
        self.own.iter().map(|name| tensor_bytes(&self.tensors[name])).sum()
    }

    pub fn labels(&self) -> usize {
        self.labels
    }

    /// Whether it is a classifier alone, without a layer of its own before it.
    pub fn is_plain(&self) -> bool {
        self.plan.dense.is_none()
    }

    pub fn kind(&self) -> HeadKind {
        self.kind
    }

    /// Logits: `hidden` (tokens, hidden) of this head's own segment; `bounds` are the segment's, from 0.
    /// (tokens, labels) for a token head, (sequences, labels) for a sequence head.
    pub fn forward(&self, hidden: &Tensor, bounds: &[usize], mode: Mode) -> Result<Tensor> {
        check_bounds(bounds, hidden.dim(0)?)?;
        Ok(self.logits(hidden, bounds, mode)?)
    }

    fn logits(&self, hidden: &Tensor, bounds: &[usize], mode: Mode) -> candle_core::Result<Tensor> {
        let mut x = match self.pooling {
            Pooling::Tokens => hidden.clone(),
            Pooling::First => first_rows(hidden, bounds)?,
            Pooling::Mean => mean_rows(hidden, bounds)?,
        };
        if let Some(step) = &self.plan.dense {
            if step.drops {
                x = dropout(&x, Place::Head(0), mode)?;
            }
            x = self.dense_step(&x, step)?;
        }
        self.linear(&dropout(&x, Place::Head(1), mode)?, self.plan.classifier)
    }

    fn dense_step(&self, x: &Tensor, step: &DenseStep) -> candle_core::Result<Tensor> {
        let x = self.linear(x, step.name)?;
        let x = match step.function {
            StepFunction::Tanh => x.tanh()?,
            StepFunction::Activation(activation) => activate(&x, activation)?,
        };
        let Some(norm) = &step.norm else { return Ok(x) };
        layer_norm(&x, &self.tensors[&format!("{}.weight", norm.name)], self.bias(norm.name), norm.eps)
    }

    fn linear(&self, x: &Tensor, module: &str) -> candle_core::Result<Tensor> {
        let weight = &self.tensors[&format!("{module}.weight")];
        match self.bias(module) {
            Some(bias) => dense(x, weight, bias),
            None => dense(x, weight, &Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device())?),
        }
    }

    fn bias(&self, module: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{module}.bias"))
    }
}

fn parse_pooling(pooling: &str) -> Result<bool> {
    match pooling {
        "cls" => Ok(false),
        "mean" => Ok(true),
        _ => Err(Error::unprocessable(format!("pooling {pooling:?} is neither \"cls\" nor \"mean\""))),
    }
}

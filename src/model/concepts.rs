//! Heads that compare with named concepts instead of rows of their own: what pre-finetuning trains and `candidate_labels` asks.
//! A name is encoded by the same backbone and adapter as the text, mean-pooled, and becomes a unit vector. Leaves encoding to
//! the caller.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor};

use crate::domain::{Error, HeadForm, Result};
use crate::model::encoder::check_bounds;
use crate::model::layers::{dense, mean_rows};
use crate::model::lora::tensor_bytes;
use crate::model::{Encoder, HeadKind};

/// Below it a vector has no direction to keep.
const SQUARES_MIN: f64 = 1e-24;

/// The scale of token–concept scores before training: logits then span about ±10.
const TOKEN_SCALE: f64 = 10.0;

/// Before training a token and a name must be clearly alike for a score above one half.
const TOKEN_OFFSET: f64 = -5.0;

/// 1 / 0.05: the temperature sentence encoders are usually trained with.
const SIMILARITY_SCALE: f64 = 20.0;

/// A head that scores tokens or texts against encoded names.
///
/// Tokens (`concepts`): `exp(log_scale)·⟨unit(T·h + t), unit(C·e + c)⟩ + offset`, a logit of its own for each name.
/// Texts (`similarity`): `exp(log_scale)·⟨unit(mean h), unit(e)⟩`, logits that compete. `e` is a name's mean-pooled encoding.
#[derive(Clone, Debug)]
pub struct ConceptHead {
    kind: HeadKind,
    tensors: HashMap<&'static str, Tensor>,
}

impl ConceptHead {
    /// Names and shapes of the tensors of such a head, sorted by name; a number alone has shape `[]`.
    pub fn required(kind: HeadKind, hidden: usize) -> Vec<(&'static str, Vec<usize>)> {
        match kind {
            HeadKind::Token => vec![
                ("concept.bias", vec![hidden]),
                ("concept.weight", vec![hidden, hidden]),
                ("log_scale", vec![]),
                ("offset", vec![]),
                ("token.bias", vec![hidden]),
                ("token.weight", vec![hidden, hidden]),
            ],
            HeadKind::Sequence => vec![("log_scale", vec![])],
        }
    }

    /// `unprocessable`, naming every tensor that is missing or misshapen.
    pub fn from_tensors(kind: HeadKind, encoder: &Encoder, tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let mut own = HashMap::new();
        let mut problems = Vec::new();
        for (name, shape) in Self::required(kind, encoder.config().hidden_size) {
            match tensors.get(name) {
                Some(tensor) if tensor.dims() == shape => drop(own.insert(name, tensor.clone())),
                Some(tensor) => {
                    problems.push(format!("tensor {name:?} has shape {:?}, wanted {shape:?}", tensor.dims()));
                }
                None => problems.push(format!("tensor {name:?} of shape {shape:?} is missing")),
            }
        }
        match problems.len() {
            0 => Ok(Self { kind, tensors: own }),
            count => Err(Error::unprocessable(format!("the head has {count} faults")).with_problems(problems)),
        }
    }

    /// Before training: both projections leave vectors as they are, so that what the backbone knows of names counts from the start.
    pub fn fresh(kind: HeadKind, encoder: &Encoder) -> Result<Self> {
        let (hidden, device) = (encoder.config().hidden_size, encoder.device());
        let number = |value: f64| Tensor::new(value as f32, device);
        let mut tensors = HashMap::new();
        for (name, shape) in Self::required(kind, hidden) {
            let tensor = match (name, kind) {
                ("log_scale", HeadKind::Token) => number(TOKEN_SCALE.ln())?,
                ("log_scale", HeadKind::Sequence) => number(SIMILARITY_SCALE.ln())?,
                ("offset", _) => number(TOKEN_OFFSET)?,
                _ if shape.len() == 2 => identity(hidden, device)?,
                _ => Tensor::zeros(shape, DType::F32, device)?,
            };
            tensors.insert(name, tensor);
        }
        Ok(Self { kind, tensors })
    }

    pub fn kind(&self) -> HeadKind {
        self.kind
    }

    /// How the card calls such a head.
    pub fn form(&self) -> HeadForm {
        match self.kind {
            HeadKind::Token => HeadForm::Concepts,
            HeadKind::Sequence => HeadForm::Similarity,
        }
    }

    /// By name, sorted: what training updates and files keep.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors: Vec<_> = self.tensors.iter().map(|(name, t)| ((*name).to_owned(), t.clone())).collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    }

    pub fn bytes(&self) -> usize {
        self.tensors.values().map(tensor_bytes).sum()
    }

    /// Names as they are compared: mean-pooled encodings, (names, hidden), to unit vectors, (names, hidden). Differentiable.
    pub fn concepts(&self, pooled: &Tensor) -> Result<Tensor> {
        Ok(match self.kind {
            HeadKind::Token => unit(&self.projected(pooled, "concept")?)?,
            HeadKind::Sequence => unit(pooled)?,
        })
    }

    /// Logits against [`ConceptHead::concepts`], (names, hidden): (tokens, names) for a token head, (sequences, names) for a
    /// sequence head. `hidden` is (tokens, hidden) of this head's own segment, whose sequences `bounds` cut, from 0. Differentiable.
    pub fn logits(&self, hidden: &Tensor, bounds: &[usize], concepts: &Tensor) -> Result<Tensor> {
        check_bounds(bounds, hidden.dim(0)?)?;
        match self.kind {
            HeadKind::Token => self.row_logits(hidden, concepts),
            HeadKind::Sequence => self.row_logits(&mean_rows(hidden, bounds)?, concepts),
        }
    }

    /// The same of what is compared, row by row: tokens' hidden states, or texts' mean-pooled ones. (rows, names). Differentiable.
    pub fn row_logits(&self, rows: &Tensor, concepts: &Tensor) -> Result<Tensor> {
        match self.kind {
            HeadKind::Token => {
                let scores = self.compare(&unit(&self.projected(rows, "token")?)?, concepts)?;
                Ok(scores.broadcast_add(&self.tensors["offset"])?)
            }
            HeadKind::Sequence => self.compare(&unit(rows)?, concepts),
        }
    }

    fn projected(&self, x: &Tensor, side: &str) -> Result<Tensor> {
        let (weight, bias) =
            if side == "token" { ("token.weight", "token.bias") } else { ("concept.weight", "concept.bias") };
        Ok(dense(x, &self.tensors[weight], &self.tensors[bias])?)
    }

    fn compare(&self, units: &Tensor, concepts: &Tensor) -> Result<Tensor> {
        let scale = self.tensors["log_scale"].exp()?;
        Ok(units.matmul(&concepts.t()?)?.broadcast_mul(&scale)?)
    }
}

/// Each row divided by its length.
pub(crate) fn unit(rows: &Tensor) -> candle_core::Result<Tensor> {
    let squares = rows.sqr()?.sum_keepdim(D::Minus1)?;
    rows.broadcast_div(&(squares + SQUARES_MIN)?.sqrt()?)
}

fn identity(size: usize, device: &Device) -> Result<Tensor> {
    Ok(Tensor::eye(size, DType::F32, device)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Var;

    use super::*;
    use crate::model::kernels::testing::{assert_close, numbers};

    fn encoder() -> Encoder {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures/bert");
        Encoder::load(&folder, &Device::Cpu).unwrap()
    }

    fn random(shape: &[usize], seed: u64) -> Tensor {
        Tensor::from_vec(numbers(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A head of variables with random numbers.
    fn head(kind: HeadKind, encoder: &Encoder) -> (ConceptHead, Vec<(String, Var)>) {
        let required = ConceptHead::required(kind, encoder.config().hidden_size).into_iter().enumerate();
        let vars: Vec<(String, Var)> = required
            .map(|(i, (name, shape))| (name.to_owned(), Var::from_tensor(&random(&shape, i as u64)).unwrap()))
            .collect();
        let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        (ConceptHead::from_tensors(kind, encoder, &tensors).unwrap(), vars)
    }

    fn plain_unit(x: &[f32]) -> Vec<f32> {
        let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
        x.iter().map(|x| x / length).collect()
    }

    /// `unit(W·x + b)`, or `unit(x)` where there is no W.
    fn plain_side(x: &[f32], tensors: &HashMap<String, Vec<f32>>, side: &str) -> Vec<f32> {
        let Some(weight) = tensors.get(&format!("{side}.weight")) else { return plain_unit(x) };
        let bias = &tensors[&format!("{side}.bias")];
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        let projected: Vec<f32> = weight.chunks(x.len()).zip(bias).map(|(row, b)| dot(row) + b).collect();
        plain_unit(&projected)
    }

    #[test]
    fn logits_equal_their_plain_twin_and_every_tensor_gets_a_gradient() {
        let encoder = encoder();
        let width = encoder.config().hidden_size;
        let (hidden, names) = (random(&[7, width], 20), random(&[4, width], 21));
        for kind in [HeadKind::Token, HeadKind::Sequence] {
            let (head, vars) = head(kind, &encoder);
            let plain: HashMap<String, Vec<f32>> =
                vars.iter().map(|(name, var)| (name.clone(), flat(var.as_tensor()))).collect();
            let rows: Vec<Vec<f32>> = match kind {
                HeadKind::Token => flat(&hidden).chunks(width).map(<[f32]>::to_vec).collect(),
                HeadKind::Sequence => [0..3, 3..7]
                    .map(|rows| flat(&hidden.narrow(0, rows.start, rows.len()).unwrap().mean(0).unwrap()))
                    .to_vec(),
            };
            let offset = plain.get("offset").map_or(0.0, |offset| offset[0]);
            let mut wanted = Vec::new();
            for row in &rows {
                let row = plain_side(row, &plain, "token");
                for name in flat(&names).chunks(width) {
                    let name = plain_side(name, &plain, "concept");
                    let cosine: f32 = row.iter().zip(&name).map(|(x, y)| x * y).sum();
                    wanted.push(plain["log_scale"][0].exp() * cosine + offset);
                }
            }
            let logits = head.logits(&hidden, &[0, 3, 7], &head.concepts(&names).unwrap()).unwrap();
            assert_eq!(logits.dims(), [rows.len(), 4]);
            assert_close(&flat(&logits), &wanted, 1e-5);
            let gradients = logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            for (name, var) in &vars {
                let gradient = flat(gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}")));
                assert!(gradient.iter().any(|x| *x != 0.0), "{name}");
            }
        }
    }

    #[test]
    fn a_fresh_head_scores_by_the_cosine() {
        let encoder = encoder();
        let head = ConceptHead::fresh(HeadKind::Token, &encoder).unwrap();
        let hidden = random(&[3, encoder.config().hidden_size], 1);
        let logits = head.logits(&hidden, &[0, 3], &head.concepts(&hidden).unwrap()).unwrap();
        let logits = flat(&logits);
        assert_close(&[logits[0], logits[4], logits[8]], &[5.0; 3], 1e-4);
        assert!(logits.iter().all(|logit| (-15.0..=5.001).contains(logit)));
    }
}

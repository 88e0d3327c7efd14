//! Weights a training run begins with, drawn from a seed. Leaves checking and assembling them to `bundle`.

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::adapter::bundle::{head_kind, targets_of};
use crate::adapter::claims::Claims;
use crate::adapter::names::{lora_a, lora_b, lora_b_bias};
use crate::adapter::pooler::Pooler;
use crate::adapter::weights::NamedTensors;
use crate::adapter::{AdapterBundle, AdapterCard, LoraConfig};
use crate::domain::{HeadForm, Problems, Result};
use crate::model::{ConceptHead, Encoder, Head};

/// The spread of a head's first weights: BERT's `initializer_range`.
const HEAD_DEVIATION: f64 = 0.02;

impl AdapterBundle {
    /// A fresh adapter for training, which leaves the backbone as it is: A uniform in ±1/√in (Kaiming with a = √5), B zero; the head's
    /// weights normal with deviation 0.02, its biases zero. With `pooler` among `modules_to_save` (BERT's sequence classification)
    /// or where targets reach it, a copy of the backbone's pooler is trained too. Same configuration and seed, same adapter.
    pub fn fresh(config: LoraConfig, card: AdapterCard, encoder: &Encoder, seed: u64) -> Result<Self> {
        config.check(Problems::new())?;
        let pooler = Pooler::of(&card, encoder);
        let config = match &pooler {
            Some(pooler) => pooler.saved_in_place_of_update(config)?,
            None => config,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = NamedTensors::new();
        for target in targets_of(&config, encoder)? {
            let bound = 1.0 / (target.inputs as f64).sqrt();
            let a = || rng.random_range(-bound..bound);
            tensors.insert(lora_a(&target.module), draw(&[target.rank, target.inputs], a, encoder.device())?);
            tensors.insert(lora_b(&target.module), draw(&[target.outputs, target.rank], || 0.0, encoder.device())?);
            if config.lora_bias {
                let bias = draw(&[target.outputs], || 0.0, encoder.device())?;
                tensors.insert(lora_b_bias(&target.module), bias);
            }
        }
        let kind = head_kind(card.family);
        let mut concepts = NamedTensors::new();
        if card.head == HeadForm::Labels {
            for (name, shape) in Head::required(kind, encoder, &card.pooling, card.labels.len()) {
                tensors.insert(name.clone(), head_tensor(&name, &shape, &mut rng, encoder.device())?);
            }
        } else {
            concepts.extend(ConceptHead::fresh(kind, encoder)?.tensors());
        }
        if let Some(pooler) = pooler.filter(|_| Pooler::is_saved(&config)) {
            for (name, _) in pooler.tensors() {
                let copy = pooler.backbones(&name, encoder)?;
                tensors.insert(name, copy);
            }
        }
        Self::assemble(config, card, encoder, Claims::new(tensors, Problems::new()).with_concepts(concepts))
    }
}

/// A bias is zero, the scale of a norm one, a weight random.
fn head_tensor(name: &str, shape: &[usize], rng: &mut ChaCha8Rng, device: &Device) -> Result<Tensor> {
    match shape {
        [_] if name.ends_with("bias") => draw(shape, || 0.0, device),
        [_] => draw(shape, || 1.0, device),
        _ => draw(shape, || HEAD_DEVIATION * standard_normal(rng), device),
    }
}

/// Box and Muller's transform, one value of the pair.
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

fn draw(shape: &[usize], mut value: impl FnMut() -> f64, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| value() as f32).collect();
    Ok(Tensor::from_vec(values, shape, device)?)
}

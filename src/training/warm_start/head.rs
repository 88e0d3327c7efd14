//! First rows of a head: the centres of its classes, or its types' names.

use super::WarmStart;
use super::pooled::{Pooled, add, dot};
use crate::domain::{HeadForm, Result};
use crate::model::{Mode, TaskHead};
use crate::text::spoken_name;
use crate::training::collate::Sequences;
use crate::training::dataset::Example;
use crate::training::predict::{Held, hidden};
use crate::training::prefix::{PIECE_TOKENS, bounds, pieces};
use crate::training::workers::{Run, Steer};

/// A class's logit is this times the cosine to its centre: 1 / 0.05, as sentence encoders are trained.
const CENTRE_SCALE: f32 = 20.0;

/// A token is of a type from this score on, where the adapter to start from says nothing else.
const THRESHOLD: f32 = 0.5;

const WEIGHT: &str = "classifier.weight";
const BIAS: &str = "classifier.bias";

/// What `init` compares names with.
struct Projection {
    /// Row-major (hidden, hidden) and (hidden) of tokens.
    weight: Vec<f32>,
    bias: Vec<f32>,
    scale: f32,
    offset: f32,
}

impl WarmStart<'_> {
    /// The classifier's row of a class is the mean of its texts' unit vectors (and of its name's, where the adapter to start from
    /// compares texts with names): nearest centre. False where the head is more than a classifier.
    pub(super) fn centre_classes(&self, weights: &mut [f32], steer: Steer<'_>) -> Run<bool> {
        let Some([rows, bias]) = self.classifier() else { return Ok(false) };
        self.variables.set(weights)?;
        let width = self.encoder.config().hidden_size;
        let mut centres = vec![vec![0.0; width]; self.adapter.labels.len()];
        let texts = self.pooled(self.training, steer)?;
        for (text, example) in texts.iter().zip(self.examples) {
            let Example::Classify { labels, .. } = example else { continue };
            let class = labels.first().and_then(|label| self.adapter.labels.index_of(label));
            class.into_iter().for_each(|class| add(&mut centres[class], &text.unit, 1.0));
        }
        if self.init.is_some_and(|init| init.card.head == HeadForm::Similarity) {
            let names: Vec<String> = self.adapter.labels.iter().map(spoken_name).collect();
            let names = self.names(&names, steer)?;
            names.iter().zip(&mut centres).for_each(|(name, centre)| add(centre, &name.unit, 1.0));
        }
        let length = texts.iter().map(|text| text.length).sum::<f32>() / texts.len().max(1) as f32;
        for (row, centre) in weights[rows].chunks_exact_mut(width).zip(&centres) {
            let own = dot(centre, centre).sqrt().max(f32::MIN_POSITIVE);
            row.iter_mut().zip(centre).for_each(|(weight, x)| *weight = CENTRE_SCALE / length * x / own);
        }
        weights[bias].fill(0.0);
        Ok(true)
    }

    /// The classifier's rows of `B-X` and `I-X` score a token against the name X as the adapter to start from does, with the mean
    /// length of its projected tokens in place of each one's own; `O` is as likely as a type at that adapter's threshold. False
    /// where the head is more than a classifier.
    pub(super) fn name_types(&self, weights: &mut [f32], steer: Steer<'_>) -> Run<bool> {
        let Some([rows, bias]) = self.classifier() else { return Ok(false) };
        let Some(init) = self.init else { return Ok(false) };
        let TaskHead::Concepts(head) = &init.head else { return Ok(false) };
        self.variables.set(weights)?;
        let width = self.encoder.config().hidden_size;
        let projection = Projection::of(head)?;
        let types: Vec<String> =
            self.adapter.labels.iter().map(|tag| spoken_name(tag.get(2..).unwrap_or(tag))).collect();
        let names = self.names(&types, steer)?;
        let pooled: Vec<f32> = names.iter().flat_map(|name| name.unit.iter().map(|x| x * name.length)).collect();
        let pooled = candle_core::Tensor::from_vec(pooled, (names.len(), width), self.encoder.device())?;
        let concepts = head.concepts(&pooled)?.flatten_all()?.to_vec1::<f32>()?;
        let factor = projection.scale / self.projected_length(&projection, steer)?;
        let threshold = init.card.concept_threshold().unwrap_or(THRESHOLD);
        for (label, tag) in self.adapter.labels.iter().enumerate() {
            let row = &mut weights[rows.start + label * width..][..width];
            row.fill(0.0);
            weights[bias.start + label] = (threshold / (1.0 - threshold)).ln();
            if tag == "O" {
                continue;
            }
            let concept = &concepts[label * width..][..width];
            let row = &mut weights[rows.start + label * width..][..width];
            projection.weight.chunks_exact(width).zip(concept).for_each(|(out, x)| add(row, out, factor * x));
            weights[bias.start + label] = factor * dot(&projection.bias, concept) + projection.offset;
        }
        Ok(true)
    }

    /// Where the classifier's weight and bias are among the variables; None if the head has more than them.
    fn classifier(&self) -> Option<[std::ops::Range<usize>; 2]> {
        let own = self.adapter.head.tensors();
        let is_plain = own.len() == 2 && self.adapter.head.is_plain();
        let place = |name: &str| self.variables.range_of(name).filter(|_| is_plain);
        Some([place(WEIGHT)?, place(BIAS)?])
    }

    fn pooled(&self, held: &Held<'_>, steer: Steer<'_>) -> Run<Vec<Pooled>> {
        let pieces = pieces(&held.sequences);
        let found = self.workers.map(pieces.len(), steer, |piece| {
            let which = &pieces[piece];
            let states = hidden(self.encoder, self.adapter, (&held.sequences, &held.prefix), which, Mode::Eval)?;
            let numbers = states.flatten_all()?.to_vec1::<f32>()?;
            Ok(Pooled::all(&numbers, &bounds(&held.sequences, which), states.dim(1)?))
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Names as texts, through the adapter as it is now.
    fn names(&self, names: &[String], steer: Steer<'_>) -> Run<Vec<Pooled>> {
        let text = |name: &String| Example::Classify { text: name.clone(), text_pair: None, labels: Vec::new() };
        let examples: Vec<Example> = names.iter().map(text).collect();
        let both = (self.encoder, self.tokenizer);
        let held = Held::prepare(both, self.adapter, &examples, &mut 0, self.workers, steer)?;
        self.pooled(&held, steer)
    }

    /// The mean length of T·h + t over some tokens of the training rows.
    fn projected_length(&self, projection: &Projection, steer: Steer<'_>) -> Run<f32> {
        let width = self.encoder.config().hidden_size;
        let Some(which) = pieces(&self.training.sequences).into_iter().next() else { return Ok(1.0) };
        let sequences: &Sequences = &self.training.sequences;
        let lengths = self.workers.map(1, steer, |_| {
            let states = hidden(self.encoder, self.adapter, (sequences, &self.training.prefix), &which, Mode::Eval)?;
            let numbers = states.flatten_all()?.to_vec1::<f32>()?;
            let tokens = numbers.chunks_exact(width).take(PIECE_TOKENS);
            Ok(tokens.map(|token| projection.length(token)).collect::<Vec<f32>>())
        })?;
        let lengths = lengths.concat();
        Ok((lengths.iter().sum::<f32>() / lengths.len().max(1) as f32).max(f32::MIN_POSITIVE))
    }
}

impl Projection {
    fn of(head: &crate::model::ConceptHead) -> Result<Self> {
        let tensors: std::collections::HashMap<String, candle_core::Tensor> = head.tensors().into_iter().collect();
        let numbers = |name: &str| -> Result<Vec<f32>> {
            let tensor =
                tensors.get(name).ok_or_else(|| crate::domain::Error::internal(format!("a head without {name}")))?;
            Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
        };
        Ok(Self {
            weight: numbers("token.weight")?,
            bias: numbers("token.bias")?,
            scale: numbers("log_scale")?[0].exp(),
            offset: numbers("offset")?[0],
        })
    }

    fn length(&self, token: &[f32]) -> f32 {
        let rows = self.weight.chunks_exact(token.len()).zip(&self.bias);
        rows.map(|(row, bias)| (dot(row, token) + bias).powi(2)).sum::<f32>().sqrt()
    }
}

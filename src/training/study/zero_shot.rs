//! What an arm makes of names alone: entity types against a primary's token scores, labels against mean-pooled texts by their cosine.

use std::collections::BTreeSet;

use candle_core::Tensor;

use crate::domain::{Error, Family, Matrix, Result};
use crate::model::{ConceptHead, Encoder, LoraWeights, Mode, Packed, SegmentAdapters};
use crate::text::{merge, spoken_name};
use crate::training::collate::{Prepared, Sequences};
use crate::training::dataset::Example;
use crate::training::evaluate::NerRow;
use crate::training::fine_tune::Control;
use crate::training::prefix::{bounds, pieces};
use crate::training::study::cell::{ArmModel, PrimaryAdapter, counts, never_stopped};
use crate::training::study::row::Outcomes;
use crate::training::workers::Workers;

/// Tokens of a text, special ones included.
const MAX_LENGTH: usize = 128;

/// A token is of a concept from here on, unless the primary was calibrated.
const THRESHOLD: f32 = 0.5;

/// What names alone gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub outcomes: Outcomes,
    /// Names to choose from.
    pub names: usize,
    /// How they were compared.
    pub method: &'static str,
}

/// Tells `examples` by the names of their types or labels. None where the arm has nothing to do it with: entities want a primary.
pub fn zero_shot(model: &ArmModel, family: Family, examples: &[Example], threads: usize) -> Result<Option<Told>> {
    let names: Vec<&str> = examples.iter().flat_map(Example::labels).collect::<BTreeSet<_>>().into_iter().collect();
    let reader = Reader { model, primary: model.primary(family), workers: Workers(threads) };
    match (family, reader.primary) {
        (Family::Ner, None) => Ok(None),
        (Family::Ner, Some(primary)) => reader.entities(primary, &names, examples).map(Some),
        (Family::Classify, _) => reader.labels(&names, examples).map(Some),
    }
}

/// Reads texts with an arm's backbone, and its primary's LoRA where there is one.
struct Reader<'a> {
    model: &'a ArmModel,
    primary: Option<&'a PrimaryAdapter>,
    workers: Workers,
}

impl Reader<'_> {
    fn labels(&self, names: &[&str], examples: &[Example]) -> Result<Told> {
        let concepts = self.pooled(&self.spoken(names))?;
        let texts = self.pooled(examples)?;
        let right = texts.iter().zip(examples).map(|(text, example)| {
            let cosines = concepts.iter().map(|concept| cosine(text, concept));
            let best = highest(cosines).map(|(best, _)| names[best]);
            if best.is_some_and(|name| example.labels().any(|label| label == name)) { '1' } else { '0' }
        });
        let method = if self.primary.is_some() { "cosine, primary" } else { "cosine, plain backbone" };
        Ok(Told { outcomes: Outcomes::Right(right.collect()), names: names.len(), method })
    }

    fn entities(&self, primary: &PrimaryAdapter, names: &[&str], examples: &[Example]) -> Result<Told> {
        let head = primary.bundle.head.concepts();
        let head = head.ok_or_else(|| Error::unprocessable("the primary's head compares with no names"))?;
        let pooled = self.pooled(&self.spoken(names))?;
        let width = self.encoder().config().hidden_size;
        let pooled = Tensor::from_vec(pooled.concat(), (names.len(), width), self.encoder().device())?;
        let concepts = head.concepts(&pooled)?;
        let sequences = self.sequences(examples)?;
        let mut logits = self.token_logits(&sequences, head, &concepts)?.into_iter();
        let threshold = primary.bundle.card.concept_threshold().unwrap_or(THRESHOLD);
        let rows = examples.iter().zip(&sequences.examples).filter_map(|(example, prepared)| {
            let windows: Vec<Matrix> = logits.by_ref().take(prepared.fitted.windows.len()).collect();
            tagged(example, prepared, &windows, names, threshold)
        });
        let outcomes = Outcomes::Spans(rows.map(|row| counts(&row)).collect());
        Ok(Told { outcomes, names: names.len(), method: "token scores, primary" })
    }

    /// Names as texts: as the primary learnt them, or with underscores as spaces for a backbone that learnt none.
    fn spoken(&self, names: &[&str]) -> Vec<Example> {
        let text = |name: &&str| if self.primary.is_some() { spoken_name(name) } else { name.replace('_', " ") };
        names.iter().map(|name| Example::Classify { text: text(name), text_pair: None, labels: Vec::new() }).collect()
    }

    fn encoder(&self) -> &Encoder {
        &self.model.encoder
    }

    fn sequences(&self, examples: &[Example]) -> Result<Sequences> {
        let steer = &mut || Control::Continue;
        Sequences::prepare(&self.model.tokenizer, examples, MAX_LENGTH, self.workers, steer).map_err(never_stopped)
    }

    /// The mean of each text's last hidden states, special tokens included.
    fn pooled(&self, texts: &[Example]) -> Result<Vec<Vec<f32>>> {
        self.each_piece(&self.sequences(texts)?, |hidden, bounds| {
            let width = hidden.dim(1)?;
            let rows = hidden.flatten_all()?.to_vec1::<f32>()?;
            let mean = |ends: &[usize]| {
                let mut mean = vec![0f32; width];
                for row in rows[ends[0] * width..ends[1] * width].chunks_exact(width) {
                    mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x / (ends[1] - ends[0]) as f32);
                }
                mean
            };
            Ok(bounds.windows(2).map(mean).collect())
        })
    }

    /// (tokens, names) of each sequence.
    fn token_logits(&self, sequences: &Sequences, head: &ConceptHead, concepts: &Tensor) -> Result<Vec<Matrix>> {
        self.each_piece(sequences, |hidden, bounds| {
            let logits = head.logits(hidden, bounds, concepts)?;
            let names = logits.dim(1)?;
            let numbers = logits.flatten_all()?.to_vec1::<f32>()?;
            let matrix = |ends: &[usize]| Matrix::new(names, numbers[ends[0] * names..ends[1] * names].to_vec());
            Ok(bounds.windows(2).map(matrix).collect())
        })
    }

    /// `of` the last hidden states of all sequences, some at a time, in order.
    fn each_piece<T: Send>(
        &self,
        sequences: &Sequences,
        of: impl Fn(&Tensor, &[usize]) -> Result<Vec<T>> + Sync,
    ) -> Result<Vec<T>> {
        let pieces = pieces(sequences);
        let lora = self.primary.map(|primary| &primary.bundle.lora);
        let found = self.workers.map(pieces.len(), &mut || Control::Continue, |piece| {
            let hidden = all_layers(self.encoder(), lora, sequences, &pieces[piece])?;
            of(&hidden, &bounds(sequences, &pieces[piece]))
        });
        Ok(found.map_err(never_stopped)?.into_iter().flatten().collect())
    }
}

/// (tokens, hidden) of `which` sequences, end to end, after the last layer.
fn all_layers(encoder: &Encoder, lora: Option<&LoraWeights>, sequences: &Sequences, which: &[usize]) -> Result<Tensor> {
    let windows = which.iter().map(|&sequence| sequences.window(sequence));
    let packed = Packed::new(windows.map(|window| (&window.ids[..], &window.type_ids[..])));
    let segments = SegmentAdapters(lora.map(|lora| (0..packed.tokens(), lora)).into_iter().collect());
    let embedded = encoder.embed(&packed)?;
    encoder.forward(&embedded, &packed.bounds, &segments, 0..encoder.config().layers, Mode::Eval)
}

/// Each word takes its first token's best name if that is sure enough; neighbours of one name are one entity.
fn tagged(
    example: &Example,
    prepared: &Prepared,
    windows: &[Matrix],
    names: &[&str],
    threshold: f32,
) -> Option<NerRow> {
    let Example::Ner { words, tags } = example else { return None };
    let logits = merge(&prepared.fitted, windows);
    let name_of = |first: &Option<usize>| {
        let token = first.filter(|&token| token < logits.rows())?;
        let (name, logit) = highest(logits.row(token).iter().copied())?;
        let score = 1.0 / (1.0 + (-logit).exp());
        (score >= threshold).then(|| names[name])
    };
    let mut before = None;
    let predicted = prepared.firsts.iter().map(name_of).map(|name| {
        let tag = match name {
            None => "O".to_owned(),
            Some(name) if before == Some(name) => format!("I-{name}"),
            Some(name) => format!("B-{name}"),
        };
        before = name;
        tag
    });
    Some(NerRow { words: words.clone(), gold: tags.clone(), predicted: predicted.collect(), scores: Vec::new() })
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE)
}

/// The first of the highest numbers, and its place.
fn highest(numbers: impl Iterator<Item = f32>) -> Option<(usize, f32)> {
    numbers.enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best })
}

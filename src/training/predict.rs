//! An adapter's answers for a whole split, on all threads, and their evaluation.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::adapter::AdapterBundle;
use crate::domain::{Error, Family, Matrix, ProblemType, Result};
use crate::model::{Encoder, HeadKind, Mode, SegmentAdapters};
use crate::text::{Tokenizer, merge, softmax_rows};
use crate::training::collate::{Prepared, Sequences};
use crate::training::dataset::Example;
use crate::training::evaluate::{Asked, ClassificationRow, Evaluation, NerRow, Span, spans};
use crate::training::prefix::{Prefix, bounds, pieces};
use crate::training::workers::{Run, Steer, Workers};

/// A label of a multi-label adapter holds from here on, unless its card says otherwise.
pub(super) const THRESHOLD: f32 = 0.5;

/// A split ready to be predicted, again and again.
pub(super) struct Held<'a> {
    pub examples: &'a [Example],
    pub sequences: Sequences,
    pub prefix: Prefix,
}

/// What an adapter says of one example, before scores are made of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// The logits of each word's first token; None of a word without tokens, or past the end.
    Words(Vec<Option<Vec<f32>>>),
    Text(Vec<f32>),
}

/// An adapter's answers, a row an example.
pub(super) enum Predicted {
    Ner(Vec<NerRow>),
    Classify(Vec<ClassificationRow>),
}

impl Answer {
    fn of(family: Family, prepared: &Prepared, windows: &[Matrix]) -> Self {
        match family {
            Family::Ner => {
                let logits = merge(&prepared.fitted, windows);
                let of_token = |token: usize| (token < logits.rows()).then(|| logits.row(token).to_vec());
                Self::Words(prepared.firsts.iter().map(|first| first.and_then(of_token)).collect())
            }
            Family::Classify => Self::Text(windows.first().map_or_else(Vec::new, |logits| logits.row(0).to_vec())),
        }
    }

    /// The logits over `temperature`.
    pub(super) fn cooled(&self, temperature: f32) -> Self {
        let cool = |logits: &Vec<f32>| logits.iter().map(|logit| logit / temperature).collect::<Vec<f32>>();
        match self {
            Self::Words(words) => Self::Words(words.iter().map(|logits| logits.as_ref().map(cool)).collect()),
            Self::Text(logits) => Self::Text(cool(logits)),
        }
    }
}

impl Predicted {
    /// The labels that `adapter`'s head gives for `answers` to `examples`.
    pub(super) fn of(adapter: &AdapterBundle, examples: &[Example], answers: Vec<Answer>) -> Self {
        let rows = examples.iter().zip(answers);
        match adapter.family() {
            Family::Ner => Self::Ner(rows.filter_map(|(example, answer)| ner_row(adapter, example, answer)).collect()),
            Family::Classify => Self::Classify(
                rows.filter_map(|(example, answer)| classification_row(adapter, example, answer)).collect(),
            ),
        }
    }

    /// The report on them.
    pub(super) fn evaluate(&self, dataset: &str, label_sets: bool, asked: Asked) -> Evaluation {
        match self {
            Self::Ner(rows) => Evaluation::ner_about(dataset, rows, asked),
            Self::Classify(rows) => Evaluation::classification_about(dataset, rows, label_sets, asked),
        }
    }
}

/// (tokens, labels) or (sequences, labels) for `which` sequences, end to end.
pub(super) fn forward(
    encoder: &Encoder,
    adapter: &AdapterBundle,
    (sequences, prefix): (&Sequences, &Prefix),
    which: &[usize],
    mode: Mode,
) -> Result<candle_core::Tensor> {
    let hidden = hidden(encoder, adapter, (sequences, prefix), which, mode)?;
    adapter.head.forward(&hidden, &bounds(sequences, which), mode)
}

/// Hidden states of `which` sequences through `adapter`, (tokens, hidden), end to end.
pub(super) fn hidden(
    encoder: &Encoder,
    adapter: &AdapterBundle,
    (sequences, prefix): (&Sequences, &Prefix),
    which: &[usize],
    mode: Mode,
) -> Result<candle_core::Tensor> {
    let bounds = bounds(sequences, which);
    let hidden = prefix.hidden(encoder, sequences, which)?;
    let segments = SegmentAdapters(vec![(0..bounds[which.len()], &adapter.lora)]);
    let layers = prefix.layers..encoder.config().layers;
    encoder.forward(&hidden, &bounds, &segments, layers, mode)
}

impl<'a> Held<'a> {
    /// Tokenises `examples` and computes the layers below `adapter`'s lowest, as far as `budget` bytes reach.
    pub(super) fn prepare(
        (encoder, tokenizer): (&Encoder, &Tokenizer),
        adapter: &AdapterBundle,
        examples: &'a [Example],
        budget: &mut usize,
        workers: Workers,
        steer: Steer<'_>,
    ) -> Run<Self> {
        refuse_own_embeddings(adapter)?;
        let sequences = Sequences::prepare(tokenizer, examples, adapter.card.max_length, workers, steer)?;
        let layers = adapter.lora.lowest_layer().unwrap_or(encoder.config().layers);
        let prefix = Prefix::compute(encoder, &sequences, layers, budget, workers, steer)?;
        Ok(Self { examples, sequences, prefix })
    }

    /// Predicts and evaluates; `dataset` is the report's name for the split.
    pub(super) fn evaluate(
        &self,
        encoder: &Encoder,
        adapter: &AdapterBundle,
        dataset: &str,
        asked: Asked,
        workers: Workers,
        steer: Steer<'_>,
    ) -> Run<Evaluation> {
        let predicted = self.predict(encoder, adapter, workers, steer)?;
        Ok(predicted.evaluate(dataset, is_multi_label(adapter), asked))
    }

    /// The answer to each example, in order.
    pub(super) fn predict(
        &self,
        encoder: &Encoder,
        adapter: &AdapterBundle,
        workers: Workers,
        steer: Steer<'_>,
    ) -> Run<Predicted> {
        let answers = self.answers(encoder, adapter, workers, steer)?;
        Ok(Predicted::of(adapter, self.examples, answers))
    }

    /// What the adapter says of each example, in order.
    pub(super) fn answers(
        &self,
        encoder: &Encoder,
        adapter: &AdapterBundle,
        workers: Workers,
        steer: Steer<'_>,
    ) -> Run<Vec<Answer>> {
        let logits = self.logits(encoder, adapter, workers, steer)?;
        let mut logits = logits.into_iter();
        let answers = self.sequences.examples.iter().map(|prepared| {
            let windows: Vec<Matrix> = logits.by_ref().take(prepared.fitted.windows.len()).collect();
            Answer::of(adapter.family(), prepared, &windows)
        });
        Ok(answers.collect())
    }

    /// One matrix a sequence, in order.
    fn logits(
        &self,
        encoder: &Encoder,
        adapter: &AdapterBundle,
        workers: Workers,
        steer: Steer<'_>,
    ) -> Run<Vec<Matrix>> {
        let pieces = pieces(&self.sequences);
        let predicted = workers.map(pieces.len(), steer, |piece| {
            let which = &pieces[piece];
            let logits = forward(encoder, adapter, (&self.sequences, &self.prefix), which, Mode::Eval)?;
            let labels = logits.dim(1)?;
            let numbers = logits.flatten_all()?.to_vec1::<f32>()?;
            let bounds = match adapter.head.kind() {
                HeadKind::Token => bounds(&self.sequences, which),
                HeadKind::Sequence => (0..=which.len()).collect(),
            };
            let matrix = |ends: &[usize]| Matrix::new(labels, numbers[ends[0] * labels..ends[1] * labels].to_vec());
            Ok(bounds.windows(2).map(matrix).collect::<Vec<_>>())
        })?;
        Ok(predicted.into_iter().flatten().collect())
    }
}

/// The layers below an adapter's lowest are computed once for all adapters, and so are embeddings.
fn refuse_own_embeddings(adapter: &AdapterBundle) -> Result<()> {
    if adapter.lora.projection().is_none() {
        return Ok(());
    }
    Err(Error::unprocessable(
        "an adapter that changes embeddings_project is served, but neither trained further nor evaluated here",
    ))
}

pub(super) fn is_multi_label(adapter: &AdapterBundle) -> bool {
    adapter.card.problem_type == ProblemType::MultiLabel
}

/// The tag of each word is that of its first token; a word without tokens, or past the end, is outside.
fn ner_row(adapter: &AdapterBundle, example: &Example, answer: Answer) -> Option<NerRow> {
    let (Example::Ner { words, tags }, Answer::Words(answers)) = (example, answer) else { return None };
    let answers = answers.into_iter().map(|logits| match logits {
        Some(logits) => {
            let (label, score) = highest(&probabilities(logits));
            (adapter.labels.get(label).unwrap_or("O").to_owned(), score)
        }
        None => ("O".to_owned(), 1.0),
    });
    let (mut predicted, scores): (Vec<String>, Vec<f32>) = answers.unzip();
    drop_unsure(&adapter.card.thresholds, &mut predicted, &scores);
    Some(NerRow { words: words.clone(), gold: tags.clone(), predicted, scores })
}

/// What is below its type's threshold is no entity, as when it is served.
fn drop_unsure(thresholds: &BTreeMap<String, f32>, predicted: &mut [String], scores: &[f32]) {
    let is_unsure = |span: &Span<'_>| {
        thresholds.get(span.label).is_some_and(|&threshold| span_score(scores, span.words.clone()) < threshold)
    };
    let unsure: Vec<Range<usize>> = spans(predicted).into_iter().filter(is_unsure).map(|span| span.words).collect();
    unsure.into_iter().for_each(|words| predicted[words].fill("O".to_owned()));
}

/// The mean of its words' scores, which is what aggregation by words makes of them.
pub(super) fn span_score(scores: &[f32], words: Range<usize>) -> f32 {
    let count = words.len().max(1) as f32;
    scores.get(words).unwrap_or_default().iter().sum::<f32>() / count
}

fn classification_row(adapter: &AdapterBundle, example: &Example, answer: Answer) -> Option<ClassificationRow> {
    let (Example::Classify { text, text_pair, labels: gold }, Answer::Text(logits)) = (example, answer) else {
        return None;
    };
    let text = text_pair.as_ref().map_or_else(|| text.clone(), |pair| format!("{text} | {pair}"));
    let (predicted, score) = if is_multi_label(adapter) {
        set_of_labels(adapter, &logits, gold)
    } else {
        let (label, score) = highest(&probabilities(logits));
        (adapter.labels.get(label).map(str::to_owned).into_iter().collect(), score)
    };
    Some(ClassificationRow { text, gold: gold.clone(), predicted, score })
}

/// Softmax.
pub(super) fn probabilities(logits: Vec<f32>) -> Vec<f32> {
    match logits.len() {
        0 => logits,
        labels => softmax_rows(Matrix::new(labels, logits)).data().to_vec(),
    }
}

/// The labels whose sigmoid reaches their threshold, and how far the score that is furthest from its gold value is from it.
fn set_of_labels(adapter: &AdapterBundle, logits: &[f32], gold: &[String]) -> (Vec<String>, f32) {
    let (mut predicted, mut furthest) = (Vec::new(), 0f32);
    for (label, logit) in adapter.labels.iter().zip(logits) {
        let score = 1.0 / (1.0 + (-logit).exp());
        let wanted = f32::from(u8::from(gold.iter().any(|gold| gold == label)));
        furthest = furthest.max((score - wanted).abs());
        if score >= adapter.card.thresholds.get(label).copied().unwrap_or(THRESHOLD) {
            predicted.push(label.to_owned());
        }
    }
    (predicted, furthest)
}

/// The first of the highest numbers.
pub(super) fn highest(row: &[f32]) -> (usize, f32) {
    row.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best })
}

//! An adapter's answers for a whole split, on all threads, and their evaluation.

use crate::adapter::AdapterBundle;
use crate::domain::{Error, Family, Matrix, ProblemType, Result};
use crate::model::{Encoder, HeadKind, Mode, SegmentAdapters};
use crate::text::{Tokenizer, merge, softmax_rows};
use crate::training::collate::{Prepared, Sequences};
use crate::training::dataset::Example;
use crate::training::evaluate::{ClassificationRow, Evaluation, NerRow};
use crate::training::prefix::{Prefix, bounds, pieces};
use crate::training::workers::{Run, Steer, Workers};

/// A label of a multi-label adapter holds from here on, unless its card says otherwise.
const THRESHOLD: f32 = 0.5;

/// A split ready to be predicted, again and again.
pub(super) struct Held<'a> {
    pub examples: &'a [Example],
    pub sequences: Sequences,
    pub prefix: Prefix,
}

/// An adapter's answers, a row an example.
pub(super) enum Predicted {
    Ner(Vec<NerRow>),
    Classify(Vec<ClassificationRow>),
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
        workers: Workers,
        steer: Steer<'_>,
    ) -> Run<Evaluation> {
        Ok(match self.predict(encoder, adapter, workers, steer)? {
            Predicted::Ner(rows) => Evaluation::ner(dataset, &rows),
            Predicted::Classify(rows) => Evaluation::classification(dataset, &rows, is_multi_label(adapter)),
        })
    }

    /// The answer to each example, in order.
    pub(super) fn predict(
        &self,
        encoder: &Encoder,
        adapter: &AdapterBundle,
        workers: Workers,
        steer: Steer<'_>,
    ) -> Run<Predicted> {
        let logits = self.logits(encoder, adapter, workers, steer)?;
        let mut logits = logits.into_iter();
        let rows = self.examples.iter().zip(&self.sequences.examples);
        let answers = rows.map(|(example, prepared)| {
            let windows: Vec<Matrix> = logits.by_ref().take(prepared.fitted.windows.len()).collect();
            (example, prepared, windows)
        });
        Ok(match adapter.family() {
            Family::Ner => Predicted::Ner(
                answers.filter_map(|(example, prepared, w)| ner_row(adapter, example, prepared, &w)).collect(),
            ),
            Family::Classify => Predicted::Classify(
                answers
                    .filter_map(|(example, _, w)| classification_row(adapter, example, w.into_iter().next()?))
                    .collect(),
            ),
        })
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

fn is_multi_label(adapter: &AdapterBundle) -> bool {
    adapter.card.problem_type == ProblemType::MultiLabel
}

/// The tag of each word is that of its first token; a word without tokens, or past the end, is outside.
fn ner_row(adapter: &AdapterBundle, example: &Example, prepared: &Prepared, windows: &[Matrix]) -> Option<NerRow> {
    let Example::Ner { words, tags } = example else { return None };
    let scores = softmax_rows(merge(&prepared.fitted, windows));
    let answers = prepared.firsts.iter().map(|first| match first.filter(|&token| token < scores.rows()) {
        Some(token) => {
            let (label, score) = highest(scores.row(token));
            (adapter.labels.get(label).unwrap_or("O").to_owned(), score)
        }
        None => ("O".to_owned(), 1.0),
    });
    let (predicted, scores) = answers.unzip();
    Some(NerRow { words: words.clone(), gold: tags.clone(), predicted, scores })
}

fn classification_row(adapter: &AdapterBundle, example: &Example, logits: Matrix) -> Option<ClassificationRow> {
    let Example::Classify { text, text_pair, labels: gold } = example else { return None };
    let text = text_pair.as_ref().map_or_else(|| text.clone(), |pair| format!("{text} | {pair}"));
    let (predicted, score) = if is_multi_label(adapter) {
        set_of_labels(adapter, logits.row(0), gold)
    } else {
        let (label, score) = highest(softmax_rows(logits).row(0));
        (adapter.labels.get(label).map(str::to_owned).into_iter().collect(), score)
    };
    Some(ClassificationRow { text, gold: gold.clone(), predicted, score })
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
fn highest(row: &[f32]) -> (usize, f32) {
    row.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best })
}

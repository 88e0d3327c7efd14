//! Scores that mean what they say: a temperature for the logits, and thresholds for labels that any number of may hold.
//! Fitted on rows that the model was not trained on. The temperature (Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural
//! networks", ICML 2017) is divided out of the head's last linear, so that whoever loads the adapter has calibrated scores;
//! it changes no answer of a head that gives one label.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;

use crate::adapter::AdapterBundle;
use crate::domain::{LabelSet, Result};
use crate::model::Encoder;
use crate::training::dataset::Example;
use crate::training::evaluate::spans;
use crate::training::predict::{Answer, Predicted, THRESHOLD, highest, is_multi_label, probabilities, span_score};

/// Answers fewer than these say nothing of how sure the next may be.
const ANSWERS_MIN: usize = 20;

/// ln T is searched from a half to ten: outside, it is the data that is odd.
const LOG_TEMPERATURE: [f64; 2] = [-std::f64::consts::LN_2, std::f64::consts::LN_10];

/// Halvings of that interval by the golden section: to a thousandth.
const SEARCHES: usize = 24;

/// Bins of the expected calibration error, as Guo et al. have them.
const BINS: usize = 15;

/// A label needs so many rows that have it before a threshold of its own is more than noise.
const POSITIVES_MIN: usize = 10;

/// F1 that a threshold must gain on the rows that it is fitted to: less is theirs alone.
const GAIN_MIN: f64 = 0.01;

/// A threshold stays within these: past them it would be one for the validation rows alone.
const THRESHOLDS: [f32; 2] = [0.1, 0.9];

/// The last linear of every head that is trained: of RoBERTa's and ELECTRA's, then of all others'.
const LAST_LINEARS: [&str; 2] = [".classifier.out_proj.", ".classifier."];

/// What was fitted, and what it is worth on the rows it was fitted to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Calibration {
    pub temperature: f64,
    /// Expected calibration error of the scores, 0 to 1. NER: of words that are said to be part of an entity.
    pub ece_before: f64,
    pub ece_after: f64,
    /// Of labels that any number of may hold, and of entity types.
    pub thresholds: BTreeMap<String, f32>,
}

impl Calibration {
    /// None where there are too few answers to learn from.
    pub(super) fn fit(adapter: &AdapterBundle, examples: &[Example], answers: &[Answer]) -> Option<Self> {
        let asked = if is_multi_label(adapter) {
            Asked::sets(&adapter.labels, examples, answers)
        } else {
            Asked::choices(&adapter.labels, examples, answers)
        };
        if asked.len() < ANSWERS_MIN {
            return None;
        }
        let temperature = lowest(|log| asked.loss(log.exp()) + log * log / 2.0).exp();
        let thresholds = match &asked {
            Asked::Sets { labels } => thresholds(&adapter.labels, labels, temperature),
            Asked::Choices(_) => {
                let cooled = answers.iter().map(|answer| answer.cooled(temperature as f32)).collect();
                entity_thresholds(adapter, examples, cooled)
            }
        };
        Some(Self { temperature, ece_before: asked.error(1.0), ece_after: asked.error(temperature), thresholds })
    }

    /// The same adapter with calibrated scores.
    pub(super) fn apply(&self, mut adapter: AdapterBundle, encoder: &Encoder) -> Result<AdapterBundle> {
        let trainable = adapter.trainable();
        let of = |part: &str| trainable.iter().any(|(name, _)| format!(".{name}").contains(part));
        let Some(part) = LAST_LINEARS.into_iter().find(|part| of(part)) else { return Ok(adapter) };
        let last = trainable.iter().filter(|(name, _)| format!(".{name}").contains(part) && !name.contains("lora_"));
        let cooled = last.map(|(name, tensor)| Ok((name.clone(), tensor.affine(1.0 / self.temperature, 0.0)?)));
        let cooled: HashMap<String, Tensor> = cooled.collect::<Result<_>>()?;
        adapter = adapter.with_tensors(encoder, &cooled)?;
        adapter.card.thresholds.clone_from(&self.thresholds);
        Ok(adapter)
    }
}

/// One decision: the logits, and what would have been right.
enum Asked {
    /// One of the labels.
    Choices(Vec<(Vec<f32>, usize)>),
    /// Of each label its logits, and whether it holds.
    Sets { labels: Vec<Vec<(f32, bool)>> },
}

impl Asked {
    /// A text, or a word.
    fn choices(labels: &LabelSet, examples: &[Example], answers: &[Answer]) -> Self {
        let mut choices = Vec::new();
        for (example, answer) in examples.iter().zip(answers) {
            match (example, answer) {
                (Example::Ner { tags, .. }, Answer::Words(words)) => {
                    let known = words
                        .iter()
                        .zip(tags)
                        .filter_map(|(logits, tag)| Some((logits.clone()?, labels.index_of(tag)?)));
                    choices.extend(known);
                }
                (Example::Classify { labels: gold, .. }, Answer::Text(logits)) => {
                    let gold = gold.first().and_then(|label| labels.index_of(label));
                    choices.extend(gold.map(|gold| (logits.clone(), gold)));
                }
                _ => {}
            }
        }
        Self::Choices(choices)
    }

    fn sets(labels: &LabelSet, examples: &[Example], answers: &[Answer]) -> Self {
        let mut of = vec![Vec::new(); labels.len()];
        for (example, answer) in examples.iter().zip(answers) {
            let (Example::Classify { labels: gold, .. }, Answer::Text(logits)) = (example, answer) else { continue };
            for ((label, logit), decisions) in labels.iter().zip(logits).zip(&mut of) {
                decisions.push((*logit, gold.iter().any(|gold| gold == label)));
            }
        }
        Self::Sets { labels: of }
    }

    fn len(&self) -> usize {
        match self {
            Self::Choices(choices) => choices.len(),
            Self::Sets { labels } => labels.first().map_or(0, Vec::len),
        }
    }

    /// The negative log-likelihood of what is right, in all.
    fn loss(&self, temperature: f64) -> f64 {
        match self {
            Self::Choices(choices) => choices
                .iter()
                .map(|(logits, gold)| {
                    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let sum: f64 = logits.iter().map(|logit| (f64::from(logit - highest) / temperature).exp()).sum();
                    sum.ln() - f64::from(logits[*gold] - highest) / temperature
                })
                .sum(),
            Self::Sets { labels } => labels
                .iter()
                .flatten()
                .map(|&(logit, holds)| {
                    let against = f64::from(if holds { -logit } else { logit }) / temperature;
                    against.max(0.0) + (-against.abs()).exp().ln_1p()
                })
                .sum(),
        }
    }

    /// The expected calibration error: how far a score is from the share of answers of that score that are right.
    fn error(&self, temperature: f64) -> f64 {
        let mut bins = [(0.0, 0.0, 0usize); BINS];
        let mut add = |score: f32, is_right: bool| {
            let bin = &mut bins[((score * BINS as f32) as usize).min(BINS - 1)];
            *bin = (bin.0 + f64::from(score), bin.1 + f64::from(u8::from(is_right)), bin.2 + 1);
        };
        match self {
            Self::Choices(choices) => {
                for (logits, gold) in choices {
                    let cooled = logits.iter().map(|logit| logit / temperature as f32).collect();
                    let (label, score) = highest(&probabilities(cooled));
                    add(score, label == *gold);
                }
            }
            Self::Sets { labels } => {
                labels.iter().flatten().for_each(|&(logit, holds)| add(sigmoid(logit / temperature as f32), holds));
            }
        }
        let answers: usize = bins.iter().map(|bin| bin.2).sum();
        bins.iter().map(|(scores, right, _)| (scores - right).abs()).sum::<f64>() / answers.max(1) as f64
    }
}

/// For each entity type with enough entities the score below which what is said to be one had better not be.
fn entity_thresholds(adapter: &AdapterBundle, examples: &[Example], answers: Vec<Answer>) -> BTreeMap<String, f32> {
    let Predicted::Ner(rows) = Predicted::of(adapter, examples, answers) else { return BTreeMap::new() };
    let mut of: BTreeMap<String, (usize, Vec<(f32, bool)>)> = BTreeMap::new();
    for row in &rows {
        let gold = spans(&row.gold);
        gold.iter().for_each(|span| of.entry(span.label.to_owned()).or_default().0 += 1);
        for span in spans(&row.predicted) {
            let scored = (span_score(&row.scores, span.words.clone()), gold.contains(&span));
            of.entry(span.label.to_owned()).or_default().1.push(scored);
        }
    }
    let found = |(label, (gold, scored))| Some((label, threshold(scored, gold, 0.0)?));
    of.into_iter().filter_map(found).collect()
}

/// For each label with enough rows the score that parts those that have it from the others best, by F1; none where that is no better.
fn thresholds(labels: &LabelSet, decisions: &[Vec<(f32, bool)>], temperature: f64) -> BTreeMap<String, f32> {
    let scored = |decisions: &[(f32, bool)]| -> Vec<(f32, bool)> {
        decisions.iter().map(|&(logit, holds)| (sigmoid(logit / temperature as f32), holds)).collect()
    };
    let of = labels.iter().zip(decisions);
    let positives = |decisions: &[(f32, bool)]| decisions.iter().filter(|(_, holds)| *holds).count();
    let found = |decisions: &[(f32, bool)]| threshold(scored(decisions), positives(decisions), THRESHOLD);
    of.filter_map(|(label, decisions)| Some((label.to_owned(), found(decisions)?))).collect()
}

/// The threshold whose F1 is clearly above that of `usual`, of scores and whether each is right; `positives`: how many there are to find.
fn threshold(mut scored: Vec<(f32, bool)>, positives: usize, usual: f32) -> Option<f32> {
    if positives < POSITIVES_MIN {
        return None;
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let f1 = |hits: usize, said: usize| 2.0 * hits as f64 / (positives + said) as f64;
    let (mut hits, mut best, mut without) = (0, (0.0, usual), 0.0);
    for (at, &(score, holds)) in scored.iter().enumerate() {
        hits += usize::from(holds);
        let next = scored.get(at + 1).map_or(0.0, |next| next.0);
        let reached = f1(hits, at + 1);
        if score >= usual {
            without = reached;
        }
        // halfway to the next score: the rows that decide it are as far from it as they can be
        let between = (score + next) / 2.0;
        if next < score && reached > best.0 && (THRESHOLDS[0]..=THRESHOLDS[1]).contains(&between) {
            best = (reached, between);
        }
    }
    (best.0 > without + GAIN_MIN).then_some(best.1)
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// Where `loss` is lowest within [`LOG_TEMPERATURE`], if it falls and then rises: the golden section.
fn lowest(loss: impl Fn(f64) -> f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let [mut low, mut high] = LOG_TEMPERATURE;
    for _ in 0..SEARCHES {
        let (left, right) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
        if loss(left) <= loss(right) { high = right } else { low = left }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers that are right as often as their score says, when their logits are over `temperature`.
    fn answers(temperature: f32) -> Asked {
        let of = |percent: usize| {
            let logit = temperature * (percent as f32 / (100 - percent) as f32).ln();
            (0..100).map(move |at| (vec![logit, 0.0], usize::from(at >= percent)))
        };
        Asked::Choices([55, 70, 90, 98].into_iter().flat_map(of).collect())
    }

    #[test]
    fn the_temperature_that_was_put_in_is_found_and_scores_come_true() {
        for temperature in [0.7, 1.0, 2.5] {
            let asked = answers(temperature);
            let found = lowest(|log| asked.loss(log.exp())).exp();
            assert!((found / f64::from(temperature) - 1.0).abs() < 0.01, "{temperature}: {found}");
            assert!(asked.error(found) < 0.005, "{temperature}");
        }
        assert!(answers(2.5).error(1.0) > 0.08, "far too sure");
    }

    #[test]
    fn answers_that_are_all_right_do_not_make_a_score_infinite() {
        let asked = Asked::Choices(vec![(vec![3.0, 0.0], 0); 30]);
        assert!(lowest(|log| asked.loss(log.exp())) >= LOG_TEMPERATURE[0]);
    }

    #[test]
    fn a_threshold_parts_a_label_that_the_usual_one_misses() {
        let low = |count, score, holds| vec![(score, holds); count];
        let rare = [low(12, 0.3, true), low(30, 0.15, false), low(2, 0.35, false)].concat();
        let found = threshold(rare, 12, THRESHOLD).unwrap();
        assert!((found - 0.225).abs() < 1e-6, "{found}");
        let clear = [low(12, 0.9, true), low(30, 0.2, false)].concat();
        assert_eq!(threshold(clear, 12, THRESHOLD), None, "the usual one does");
        let few = [low(9, 0.3, true), low(30, 0.1, false)].concat();
        assert_eq!(threshold(few, 9, THRESHOLD), None, "too few rows");
    }

    #[test]
    fn entities_that_are_mostly_wrong_below_a_score_are_left_out_there() {
        let said = [vec![(0.95, true); 20], vec![(0.4, false); 10], vec![(0.5, true); 1]].concat();
        let found = threshold(said, 25, 0.0).unwrap();
        assert!((found - 0.45).abs() < 1e-6, "{found}");
        assert_eq!(threshold(vec![(0.4, true); 20], 25, 0.0), None, "low, but right");
    }
}

//! How far a figure may be from the truth, given the rows it was measured on. Pure: the same rows, the same interval.
//!
//! Two intervals, of which the wider ends count. The percentile bootstrap over rows (Efron and Tibshirani, "An introduction to the
//! bootstrap", 1993, chapter 13) knows what a row brings along: several entities, rare labels. It says nothing where all rows agree,
//! as on four rows that are all right. Wilson's score interval of a share ("Probable inference, the law of succession, and
//! statistical inference", 1927) does: it is that of as many trials as there are answers to get right.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::domain::GateMetric;

use super::scores::{Counts, ratio};
use super::{ClassificationRow, NerRow, spans};

/// Samples that the bootstrap draws: its ends move by about a hundredth of the interval with another thousand.
const RESAMPLES: usize = 1000;

/// Rows drawn in all at the most; larger splits have narrow intervals anyway, and get fewer resamples.
const DRAWS_MAX: usize = 20_000_000;

const RESAMPLES_MIN: usize = 100;

/// Every interval is drawn from the same numbers, so that a figure has one interval.
const SEED: u64 = 7;

/// How sure an interval is, if nobody asks for more or less.
pub(in crate::training) const CONFIDENCE: f64 = 0.95;

/// What one row brings to the counts.
#[derive(Default)]
struct RowCounts {
    /// (label, counts), labels by their number.
    labels: Vec<(usize, Counts)>,
    is_right: bool,
}

/// The counts of every row of a split.
pub(super) struct Sample {
    rows: Vec<RowCounts>,
    labels: usize,
    is_ner: bool,
}

impl Sample {
    pub(super) fn of_ner(rows: &[NerRow]) -> Self {
        let mut numbers = BTreeMap::new();
        let rows: Vec<RowCounts> = rows
            .iter()
            .map(|row| {
                let (gold, predicted) = (spans(&row.gold), spans(&row.predicted));
                let mut counts = BTreeMap::new();
                for span in &gold {
                    count(&mut counts, &mut numbers, span.label).gold += 1;
                }
                for span in &predicted {
                    let is_hit = gold.contains(span);
                    let counts = count(&mut counts, &mut numbers, span.label);
                    counts.predicted += 1;
                    counts.hits += usize::from(is_hit);
                }
                RowCounts { labels: counts.into_iter().collect(), is_right: gold == predicted }
            })
            .collect();
        Self { rows, labels: numbers.len(), is_ner: true }
    }

    /// `label_sets`: whether a row may have any number of labels.
    pub(super) fn of_classification(rows: &[ClassificationRow], label_sets: bool) -> Self {
        let mut numbers = BTreeMap::new();
        let most = if label_sets { usize::MAX } else { 1 };
        let rows: Vec<RowCounts> = rows
            .iter()
            .map(|row| {
                let set = |labels: &[String]| labels.iter().take(most).cloned().collect::<BTreeSet<_>>();
                let (gold, predicted) = (set(&row.gold), set(&row.predicted));
                let mut counts = BTreeMap::new();
                for label in &gold {
                    count(&mut counts, &mut numbers, label).gold += 1;
                }
                for label in &predicted {
                    let counts = count(&mut counts, &mut numbers, label);
                    counts.predicted += 1;
                    counts.hits += usize::from(gold.contains(label));
                }
                RowCounts { labels: counts.into_iter().collect(), is_right: gold == predicted }
            })
            .collect();
        Self { rows, labels: numbers.len(), is_ner: false }
    }

    /// Where the true figure lies with a probability of `confidence`, (low, high); None of no rows.
    pub(super) fn interval(&self, metric: GateMetric, confidence: f64) -> Option<[f64; 2]> {
        if self.rows.is_empty() {
            return None;
        }
        let tail = (1.0 - confidence.clamp(0.0, 1.0)) / 2.0;
        let mut drawn = self.resampled(metric);
        drawn.sort_by(f64::total_cmp);
        let at = |share: f64| drawn[((share * drawn.len() as f64) as usize).min(drawn.len() - 1)];
        let whole: Vec<usize> = (0..self.rows.len()).collect();
        let [low, high] = wilson(self.figure(metric, &whole), self.trials(), quantile(1.0 - tail));
        Some([at(tail).min(low), at(1.0 - tail).max(high)])
    }

    fn resampled(&self, metric: GateMetric) -> Vec<f64> {
        let rows = self.rows.len();
        let resamples = (DRAWS_MAX / rows).clamp(RESAMPLES_MIN, RESAMPLES);
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let mut drawn = vec![0; rows];
        let mut figures = Vec::with_capacity(resamples);
        for _ in 0..resamples {
            drawn.iter_mut().for_each(|row| *row = random.random_range(0..rows));
            figures.push(self.figure(metric, &drawn));
        }
        figures
    }

    /// The metric over `which` rows, as [`super::Evaluation::metric`] has it over all of them.
    fn figure(&self, metric: GateMetric, which: &[usize]) -> f64 {
        if metric == GateMetric::Accuracy {
            return ratio(which.iter().filter(|&&row| self.rows[row].is_right).count() as f64, which.len() as f64);
        }
        let mut counts = vec![Counts::default(); self.labels];
        for (label, own) in which.iter().flat_map(|&row| &self.rows[row].labels) {
            counts[*label] = counts[*label].plus(own);
        }
        let seen = || counts.iter().filter(|counts| counts.gold + counts.predicted > 0);
        let mean = |weight: fn(&Counts) -> f64| {
            let sum: f64 = seen().map(|counts| weight(counts) * counts.scores().f1).sum();
            ratio(sum, seen().map(weight).sum())
        };
        let micro = || seen().fold(Counts::default(), |sum, counts| sum.plus(counts)).scores();
        match metric {
            GateMetric::F1 if self.is_ner => micro().f1,
            GateMetric::Precision => micro().precision,
            GateMetric::Recall => micro().recall,
            GateMetric::WeightedF1 => mean(|counts| counts.gold as f64),
            _ => mean(|_| 1.0),
        }
    }

    /// Answers to get right: rows, or entities.
    fn trials(&self) -> f64 {
        let gold = || self.rows.iter().flat_map(|row| &row.labels).map(|(_, counts)| counts.gold).sum::<usize>();
        if self.is_ner { gold() as f64 } else { self.rows.len() as f64 }
    }
}

/// The counts of `label` in a row; a label that is new gets the next number.
fn count<'a>(
    counts: &'a mut BTreeMap<usize, Counts>,
    numbers: &mut BTreeMap<String, usize>,
    label: &str,
) -> &'a mut Counts {
    let next = numbers.len();
    let number = *numbers.entry(label.to_owned()).or_insert(next);
    counts.entry(number).or_default()
}

/// Wilson's interval of a share of so many `trials`; all of 0 to 1 where there are none. `z`: the normal distribution's quantile.
fn wilson(share: f64, trials: f64, z: f64) -> [f64; 2] {
    if trials == 0.0 {
        return [0.0, 1.0];
    }
    let square = z * z / trials;
    let centre = (share + square / 2.0) / (1.0 + square);
    let half = z / (1.0 + square) * (share * (1.0 - share) / trials + square / (4.0 * trials)).max(0.0).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

/// The standard normal distribution's quantile of `share`, from one half up, to four digits: Abramowitz and Stegun, "Handbook of
/// mathematical functions", 1964, formula 26.2.23.
fn quantile(share: f64) -> f64 {
    let t = (-2.0 * (1.0 - share).max(1e-12).ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    (t - above / below).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(right: usize, wrong: usize) -> Vec<ClassificationRow> {
        let row = |gold: &str, predicted: &str| ClassificationRow {
            text: String::new(),
            gold: vec![gold.to_owned()],
            predicted: vec![predicted.to_owned()],
            score: 1.0,
        };
        let right = (0..right).map(|at| if at % 2 == 0 { row("a", "a") } else { row("b", "b") });
        right.chain((0..wrong).map(|_| row("a", "b"))).collect()
    }

    fn interval(right: usize, wrong: usize, metric: GateMetric, confidence: f64) -> [f64; 2] {
        Sample::of_classification(&rows(right, wrong), false).interval(metric, confidence).unwrap()
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (share, z) in [(0.5, 0.0), (0.9, 1.2816), (0.95, 1.6449), (0.975, 1.9600), (0.995, 2.5758)] {
            assert!((quantile(share) - z).abs() < 1e-3, "{share}");
        }
    }

    #[test]
    fn four_rows_that_are_all_right_prove_little() {
        let [low, high] = interval(4, 0, GateMetric::Accuracy, 0.95);
        assert!((low - 0.51).abs() < 0.01, "Wilson's, as the bootstrap sees no error: {low}");
        assert_eq!(high, 1.0);
    }

    #[test]
    fn more_rows_or_less_confidence_give_a_narrower_interval_around_the_figure() {
        let width = |[low, high]: [f64; 2]| high - low;
        for metric in [GateMetric::Accuracy, GateMetric::MacroF1, GateMetric::WeightedF1] {
            let few = interval(16, 4, metric, 0.95);
            let many = interval(160, 40, metric, 0.95);
            let unsure = interval(16, 4, metric, 0.5);
            assert!(few[0] < 0.8 && 0.8 < few[1], "{metric:?} {few:?}");
            assert!(width(many) < 0.6 * width(few) && width(unsure) < 0.6 * width(few), "{metric:?}");
        }
        let [low, high] = interval(800, 200, GateMetric::Accuracy, 0.95);
        assert!((low - 0.775).abs() < 0.01 && (high - 0.825).abs() < 0.01, "1.96·√(0.8·0.2/1000): {low} {high}");
    }

    #[test]
    fn a_resampled_figure_over_all_rows_is_the_reports() {
        let words = |tags: &str| tags.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let row = |gold: &str, predicted: &str| NerRow {
            words: words(gold),
            gold: words(gold),
            predicted: words(predicted),
            scores: Vec::new(),
        };
        let ner = [
            row("B-PER I-PER O B-LOC", "B-PER I-PER O O"),
            row("O B-ORG O", "B-ORG B-ORG O"),
            row("B-PER O B-PER", "B-PER O B-LOC"),
        ];
        let sample = Sample::of_ner(&ner);
        let report = super::super::Evaluation::ner("d:s", &ner);
        for metric in [GateMetric::F1, GateMetric::MacroF1, GateMetric::Precision, GateMetric::Recall] {
            assert!((sample.figure(metric, &[0, 1, 2]) - report.metric(metric).unwrap()).abs() < 1e-12, "{metric:?}");
        }
        let rows = rows(7, 3);
        let sample = Sample::of_classification(&rows, false);
        let report = super::super::Evaluation::classification("d:s", &rows, false);
        let all: Vec<usize> = (0..10).collect();
        for metric in [GateMetric::F1, GateMetric::MacroF1, GateMetric::WeightedF1, GateMetric::Accuracy] {
            assert!((sample.figure(metric, &all) - report.metric(metric).unwrap()).abs() < 1e-12, "{metric:?}");
        }
    }

    #[test]
    fn no_rows_have_no_interval() {
        assert_eq!(Sample::of_ner(&[]).interval(GateMetric::F1, 0.95), None);
    }
}

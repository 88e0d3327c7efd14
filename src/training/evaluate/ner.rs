//! Entity-level scores, confusions and errors of tagged sentences.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::scores::{LabelCounts, Scores, Summary};
use super::spans::{Reading, Span, read, spans};
use super::{Confusions, WorstError};

/// What a confusion says where one side has no entity.
const NO_ENTITY: &str = "O";

/// Entity-level scores: an entity is right if type and both ends are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NerReport {
    pub micro: Scores,
    pub macro_average: Scores,
    pub weighted: Scores,
    pub per_label: BTreeMap<String, Scores>,
    /// The same under strict IOB2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<Box<NerReport>>,
}

/// One evaluated sentence. All lists have a place for each word; `scores` may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NerRow {
    pub words: Vec<String>,
    pub gold: Vec<String>,
    pub predicted: Vec<String>,
    /// The probability of each predicted tag.
    pub scores: Vec<f32>,
}

/// Gold and predicted tags, one list a sentence: seqeval's default mode, with strict IOB2 beside it.
/// Words past the end of a prediction (cut off by `max_length`) count as predicted `O`.
pub fn evaluate_ner(gold: &[Vec<String>], predicted: &[Vec<String>]) -> NerReport {
    let strict = report(gold, predicted, Reading::StrictIob2);
    NerReport { strict: Some(Box::new(strict)), ..report(gold, predicted, Reading::Forgiving) }
}

fn report(gold: &[Vec<String>], predicted: &[Vec<String>], reading: Reading) -> NerReport {
    let mut counts = LabelCounts::new();
    for (gold, predicted) in gold.iter().zip(predicted) {
        let gold: HashSet<_> = read(gold, reading).into_iter().collect();
        let predicted: HashSet<_> = read(predicted, reading).into_iter().collect();
        gold.iter().for_each(|span| counts.entry(span.label.to_owned()).or_default().gold += 1);
        predicted.iter().for_each(|span| counts.entry(span.label.to_owned()).or_default().predicted += 1);
        gold.intersection(&predicted).for_each(|span| counts.entry(span.label.to_owned()).or_default().hits += 1);
    }
    let Summary { micro, macro_average, weighted, per_label } = Summary::of(&counts);
    NerReport { micro, macro_average, weighted, per_label, strict: None }
}

/// Entities on the same words under another type; else missed (`PER`, `O`) or made up (`O`, `PER`).
pub(super) fn confuse(row: &NerRow, confusions: &mut Confusions) {
    let (gold, predicted) = (spans(&row.gold), spans(&row.predicted));
    let on = |spans: &[Span<'_>], words| spans.iter().find(|s| s.words == words).map(|s| s.label.to_owned());
    for span in &gold {
        let found = on(&predicted, span.words.clone()).unwrap_or_else(|| NO_ENTITY.to_owned());
        if found != span.label {
            confusions.add(span.label, &found);
        }
    }
    for span in predicted.iter().filter(|span| on(&gold, span.words.clone()).is_none()) {
        confusions.add(NO_ENTITY, span.label);
    }
}

/// The sentence as an error, if its entities differ; its score is that of the surest wrong tag.
pub(super) fn error(row: &NerRow) -> Option<WorstError> {
    let (gold, predicted) = (spans(&row.gold), spans(&row.predicted));
    if gold == predicted {
        return None;
    }
    let wrong = |at: &usize| row.gold.get(*at) != row.predicted.get(*at);
    let sure = (0..row.gold.len()).filter(wrong).filter_map(|at| row.scores.get(at)).copied().fold(0.0, f32::max);
    Some(WorstError {
        text: row.words.join(" "),
        gold: name(&row.words, &gold),
        predicted: name(&row.words, &predicted),
        score: f64::from(sure),
    })
}

/// `Anna Nowak (PER), Kraków (LOC)`.
fn name(words: &[String], spans: &[Span<'_>]) -> String {
    let named = |s: &Span<'_>| format!("{} ({})", words.get(s.words.clone()).unwrap_or_default().join(" "), s.label);
    match spans {
        [] => "no entity".to_owned(),
        spans => spans.iter().map(named).collect::<Vec<_>>().join(", "),
    }
}

//! Where a report's figures cannot carry a decision, said in words. Pure.

use crate::domain::{Family, LabelSet, Tag};
use crate::training::evaluate::Evaluation;

/// An interval wider than this holds a good adapter and a bad one.
const WIDTH_MAX: f64 = 0.2;

/// Labels named in one warning.
const LABELS_SHOWN_MAX: usize = 10;

/// What whoever decides by these figures should know.
pub(super) fn doubts(validation: &Evaluation, test: Option<&Evaluation>, labels: &LabelSet) -> Vec<String> {
    let splits = [("validation", Some(validation)), ("test", test)];
    let of = |(name, evaluation): (&str, Option<&Evaluation>)| {
        let Some(evaluation) = evaluation else { return Vec::new() };
        [wide(name, evaluation), unseen(name, evaluation, labels)].into_iter().flatten().collect()
    };
    splits.into_iter().flat_map(of).collect()
}

fn wide(name: &str, evaluation: &Evaluation) -> Option<String> {
    let [low, high] = evaluation.interval?;
    let (metric, confidence) = (evaluation.interval_metric.as_deref()?, evaluation.confidence?);
    (high - low > WIDTH_MAX).then(|| {
        format!(
            "{name} has {} rows: its {metric} is somewhere from {low:.2} to {high:.2} ({:.0} % sure), which is too wide to decide by; \
             more rows make it narrower",
            evaluation.rows,
            100.0 * confidence
        )
    })
}

/// Labels that no row of a split has: its figures say nothing of them.
fn unseen(name: &str, evaluation: &Evaluation, labels: &LabelSet) -> Option<String> {
    let has = |label: &str| {
        let of_ner = evaluation.ner.as_ref().map(|report| &report.per_label);
        let report = of_ner.or_else(|| evaluation.classification.as_ref().map(|report| &report.per_label));
        report.is_some_and(|labels| labels.get(label).is_some_and(|scores| scores.support > 0))
    };
    let is_ner = evaluation.family == Family::Ner.as_str();
    let kinds = labels.iter().filter_map(|label| if is_ner { of_begin(label) } else { Some(label) });
    let missing: Vec<&str> = kinds.filter(|kind| !has(kind)).collect();
    (!missing.is_empty()).then(|| {
        let shown = missing[..missing.len().min(LABELS_SHOWN_MAX)].join(", ");
        let more = missing.len().saturating_sub(LABELS_SHOWN_MAX);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("no row of {name} has {shown}{rest}: its figures say nothing of them")
    })
}

/// The type of a tag that begins one.
fn of_begin(tag: &str) -> Option<&str> {
    match Tag::parse(tag) {
        Tag::Begin(kind) => Some(kind),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::evaluate::ClassificationRow;

    fn evaluated(rows: usize, label: &str) -> Evaluation {
        let row = |_| ClassificationRow {
            text: String::new(),
            gold: vec![label.to_owned()],
            predicted: vec![label.to_owned()],
            score: 1.0,
        };
        Evaluation::classification("d:s", &(0..rows).map(row).collect::<Vec<_>>(), false)
    }

    #[test]
    fn few_rows_and_absent_labels_are_said() {
        let labels = LabelSet::new(vec!["a".to_owned(), "b".to_owned()]).unwrap();
        let said = doubts(&evaluated(4, "a"), Some(&evaluated(400, "a")), &labels);
        assert_eq!(
            said,
            [
                "validation has 4 rows: its accuracy is somewhere from 0.51 to 1.00 (95 % sure), which is too wide to decide by; \
                 more rows make it narrower",
                "no row of validation has b: its figures say nothing of them",
                "no row of test has b: its figures say nothing of them",
            ]
        );
        let one = LabelSet::new(vec!["a".to_owned()]).unwrap();
        assert_eq!(doubts(&evaluated(400, "a"), None, &one), Vec::<String>::new());
    }
}

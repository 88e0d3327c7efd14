//! Evaluation against the reports of seqeval and scikit-learn, and what a report says of errors.

use std::fs;

use serde_json::Value;
use trunkline::domain::GateMetric;
use trunkline::training::{
    ClassificationRow, Evaluation, NerRow, Scores, evaluate_classification, evaluate_ner, spans,
};

const TOLERANCE: f64 = 1e-9;

#[test]
fn entity_scores_equal_seqevals_in_default_and_strict_mode() {
    for (case, golden) in fixtures("seqeval").iter().enumerate() {
        let report = evaluate_ner(&sentences(&golden["gold"]), &sentences(&golden["pred"]));
        let strict = report.strict.as_deref().expect("strict is always there");
        for (mode, ours) in [("default", &report), ("strict_iob2", strict)] {
            let averages =
                [("micro avg", ours.micro), ("macro avg", ours.macro_average), ("weighted avg", ours.weighted)];
            let labels = ours.per_label.iter().map(|(label, scores)| (label.as_str(), *scores));
            check_all(&format!("case {case}, {mode}"), labels.chain(averages), &golden[mode]);
        }
    }
}

#[test]
fn classification_scores_equal_scikit_learns() {
    for (case, golden) in fixtures("classification").iter().enumerate() {
        let report = evaluate_classification(&rows(&golden["gold"]), &rows(&golden["pred"]), false);
        let averages = [("macro avg", report.macro_average), ("weighted avg", report.weighted)];
        let labels = report.per_label.iter().map(|(label, scores)| (label.as_str(), *scores));
        let mut wanted = golden["report"].clone();
        let accuracy = wanted.as_object_mut().expect("a report").remove("accuracy").expect("an accuracy");
        check_all(&format!("case {case}"), labels.chain(averages), &wanted);
        near(&format!("case {case}, accuracy"), report.accuracy, &accuracy);
        near(&format!("case {case}, micro"), report.micro.f1, &accuracy);
    }
}

#[test]
fn spans_are_read_as_seqeval_reads_them() {
    let check = |tags: &str, wanted: &str| {
        let tags: Vec<String> = tags.split(' ').map(str::to_owned).collect();
        let found = spans(&tags);
        let found: Vec<_> = found.iter().map(|s| format!("{}@{}..{}", s.label, s.words.start, s.words.end)).collect();
        assert_eq!(found.join(" "), wanted, "{tags:?}");
    };
    check("O", "");
    check("O I-PER I-PER O", "PER@1..3");
    check("B-PER I-LOC", "PER@0..1 LOC@1..2");
    check("B-PER B-PER I-PER", "PER@0..1 PER@1..3");
    check("I-PER B-PER", "PER@0..1 PER@1..2");
    check("B-PER E-PER S-LOC O E-LOC", "PER@0..2 LOC@2..3 LOC@4..5");
    check("B-PER E-PER I-PER", "PER@0..2 PER@2..3");
    check("S-PER I-PER", "PER@0..1 PER@1..2");
    check("B-some-type I-some-type", "some-type@0..2");
}

#[test]
fn multi_label_rows_are_right_as_whole_sets_and_counted_label_by_label() {
    let gold = label_rows(&["a b", "a", "", "c"]);
    let predicted = label_rows(&["b a", "a b", "", "a"]);
    let report = evaluate_classification(&gold, &predicted, true);
    // scikit-learn on the binarized rows: micro 3 of 5 predicted, 3 of 4 gold.
    assert_eq!(report.accuracy, 0.5);
    assert_eq!((report.micro.precision, report.micro.recall, report.micro.support), (0.6, 0.75, 4));
    let a = Scores { precision: 2.0 / 3.0, recall: 1.0, f1: 0.8, support: 2 };
    assert_eq!(report.per_label["a"], a);
    assert_eq!(report.per_label["c"], Scores { support: 1, ..Scores::default() });
}

#[test]
fn nothing_to_score_scores_zero() {
    let (none, empty) = (evaluate_ner(&[], &[]), evaluate_classification(&[], &[], false));
    assert_eq!((none.micro, none.macro_average, none.weighted), Default::default());
    assert_eq!((empty.accuracy, empty.macro_average, empty.weighted), Default::default());
}

#[test]
fn a_ner_report_names_confusions_and_the_surest_errors() {
    let row = |words: &str, gold: &str, predicted: &str, score| {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (words, gold, predicted) = (list(words), list(gold), list(predicted));
        NerRow { scores: vec![score; words.len()], words, gold, predicted }
    };
    let report = Evaluation::ner(
        "toy:dev",
        &[
            row("Anna in Lima", "B-PER O B-LOC", "B-PER O B-LOC", 0.99),
            row("see Anna", "O B-PER", "O B-LOC", 0.6),
            row("in Rio", "O B-LOC", "O O", 0.9),
            row("very well", "O O", "B-PER I-PER", 0.7),
        ],
    );
    assert_eq!(confusions(&report), ["LOC>O 1", "O>PER 1", "PER>LOC 1"]);
    let worst: Vec<_> = report.worst_errors.iter().map(|e| (e.text.as_str(), e.gold.as_str())).collect();
    assert_eq!(worst, [("in Rio", "Rio (LOC)"), ("very well", "no entity"), ("see Anna", "Anna (PER)")]);
    assert_eq!(report.worst_errors[1].predicted, "very well (PER)");
    near("its f1", report.metric(GateMetric::F1).expect("NER has F1"), &(0.5).into());
    assert_eq!(report.metric(GateMetric::Accuracy), None);
    let table = report.table();
    assert!(table.contains("LOC                    0.5000  0.5000  0.5000        2\n"), "{table}");
    assert!(table.contains("PER  →  LOC  1"), "{table}");
}

#[test]
fn a_classification_report_names_confusions_and_at_most_ten_errors_shortened() {
    let row = |gold: &str, predicted: &str, score: f32| ClassificationRow {
        text: "long ".repeat(200),
        gold: label_rows(&[gold]).remove(0),
        predicted: label_rows(&[predicted]).remove(0),
        score,
    };
    let rows: Vec<_> = (0..20).map(|n| row("ham", if n == 0 { "ham" } else { "spam" }, n as f32 / 20.0)).collect();
    let report = Evaluation::classification("toy:dev", &rows, false);
    assert_eq!(confusions(&report), ["ham>spam 19"]);
    assert_eq!(report.worst_errors.len(), 10);
    near("the worst's score", report.worst_errors[0].score, &f64::from(0.95f32).into());
    assert_eq!(report.worst_errors[0].text.chars().count(), 501);
    assert_eq!(report.metric(GateMetric::Accuracy), Some(0.05));
    assert_eq!(report.metric(GateMetric::F1), report.metric(GateMetric::MacroF1));
    assert_eq!(report.metric(GateMetric::Recall), None);
    let sets = Evaluation::classification("toy:dev", &[row("a b", "b c", 0.5), row("a", "", 0.5)], true);
    assert_eq!(confusions(&sets), ["a>(none) 1", "a>c 1"]);
}

fn confusions(report: &Evaluation) -> Vec<String> {
    report.confusions.iter().map(|c| format!("{}>{} {}", c.gold, c.predicted, c.count)).collect()
}

fn check_all<'a>(case: &str, ours: impl Iterator<Item = (&'a str, Scores)>, wanted: &Value) {
    let mut seen = 0;
    for (label, scores) in ours {
        let golden = &wanted[label];
        near(&format!("{case}, {label} precision"), scores.precision, &golden["precision"]);
        near(&format!("{case}, {label} recall"), scores.recall, &golden["recall"]);
        near(&format!("{case}, {label} f1"), scores.f1, &golden["f1-score"]);
        near(&format!("{case}, {label} support"), scores.support as f64, &golden["support"]);
        seen += 1;
    }
    assert_eq!(seen, wanted.as_object().expect("a report").len(), "{case}: the same labels and averages");
}

fn near(what: &str, ours: f64, wanted: &Value) {
    let wanted = wanted.as_f64().unwrap_or_else(|| panic!("{what}: no golden figure"));
    assert!((ours - wanted).abs() < TOLERANCE, "{what}: {ours}, wanted {wanted}");
}

fn fixtures(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(format!("tests/fixtures/metrics/{name}.json")).expect("a fixture");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert!(!cases.is_empty(), "{name} has cases");
    cases
}

fn sentences(value: &Value) -> Vec<Vec<String>> {
    serde_json::from_value(value.clone()).expect("lists of tags")
}

fn rows(value: &Value) -> Vec<Vec<String>> {
    let labels: Vec<String> = serde_json::from_value(value.clone()).expect("labels");
    labels.into_iter().map(|label| vec![label]).collect()
}

fn label_rows(rows: &[&str]) -> Vec<Vec<String>> {
    rows.iter().map(|row| row.split_whitespace().map(str::to_owned).collect()).collect()
}

//! An evaluation as plain text, for terminals and cards.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{ClassificationReport, Evaluation, NerReport, Scores};

/// How many confusions a terminal shows; the report has more.
const CONFUSIONS_SHOWN_MAX: usize = 10;

/// A label column narrower than this looks ragged beside the averages.
const LABEL_WIDTH_MIN: usize = 16;

impl Evaluation {
    /// Several lines: one a label, aligned, then averages, confusions and errors. Ends with a newline.
    pub fn table(&self) -> String {
        let mut text = format!("{} on {}: {} rows\n\n", self.family, self.dataset, self.rows);
        if let Some(ner) = &self.ner {
            write_ner(&mut text, ner);
        }
        if let Some(classification) = &self.classification {
            write_classification(&mut text, classification);
        }
        write_confusions(&mut text, self);
        write_errors(&mut text, self);
        text
    }
}

fn write_ner(text: &mut String, report: &NerReport) {
    let mut averages = vec![
        ("micro average", report.micro),
        ("macro average", report.macro_average),
        ("weighted average", report.weighted),
    ];
    averages.extend(report.strict.as_ref().map(|strict| ("micro, strict IOB2", strict.micro)));
    write_scores(text, &report.per_label, &averages);
}

fn write_classification(text: &mut String, report: &ClassificationReport) {
    let averages = [
        ("micro average", report.micro),
        ("macro average", report.macro_average),
        ("weighted average", report.weighted),
    ];
    write_scores(text, &report.per_label, &averages);
    line(text, format_args!("accuracy {:.4}", report.accuracy));
}

fn write_scores(text: &mut String, labels: &BTreeMap<String, Scores>, averages: &[(&str, Scores)]) {
    let names = labels.keys().map(String::as_str).chain(averages.iter().map(|(name, _)| *name));
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0).max(LABEL_WIDTH_MIN);
    line(text, format_args!("{:width$}  precision  recall      f1  support", "label"));
    let mut row = |name: &str, s: &Scores| {
        let Scores { precision, recall, f1, support } = s;
        line(text, format_args!("{name:width$}  {precision:9.4}  {recall:6.4}  {f1:6.4}  {support:7}"));
    };
    labels.iter().for_each(|(name, scores)| row(name, scores));
    averages.iter().for_each(|(name, scores)| row(name, scores));
}

fn write_confusions(text: &mut String, evaluation: &Evaluation) {
    if !evaluation.confusions.is_empty() {
        text.push_str("\nconfusions (gold, predicted, count)\n");
    }
    for confusion in evaluation.confusions.iter().take(CONFUSIONS_SHOWN_MAX) {
        line(text, format_args!("  {}  →  {}  {}", confusion.gold, confusion.predicted, confusion.count));
    }
}

fn write_errors(text: &mut String, evaluation: &Evaluation) {
    if !evaluation.worst_errors.is_empty() {
        text.push_str("\nworst errors\n");
    }
    for error in &evaluation.worst_errors {
        line(text, format_args!("  {:.3}  {}", error.score, error.text));
        line(text, format_args!("         gold {}; predicted {}", error.gold, error.predicted));
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a String cannot fail");
}

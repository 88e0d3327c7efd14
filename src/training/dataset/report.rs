//! The doctor's report as the upload's answer, as a list of problems, and as text for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::findings::Finding;
use super::preview::PreviewRow;

/// How many labels a terminal shows; the report has all.
const LABELS_SHOWN_MAX: usize = 30;

/// The doctor's findings; `errors` refuse the data, `warnings` do not. Serialised as the upload's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DoctorReport {
    pub family: String,
    pub format: String,
    /// Rows that can be trained on; empty and skipped ones do not count.
    pub rows: usize,
    /// Rows that could not be read and were left out, as `on_error=skip` has it.
    #[serde(default)]
    pub skipped: usize,
    /// Words; a tokenizer makes more of them.
    pub tokens: usize,
    /// Entity types or labels, and how often each occurs.
    pub labels: BTreeMap<String, usize>,
    pub multi_label: bool,
    pub longest_row_tokens: usize,
    /// The first two rows as they were understood.
    #[serde(default)]
    pub preview: Vec<PreviewRow>,
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
}

impl DoctorReport {
    /// The errors, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        self.errors.iter().map(Finding::to_string).collect()
    }

    /// Several lines: figures, labels, errors, warnings. Ends with a newline.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let longest = format!("{} (longest row {})", self.tokens, self.longest_row_tokens);
        let figures = [("family", &self.family), ("format", &self.format), ("rows", &self.rows.to_string())];
        for (name, value) in figures.into_iter().chain([("words", &longest)]) {
            line(&mut text, format_args!("{name:8}{value}"));
        }
        if self.skipped > 0 {
            line(&mut text, format_args!("skipped {}", self.skipped));
        }
        self.write_labels(&mut text);
        if !self.preview.is_empty() {
            line(&mut text, format_args!("first rows as understood"));
        }
        self.preview.iter().for_each(|row| line(&mut text, format_args!("  {row}")));
        write_findings(&mut text, "errors", &self.errors);
        write_findings(&mut text, "warnings", &self.warnings);
        text
    }

    fn write_labels(&self, text: &mut String) {
        let kind = if self.multi_label { ", several a row" } else { "" };
        line(text, format_args!("labels  {}{kind}", self.labels.len()));
        let mut labels: Vec<_> = self.labels.iter().collect();
        labels.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        let shown = &labels[..labels.len().min(LABELS_SHOWN_MAX)];
        let width = shown.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        shown.iter().for_each(|(label, count)| line(text, format_args!("  {label:width$}  {count:7}")));
        if labels.len() > shown.len() {
            line(text, format_args!("  … and {} more", labels.len() - shown.len()));
        }
    }
}

fn write_findings(text: &mut String, title: &str, findings: &[Finding]) {
    if !findings.is_empty() {
        line(text, format_args!("{title}"));
    }
    findings.iter().for_each(|finding| line(text, format_args!("  {finding}")));
}

/// `misaligned_span (3; lines 4, 9): spans that …`.
impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}", self.code, self.count)?;
        let more = if self.count > self.lines.len() { ", …" } else { "" };
        match self.lines.as_slice() {
            [] => {}
            [line] if more.is_empty() => write!(f, "; line {line}")?,
            lines => {
                let lines: Vec<_> = lines.iter().map(usize::to_string).collect();
                write!(f, "; lines {}{more}", lines.join(", "))?;
            }
        }
        write!(f, "): {}", self.message)
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a String cannot fail");
}

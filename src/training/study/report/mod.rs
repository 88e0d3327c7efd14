//! The report of a study: every figure in it comes from the rows. Owns which tables and plots there are; leaves the figures to
//! `figures`, and how blocks are written to `document`.

mod curves;
mod document;
mod figures;
mod tables;

use serde::{Deserialize, Serialize};

use crate::training::study::leak::Clearance;
use crate::training::study::row::{Row, ZeroShotRow};
use crate::training::study::spec::Study;
use document::{Block, html, markdown};

/// A measurement of a pre-finetuning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub step: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ner_loss: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classify_loss: Option<f64>,
    /// Between the families' gradients, a layer at a time from the bottom.
    #[serde(default)]
    pub cosine: Vec<f64>,
}

/// How the two families' mean gradients agreed before an arm's first step and after its last, the noise of batches taken out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// Micro-batches of each family in either measurement.
    pub batches: u64,
    pub begin: MeanGradients,
    pub end: MeanGradients,
}

/// A layer at a time from the bottom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeanGradients {
    /// None where noise hides it.
    pub cosine: Vec<Option<f64>>,
    /// How far two halves of a family's batches agree: 0 is noise, 1 the mean gradient itself.
    pub ner_halves: Vec<f64>,
    pub classify_halves: Vec<f64>,
}

/// How an arm came to its backbone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmAccount {
    pub arm: String,
    /// Digest of what decides it: the backbone it began with, settings and rows.
    pub inputs: String,
    /// The fingerprint of what it ended with.
    pub backbone: String,
    pub seconds: f64,
    pub points: Vec<Point>,
    /// None where one family is trained alone.
    #[serde(default)]
    pub conflict: Option<Conflict>,
}

/// What a report is made of.
#[derive(Clone, Debug)]
pub struct Findings {
    pub study: Study,
    pub rows: Vec<Row>,
    pub zero_shot: Vec<ZeroShotRow>,
    pub clearances: Vec<Clearance>,
    pub arms: Vec<ArmAccount>,
    /// Markdown, written by hand.
    pub conclusion: Option<String>,
}

/// The files of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub markdown: String,
    pub html: String,
    /// Name and contents of each plot.
    pub plots: Vec<(String, String)>,
}

/// The same findings give the same report.
pub fn report(findings: &Findings) -> Report {
    let title = format!("Study: {}", findings.study.name);
    let mut blocks = vec![Block::heading(1, &title)];
    blocks.push(Block::paragraph(tables::summary(findings)));
    if let Some(conclusion) = &findings.conclusion {
        blocks.push(Block::Prose(conclusion.clone()));
    }
    let (curves, plots) = curves::all(findings);
    for section in [
        tables::differences(findings),
        tables::averages(findings),
        curves,
        tables::by_set(findings),
        tables::zero_shot(findings),
        tables::arms(findings),
        tables::mean_gradients_by_layer(findings),
        tables::data(findings),
        tables::leaks(findings),
        tables::settings(findings),
    ] {
        blocks.extend(section);
    }
    Report { markdown: markdown(&blocks), html: html(&title, &blocks), plots }
}

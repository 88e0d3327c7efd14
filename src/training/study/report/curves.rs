//! The plots: scores and gains over training rows, and how the families' gradients agree.

use crate::domain::Family;
use crate::telemetry::{Line, Plot};
use crate::training::study::report::document::Block;
use crate::training::study::report::figures::{Slice, slices};
use crate::training::study::report::{ArmAccount, Findings, MeanGradients};
use crate::training::study::spec::ArmStrategy;
use crate::training::study::statistics::mean_and_spread;

/// The section and its files.
pub(super) fn all(findings: &Findings) -> (Vec<Block>, Vec<(String, String)>) {
    let mut section = Section::default();
    let slices = slices(&findings.study, &findings.rows);
    for family in [Family::Ner, Family::Classify] {
        let of_family: Vec<&Slice<'_>> = slices.iter().filter(|slice| slice.family == family).collect();
        if !of_family.is_empty() {
            section.learning_curves(family, &of_family);
        }
    }
    let measured: Vec<&ArmAccount> =
        findings.arms.iter().filter(|arm| arm.points.iter().any(|point| !point.cosine.is_empty())).collect();
    if !measured.is_empty() {
        section.mean_gradients(&measured);
        section.conflict(&measured);
    }
    if !section.blocks.is_empty() {
        section.blocks.insert(0, Block::heading(2, "Curves"));
    }
    (section.blocks, section.files)
}

#[derive(Default)]
struct Section {
    blocks: Vec<Block>,
    files: Vec<(String, String)>,
}

impl Section {
    fn add(&mut self, file: String, plot: &Plot) {
        self.blocks.push(Block::Figure { file: file.clone(), caption: plot.title.clone() });
        self.files.push((file, plot.to_svg()));
    }

    fn learning_curves(&mut self, family: Family, slices: &[&Slice<'_>]) {
        let scores =
            plot(family, "average over sets", metric(family), slices, |slice, arm| Some(100.0 * slice.average(arm)?.0));
        self.add(format!("curve-{family}.svg"), &scores);
        let none = slices[0].arms.iter().find(|arm| arm.strategy == ArmStrategy::None).map(|arm| arm.name.clone());
        if let Some(none) = none {
            let title = format!("gain over {none}, average over sets");
            let gain = |slice: &Slice<'_>, arm: &str| Some(100.0 * (slice.average(arm)?.0 - slice.average(&none)?.0));
            self.add(format!("gain-{family}.svg"), &plot(family, &title, "points", slices, gain));
        }
    }

    /// Before the first step and after the last, by layer.
    fn mean_gradients(&mut self, arms: &[&ArmAccount]) {
        let of = |arm: &&ArmAccount| -> Vec<Line> {
            let sides = arm.conflict.iter().flat_map(|conflict| [("begin", &conflict.begin), ("end", &conflict.end)]);
            let line = |(name, side): (&str, &MeanGradients)| {
                let cosines = side.cosine.iter().enumerate();
                let points = cosines.filter_map(|(layer, cosine)| Some((layer as f64, (*cosine)?)));
                Line { name: format!("{}, {name}", arm.arm), points: points.collect() }
            };
            sides.map(line).collect()
        };
        let lines: Vec<Line> = arms.iter().flat_map(of).collect();
        if lines.is_empty() {
            return;
        }
        let plot = Plot {
            title: "Cosine between the families' mean gradients by layer, the noise of batches taken out".to_owned(),
            x_label: "layer, from the bottom".to_owned(),
            y_label: "cosine".to_owned(),
            lines,
        };
        self.add("conflict-means.svg".to_owned(), &plot);
    }

    /// By step, one plot an arm, and the means of all steps by layer, one line an arm.
    fn conflict(&mut self, arms: &[&ArmAccount]) {
        let means = arms.iter().map(|arm| Line { name: arm.arm.clone(), points: mean_by_layer(arm) });
        let plot = Plot {
            title: "Cosine between the families' gradients by layer, mean over steps".to_owned(),
            x_label: "layer, from the bottom".to_owned(),
            y_label: "cosine".to_owned(),
            lines: means.collect(),
        };
        self.add("conflict-layers.svg".to_owned(), &plot);
        for arm in arms {
            let plot = Plot {
                title: format!("Cosine between the families' gradients over steps: {}", arm.arm),
                x_label: "step".to_owned(),
                y_label: "cosine".to_owned(),
                lines: (0..layers(arm)).map(|layer| over_steps(arm, layer)).collect(),
            };
            self.add(format!("conflict-{}.svg", arm.arm), &plot);
        }
    }
}

fn metric(family: Family) -> &'static str {
    match family {
        Family::Ner => "entity F1",
        Family::Classify => "accuracy",
    }
}

fn plot(
    family: Family,
    title: &str,
    y: &str,
    slices: &[&Slice<'_>],
    of: impl Fn(&Slice<'_>, &str) -> Option<f64>,
) -> Plot {
    let mut slices = slices.to_vec();
    slices.sort_by(|a, b| a.train_rows().total_cmp(&b.train_rows()));
    let arms = slices.first().map(|slice| slice.arms.clone()).unwrap_or_default();
    let line = |arm: &str| {
        let points = slices.iter().filter_map(|slice| Some((slice.train_rows(), of(slice, arm)?))).collect();
        Line { name: arm.to_owned(), points }
    };
    let shares: Vec<String> = slices.iter().map(|slice| slice.share.to_string()).collect();
    Plot {
        title: format!("{family}: {title}"),
        x_label: format!("training rows, mean over sets ({})", shares.join(", ")),
        y_label: y.to_owned(),
        lines: arms.iter().map(|arm| line(&arm.name)).collect(),
    }
}

fn layers(arm: &ArmAccount) -> usize {
    arm.points.iter().map(|point| point.cosine.len()).max().unwrap_or(0)
}

fn over_steps(arm: &ArmAccount, layer: usize) -> Line {
    let points = arm.points.iter().filter_map(|point| Some((point.step as f64, *point.cosine.get(layer)?)));
    Line { name: format!("layer {layer}"), points: points.collect() }
}

fn mean_by_layer(arm: &ArmAccount) -> Vec<(f64, f64)> {
    let mean = |layer| {
        let cosines: Vec<f64> = arm.points.iter().filter_map(|point| point.cosine.get(layer).copied()).collect();
        Some((layer as f64, mean_and_spread(&cosines)?.0))
    };
    (0..layers(arm)).filter_map(mean).collect()
}

/// Mean over layers before the first step and after the last; None where noise hides all of them.
pub(super) fn mean_gradients(arm: &ArmAccount) -> Option<[Option<f64>; 2]> {
    let conflict = arm.conflict.as_ref()?;
    let mean = |side: &MeanGradients| {
        let cosines: Vec<f64> = side.cosine.iter().copied().flatten().collect();
        Some(mean_and_spread(&cosines)?.0)
    };
    Some([mean(&conflict.begin), mean(&conflict.end)])
}

/// Mean cosine of all measured steps and layers, and the share of them below zero.
pub(super) fn agreement(arm: &ArmAccount) -> Option<(f64, f64)> {
    let cosines: Vec<f64> = arm.points.iter().flat_map(|point| point.cosine.iter().copied()).collect();
    let below = cosines.iter().filter(|cosine| **cosine < 0.0).count() as f64 / cosines.len().max(1) as f64;
    Some((mean_and_spread(&cosines)?.0, below))
}

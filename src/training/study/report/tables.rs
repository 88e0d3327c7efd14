//! The tables, in the order of the report. Scores are shown as points of a hundred.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::Family;
use crate::training::study::cells::cells;
use crate::training::study::report::curves::{agreement, mean_gradients};
use crate::training::study::report::document::Block;
use crate::training::study::report::figures::{Slice, comparisons, slices};
use crate::training::study::report::{ArmAccount, Findings, MeanGradients};
use crate::training::study::row::{Row, ZeroShotRow};
use crate::training::study::spec::{ArmStrategy, Share, Study};
use crate::training::study::statistics::mean_and_spread;

/// What the report begins with: how much of the study is done, and by which rules.
pub(super) fn summary(findings: &Findings) -> String {
    let Findings { study, rows, .. } = findings;
    let (all, hours) = (cells(study).len(), rows.iter().map(|row| row.seconds).sum::<f64>() / 3600.0);
    let count = |family| study.downstream.iter().filter(|set| set.family == family).count();
    let versions: BTreeSet<&str> = rows.iter().map(|row| &*row.version).collect();
    let caps = study.caps;
    format!(
        "{done} of {all} cells are finished: {arms} arms, {ner} NER and {classify} classification sets, shares {shares}, {seeds} seeds; \
         {hours:.1} thread-hours of fine-tuning, program version {versions}. Each cell fine-tunes LoRA and a head on the drawn rows \
         and is scored once on the test rows by the weights of the epoch that was best on validation. Caps: {train} training rows, \
         {validation} validation rows ({shot_validation} where a share is counted in shots), {test} test rows of a set. NER is scored \
         by entity F1 (micro), classification by accuracy, in points of a hundred. A comparison counts only sets and seeds that \
         every arm of the family has finished.",
        done = rows.len(),
        arms = study.arms.len(),
        ner = count(Family::Ner),
        classify = count(Family::Classify),
        shares = list(study.shares.iter().map(Share::to_string)),
        seeds = study.seeds.len(),
        versions = list(versions.iter().map(|version| (*version).to_owned())),
        train = caps.train_rows,
        validation = caps.validation_rows,
        shot_validation = caps.shot_validation_rows,
        test = caps.test_rows,
    )
}

pub(super) fn differences(findings: &Findings) -> Vec<Block> {
    let mut rows = Vec::new();
    for slice in slices(&findings.study, &findings.rows) {
        for (a, b) in comparisons(&slice.arms) {
            let Some(found) = slice.difference(a, b) else { continue };
            rows.push(vec![
                format!("{a} − {b}"),
                slice.family.to_string(),
                slice.share.to_string(),
                signed(found.mean),
                format!("{} to {}", signed(found.low), signed(found.high)),
                found.sets.to_string(),
                format!("{}–{}", found.wins, found.losses),
            ]);
        }
    }
    let head = ["arms", "family", "share", "difference", "95 % interval", "sets", "won–lost"];
    let note = "Averaged over seeds, then over sets. Intervals by a paired bootstrap over sets and, within them, test rows: both arms \
                and all seeds see the same draw. They do not cover the luck of pre-finetuning itself, which was run once an arm.";
    section("Differences", note, vec![Block::table(&head, rows)])
}

pub(super) fn averages(findings: &Findings) -> Vec<Block> {
    let slices = slices(&findings.study, &findings.rows);
    let mut blocks = Vec::new();
    for family in [Family::Ner, Family::Classify] {
        let of_family: Vec<&Slice<'_>> = slices.iter().filter(|slice| slice.family == family).collect();
        let Some(first) = of_family.first() else { continue };
        let head: Vec<String> = of_family
            .iter()
            .map(|slice| format!("{} ({} sets, {} seeds)", slice.share, slice.sets.len(), slice.seeds()))
            .collect();
        let row = |arm: &str| {
            let cells = of_family.iter().map(|slice| slice.average(arm).map_or_else(missing, spread));
            std::iter::once(arm.to_owned()).chain(cells).collect()
        };
        let rows = first.arms.iter().map(|arm| row(&arm.name)).collect();
        blocks.push(Block::heading(3, family.as_str()));
        blocks.push(Block::Table { head: std::iter::once("arm".to_owned()).chain(head).collect(), rows });
    }
    section("Averages over sets", "± is the standard deviation of that average over seeds.", blocks)
}

pub(super) fn by_set(findings: &Findings) -> Vec<Block> {
    let mut blocks = Vec::new();
    for slice in slices(&findings.study, &findings.rows) {
        let head = std::iter::once("set".to_owned()).chain(slice.arms.iter().map(|arm| arm.name.clone())).collect();
        let row = |set: &&str| {
            let scores = slice.arms.iter().map(|arm| slice.score(set, &arm.name).map_or_else(missing, spread));
            std::iter::once((*set).to_owned()).chain(scores).collect()
        };
        blocks.push(Block::heading(3, &format!("{}, {}", slice.family, slice.share)));
        blocks.push(Block::Table { head, rows: slice.sets.keys().map(row).collect() });
    }
    section("By set", "Mean ± standard deviation over seeds.", blocks)
}

pub(super) fn zero_shot(findings: &Findings) -> Vec<Block> {
    let told = [Family::Ner, Family::Classify].map(|family| (family, told(findings, family)));
    let of_family =
        |(family, told): &(Family, Told<'_>)| [Block::heading(3, family.as_str()), names_table(findings, told)];
    let note = "No example was seen. Entity F1 (precision, recall) with the type names as candidates, by the primary's token scores, \
                which a plain backbone has not; accuracy by label names, by the cosine between the means of the last hidden states \
                of name and text, through the primary where there is one.";
    section("Zero-shot", note, told.iter().filter(|(_, told)| !told.is_empty()).flat_map(of_family).collect())
}

/// A set a line and an arm a column; the last line averages the sets that all these arms have.
fn names_table(findings: &Findings, told: &Told<'_>) -> Block {
    let has = |arm: &&str| told.values().any(|arms| arms.contains_key(arm));
    let arms: Vec<&str> = findings.study.arms.iter().map(|arm| &*arm.name).filter(has).collect();
    let row = |((set, split), of_arms): (&(&str, &str), &BTreeMap<&str, &ZeroShotRow>)| {
        let any = of_arms.values().next();
        let counts = any.map_or_else(Default::default, |row| [row.names.to_string(), row.rows.to_string()]);
        let scores = arms.iter().map(|arm| of_arms.get(arm).map_or_else(missing, |row| with_precision(row)));
        std::iter::once(format!("{set} {split}")).chain(counts).chain(scores).collect()
    };
    let shared: Vec<_> = told.values().filter(|of_arms| arms.iter().all(|arm| of_arms.contains_key(arm))).collect();
    let average = |arm: &&str| {
        let scores: Vec<f64> = shared.iter().filter_map(|of_arms| Some(of_arms.get(arm)?.score)).collect();
        mean_and_spread(&scores).map_or_else(missing, |(mean, _)| points(mean))
    };
    let last = [format!("average of {} sets", shared.len()), String::new(), String::new()];
    let last: Vec<String> = last.into_iter().chain(arms.iter().map(average)).collect();
    let head = ["set", "names", "rows"].into_iter().chain(arms.iter().copied()).map(str::to_owned);
    Block::Table { head: head.collect(), rows: told.iter().map(row).chain([last]).collect() }
}

/// By set and split, then by arm.
type Told<'a> = BTreeMap<(&'a str, &'a str), BTreeMap<&'a str, &'a ZeroShotRow>>;

/// What names alone gave a family's arms that the study still has.
fn told(findings: &Findings, family: Family) -> Told<'_> {
    let mut told = Told::new();
    for row in findings.zero_shot.iter().filter(|row| row.family == family.as_str()) {
        told.entry((&*row.set, &*row.split)).or_default().insert(&*row.arm, row);
    }
    told
}

fn with_precision(row: &ZeroShotRow) -> String {
    match (row.precision, row.recall) {
        (Some(precision), Some(recall)) => {
            format!("{} ({}, {})", points(row.score), points(precision), points(recall))
        }
        _ => points(row.score),
    }
}

pub(super) fn arms(findings: &Findings) -> Vec<Block> {
    let row = |arm: &crate::training::study::spec::Arm| {
        let account = findings.arms.iter().find(|account| account.arm == arm.name);
        let last = account.and_then(|account| account.points.last());
        let loss =
            |of: fn(&super::Point) -> Option<f64>| last.and_then(of).map_or_else(String::new, |x| format!("{x:.3}"));
        let agreement = account.and_then(agreement);
        let means = account.and_then(mean_gradients);
        let mean = |side: usize| {
            means.map_or_else(String::new, |means| means[side].map_or("hidden".to_owned(), |x| format!("{x:.2}")))
        };
        vec![
            arm.name.clone(),
            arm.strategy.as_str().to_owned(),
            own_settings(arm),
            account.filter(|a| a.seconds > 0.0).map_or_else(String::new, |a| format!("{:.0}", a.seconds / 60.0)),
            loss(|point| point.ner_loss),
            loss(|point| point.classify_loss),
            agreement.map_or_else(String::new, |(mean, _)| format!("{mean:.3}")),
            agreement.map_or_else(String::new, |(_, below)| format!("{:.0} %", 100.0 * below)),
            mean(0),
            mean(1),
        ]
    };
    let head = [
        "arm",
        "strategy",
        "its own settings",
        "minutes",
        "NER loss",
        "classify loss",
        "mean cosine",
        "cosines below 0",
        "of means, begin",
        "of means, end",
    ];
    let note = "Losses are the last measured means, in units of chance; cosines are between the two families' gradients on the \
                backbone, over all measured steps and layers. One step's gradients are mostly noise; the last two columns are \
                of mean gradients over many batches at weights held still, corrected for what noise is left, mean over layers.";
    section("Arms", note, vec![Block::table(&head, findings.study.arms.iter().map(row).collect())])
}

/// The numbers behind the plot of mean gradients.
pub(super) fn mean_gradients_by_layer(findings: &Findings) -> Vec<Block> {
    let layer = |side: &MeanGradients, at: usize| {
        let cosine = side.cosine.get(at).copied().flatten().map_or_else(missing, |cosine| format!("{cosine:.2}"));
        let half = |halves: &[f64]| halves.get(at).map_or_else(missing, |half| format!("{half:.2}"));
        format!("{cosine} ({}, {})", half(&side.ner_halves), half(&side.classify_halves))
    };
    let row = |arm: &str, when: &str, side: &MeanGradients| -> Vec<String> {
        let layers = (0..side.cosine.len()).map(|at| layer(side, at));
        [arm, when].map(str::to_owned).into_iter().chain(layers).collect()
    };
    let of_arm = |account: &ArmAccount| {
        let sides = account.conflict.iter().flat_map(|conflict| [("begin", &conflict.begin), ("end", &conflict.end)]);
        sides.map(|(when, side)| row(&account.arm, when, side)).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = findings.arms.iter().flat_map(of_arm).collect();
    let layers = rows.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(2);
    let head = ["arm", "weights"].map(str::to_owned).into_iter().chain((0..layers).map(|at| format!("layer {at}")));
    let note = "Cosine between the families' mean gradients on the backbone (between the two halves of NER's batches, of texts' \
                batches): where halves hardly agree they are noise, and the first number is not known.";
    section("Mean gradients", note, vec![Block::Table { head: head.collect(), rows }])
}

/// What an arm says otherwise than the study, as JSON.
fn own_settings(arm: &crate::training::study::spec::Arm) -> String {
    let json = |is_empty: bool, value: serde_json::Result<String>| (!is_empty).then(|| value.unwrap_or_default());
    let pre_finetune = json(arm.pre_finetune.is_empty(), serde_json::to_string(&arm.pre_finetune));
    let fine_tune = json(arm.fine_tune.is_empty(), serde_json::to_string(&arm.fine_tune));
    list(pre_finetune.into_iter().chain(fine_tune.map(|settings| format!("fine_tune {settings}"))))
}

pub(super) fn data(findings: &Findings) -> Vec<Block> {
    let study = &findings.study;
    let mut by_set: BTreeMap<(&str, &str), BTreeMap<Share, &Row>> = BTreeMap::new();
    for row in &findings.rows {
        by_set.entry((&row.family, &row.set)).or_default().insert(row.share, row);
    }
    let row = |(&(family, set), shares): (&(&str, &str), &BTreeMap<Share, &Row>)| {
        let any = shares.values().next();
        let count = |share| {
            shares.get(share).map_or_else(missing, |row| format!("{} + {}", row.train_rows, row.validation_rows))
        };
        let fixed = [family.to_owned(), any.map_or_else(missing, |row| row.labels.to_string())];
        let counts = study.shares.iter().map(count);
        let test = any.map_or_else(missing, |row| row.test_rows.to_string());
        std::iter::once(set.to_owned()).chain(fixed).chain(counts).chain([test]).collect()
    };
    let shares = study.shares.iter().map(Share::to_string);
    let head = ["set", "family", "labels"].map(str::to_owned).into_iter().chain(shares).chain(["test".to_owned()]);
    let table = Block::Table { head: head.collect(), rows: by_set.iter().map(row).collect() };
    let note = "Rows of the last seed that ran: training + validation at each share, and test. A set without a test split is tested on \
                dev and validated on a tenth of its training rows.";
    section("Data", note, vec![table])
}

pub(super) fn leaks(findings: &Findings) -> Vec<Block> {
    let dropped = |clearance: &crate::training::study::leak::Clearance| clearance.dropped.values().sum::<usize>();
    let row = |clearance: &crate::training::study::leak::Clearance| {
        let owners = clearance.dropped.iter().map(|(set, rows)| format!("{set} {rows}"));
        vec![
            format!("{}/{}", clearance.family, clearance.set),
            clearance.rows.to_string(),
            dropped(clearance).to_string(),
            clearance.kept.to_string(),
            list(owners),
        ]
    };
    let clearances = &findings.clearances;
    let total: usize = clearances.iter().map(dropped).sum();
    let note = format!(
        "Only train splits are read. Rows with a text of any split of an evaluated set (letters and digits in lower case, by hash) were \
         dropped: {total} rows of {} sets; then each set was cut to {} rows.",
        clearances.len(),
        findings.study.pool.rows_max
    );
    let head = ["pool set", "rows", "dropped", "kept", "texts of"];
    section("What pre-finetuning read", &note, vec![Block::table(&head, clearances.iter().map(row).collect())])
}

pub(super) fn settings(findings: &Findings) -> Vec<Block> {
    let Study { fine_tune, pre_finetune, .. } = &findings.study;
    let json = |value: serde_json::Result<String>| Block::Code(value.unwrap_or_default());
    let mut note =
        "Of every fine-tuning, then of every pre-finetuning; what is not here is the program's default.".to_owned();
    if findings.study.arms.iter().any(|arm| arm.strategy != ArmStrategy::None) {
        note += " Cells of a pre-finetuned arm go on from what it left for the family and take rank and layers from it: its head \
                 that knows names, and LoRA, which only task_primary has trained.";
    }
    let blocks = vec![json(serde_json::to_string_pretty(fine_tune)), json(serde_json::to_string_pretty(pre_finetune))];
    section("Settings", &note, blocks)
}

/// Nothing where there is nothing to show.
fn section(title: &str, note: &str, blocks: Vec<Block>) -> Vec<Block> {
    let is_empty = |block: &Block| matches!(block, Block::Table { rows, .. } if rows.is_empty());
    if blocks.iter().all(is_empty) {
        return Vec::new();
    }
    [Block::heading(2, title), Block::paragraph(note)].into_iter().chain(blocks).collect()
}

fn points(score: f64) -> String {
    format!("{:.1}", 100.0 * score)
}

fn signed(difference: f64) -> String {
    format!("{:+.2}", 100.0 * difference)
}

fn spread((mean, spread): (f64, Option<f64>)) -> String {
    let spread = spread.map_or_else(String::new, |spread| format!(" ± {}", points(spread)));
    points(mean) + &spread
}

fn missing() -> String {
    "–".to_owned()
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

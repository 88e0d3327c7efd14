//! `trunkline study run`: pre-finetunes what is missing, tells names, runs the cells that are left, and reports.

use std::path::Path;
use std::time::{Duration, Instant};

use tracing::warn;

use super::arms::Start;
use super::folder::Folder;
use super::{RunArgs, conclusion_beside, read_study, write_report};
use crate::app::commands::print;
use crate::app::progress::Progress;
use crate::app::shutdown::Interrupt;
use crate::app::wiring::ModelArgs;
use crate::domain::{Error, Family, Result};
use crate::training::study::{
    ArmModel, ArmStrategy, Bench, Cell, Cleared, Guard, Outcomes, Parted, Row, Study, ZeroShotRow, cells, cleared_pool,
    seconds_left, unfinished, wanted_split, zero_shot,
};

/// When a run begins nothing new: its time is up, or a signal has come.
pub(super) struct Limit {
    began_at: Instant,
    after: Option<Duration>,
    interrupt: Interrupt,
}

impl Limit {
    fn new(max_seconds: Option<u64>) -> Result<Self> {
        let (began_at, after) = (Instant::now(), max_seconds.map(Duration::from_secs));
        Ok(Self { began_at, after, interrupt: Interrupt::new()? })
    }

    pub(super) fn is_reached(&self) -> bool {
        self.interrupt.is_asked() || self.after.is_some_and(|after| self.began_at.elapsed() >= after)
    }
}

/// What pre-finetuning reads.
#[derive(Default)]
pub(super) struct Pools {
    ner: Vec<Cleared>,
    classify: Vec<Cleared>,
}

impl Pools {
    pub(super) fn of(&self, family: Family) -> &[Cleared] {
        match family {
            Family::Ner => &self.ner,
            Family::Classify => &self.classify,
        }
    }
}

pub(super) fn run(args: &RunArgs) -> Result<()> {
    let limit = Limit::new(args.max_seconds)?;
    let study = read_study(&args.study)?;
    let folder = Folder::create(&args.out)?;
    folder.put_study(&study)?;
    let model_args = one_precision(&args.model);
    let base = model_args.load()?;
    let sets =
        study.downstream.iter().map(|set| Parted::read(&args.data, set, &study.caps)).collect::<Result<Vec<_>>>()?;
    let pools = pools(&study, &args.data, &folder)?;
    let start = Start { study: &study, base: &base, args: &model_args, pools: &pools, folder: &folder };
    let is_finished = match start.ready(&limit)? {
        Some(arms) => grid(&study, &sets, &arms, &folder, (args, base.threads), &limit)?,
        None => false,
    };
    write_report(&folder, &folder.report(), conclusion_beside(&args.study).as_deref())?;
    print(&format!("report      {}\n", folder.report().join("report.md").display()))?;
    if !is_finished {
        print("not finished: stopped before the end; the same command goes on\n")?;
    }
    Ok(())
}

/// All arms compute alike: left to choose, only the default backbone would run in bf16.
fn one_precision(args: &ModelArgs) -> ModelArgs {
    let precision = if args.precision == "auto" { "f32".to_owned() } else { args.precision.clone() };
    ModelArgs { precision, ..args.clone() }
}

/// Cleared of every text that is evaluated, with the counts in the study's folder.
fn pools(study: &Study, data: &Path, folder: &Folder) -> Result<Pools> {
    if study.arms.iter().all(|arm| arm.strategy == ArmStrategy::None) {
        return Ok(Pools::default());
    }
    let guard = Guard::read(study, data)?;
    let (ner, mut clearances) = cleared_pool(study, &guard, Family::Ner, data)?;
    let (classify, of_classify) = cleared_pool(study, &guard, Family::Classify, data)?;
    clearances.extend(of_classify);
    folder.put_clearances(&clearances)?;
    Ok(Pools { ner, classify })
}

/// Everything after pre-finetuning; whether all of it is done.
fn grid(
    study: &Study,
    sets: &[Parted],
    arms: &[ArmModel],
    folder: &Folder,
    (args, threads): (&RunArgs, usize),
    limit: &Limit,
) -> Result<bool> {
    tell_names(study, arms, folder, (&args.data, threads))?;
    let scratch = folder.scratch()?;
    let bench = Bench { study, sets, arms, scratch: &scratch, version: env!("CARGO_PKG_VERSION") };
    let (mut journal, mut rows) = folder.journal()?;
    let all = cells(study);
    check_inputs(&bench, &all, &rows)?;
    let total = all.len();
    let left = unfinished(study, all, &rows);
    let mut progress = Progress::steps("study");
    let mut failed = Vec::new();
    let mut finished = 0;
    bench.run_all(&left, threads, &|| !limit.is_reached(), &mut |cell, result| {
        finished += 1;
        match result {
            Ok(row) => {
                journal.append(&row)?;
                progress.line(&format!("{:<60} {:.4} {:>6.1} s", row.id, row.score, row.seconds));
                rows.push(row);
            }
            Err(error) => {
                warn!(cell = cell.id(study), %error, "cell failed");
                failed.push(error.to_string());
            }
        }
        let ahead = unfinished(study, left.clone(), &rows);
        progress.set(&time_left(study, &ahead, &rows, threads), (total - ahead.len()) as u64, Some(total as u64));
        Ok(())
    })?;
    progress.finish();
    drop(std::fs::remove_dir_all(&scratch)); // what stays costs space alone
    match failed.len() {
        0 => Ok(finished == left.len()),
        count => Err(Error::unprocessable(format!("{count} cells failed")).with_problems(failed)),
    }
}

fn time_left(study: &Study, left: &[Cell], rows: &[Row], threads: usize) -> String {
    let minutes = seconds_left(study, left, rows, threads).map(|seconds| (seconds / 60.0).ceil() as u64);
    minutes.map_or_else(String::new, |minutes| format!("about {minutes} min left"))
}

/// Rows of other settings, data or backbones must not be mixed with new ones.
fn check_inputs(bench: &Bench<'_>, cells: &[Cell], rows: &[Row]) -> Result<()> {
    let mut stale = Vec::new();
    for &cell in cells {
        let (id, inputs) = (cell.id(bench.study), bench.inputs(cell)?.to_string());
        if rows.iter().any(|row| row.id == id && row.inputs != inputs) {
            stale.push(id);
        }
    }
    match stale.first() {
        None => Ok(()),
        Some(first) => Err(Error::conflict(format!(
            "{} finished cells were run by other settings, data or backbones, {first} among them: choose another --out, or \
             remove their rows from rows.jsonl",
            stale.len()
        ))),
    }
}

/// Zero-shot figures that are not there yet.
fn tell_names(study: &Study, arms: &[ArmModel], folder: &Folder, (data, threads): (&Path, usize)) -> Result<()> {
    let mut rows = folder.zero_shot()?;
    for zero in &study.zero_shot {
        let examples = wanted_split(data, zero.family.as_str(), &zero.set, &zero.split)?.examples;
        for (arm, model) in study.arms.iter().zip(arms).filter(|(arm, _)| arm.strategy.serves(zero.family)) {
            let backbone = model.fingerprint.to_string();
            let is_same = |row: &ZeroShotRow| row.arm == arm.name && row.is_of(zero);
            if rows.iter().any(|row| is_same(row) && row.backbone == backbone) {
                continue;
            }
            rows.retain(|row| !is_same(row));
            let Some(told) = zero_shot(model, zero.family, &examples, threads)? else { continue };
            let (precision, recall) = precision_and_recall(&told.outcomes);
            rows.push(ZeroShotRow {
                arm: arm.name.clone(),
                strategy: arm.strategy.as_str().to_owned(),
                family: zero.family.to_string(),
                set: zero.set.clone(),
                split: zero.split.clone(),
                rows: told.outcomes.rows(),
                names: told.names,
                score: told.outcomes.score(0..told.outcomes.rows()),
                precision,
                recall,
                method: told.method.to_owned(),
                backbone,
            });
            folder.put_zero_shot(&rows)?;
        }
    }
    Ok(())
}

/// Of entities.
fn precision_and_recall(outcomes: &Outcomes) -> (Option<f64>, Option<f64>) {
    let Outcomes::Spans(rows) = outcomes else { return (None, None) };
    let sum = |at: usize| rows.iter().map(|row| f64::from(row[at])).sum::<f64>();
    let (found, made_up, missed) = (sum(0), sum(1), sum(2));
    (Some(found / (found + made_up).max(1.0)), Some(found / (found + missed).max(1.0)))
}

//! `trunkline study`: a grid of arms, data sets, shares and seeds, run in the foreground, and its report. Owns the folder a study
//! is kept in; leaves cells, statistics and the report's contents to `training::study`, and pre-finetuning to `arms`.

mod arms;
mod folder;
mod run;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::app::commands::read_file;
use crate::app::wiring::ModelArgs;
use crate::domain::{Error, Result};
use crate::training::study::{Study, report};
use folder::Folder;

#[derive(Debug, Subcommand)]
pub(in crate::app) enum StudyCommand {
    /// Run what is not finished yet, then write the report
    Run(Box<RunArgs>),
    /// Write the report of what is finished
    Report(ReportArgs),
}

#[derive(Debug, Args)]
pub(in crate::app) struct RunArgs {
    /// Arms, pool, downstream sets, shares, seeds and their numbers, in TOML
    #[arg(value_name = "STUDY.toml")]
    study: PathBuf,
    /// Data sets: DIR/ner/NAME/SPLIT.jsonl.gz, likewise classify and pairs
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Backbones, rows and the report; a study that was interrupted goes on there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Begin nothing after this long
    #[arg(long, value_name = "SECONDS")]
    max_seconds: Option<u64>,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Args)]
pub(in crate::app) struct ReportArgs {
    /// The folder of `study run`
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where report.md, report.html, plots and rows go [default: OUT/report]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Markdown to put after the summary
    #[arg(long, value_name = "FILE")]
    conclusion: Option<PathBuf>,
}

pub(in crate::app) fn run(command: StudyCommand) -> Result<()> {
    match command {
        StudyCommand::Run(args) => run::run(&args),
        StudyCommand::Report(args) => {
            let folder = Folder::open(&args.out)?;
            write_report(&folder, &args.to.unwrap_or_else(|| folder.report()), args.conclusion.as_deref())
        }
    }
}

fn write_report(folder: &Folder, to: &Path, conclusion: Option<&Path>) -> Result<()> {
    let mut findings = folder.findings()?;
    if let Some(path) = conclusion {
        let text = String::from_utf8(read_file(path)?);
        findings.conclusion = Some(text.map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?);
    }
    folder.write_report(to, &report(&findings), &findings)
}

fn read_study(path: &Path) -> Result<Study> {
    let text = String::from_utf8_lossy(&read_file(path)?).into_owned();
    let study: Study = toml::from_str(&text).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
    study.check().map_err(|error| error.context(path.display()))?;
    Ok(study)
}

/// What was written by hand about a study lies beside it.
fn conclusion_beside(study: &Path) -> Option<PathBuf> {
    let stem = study.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let names = [format!("{stem}.conclusion.md"), "conclusion.md".to_owned()];
    names.into_iter().map(|name| study.with_file_name(name)).find(|path| path.is_file())
}

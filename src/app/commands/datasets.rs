//! `trunkline datasets`: the doctor, on a file.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::commands::{json, print, read_file};
use crate::domain::{Error, Result};
use crate::serving::DatasetService;
use crate::training::dataset::{self, DatasetFamily, DoctorReport};

#[derive(Debug, Subcommand)]
pub(in crate::app) enum DatasetsCommand {
    /// Examine a file in any format the server takes; exit code 1 if it would be refused
    Check(CheckArgs),
    /// Examine a file and keep it as a split of a dataset
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(in crate::app) struct CheckArgs {
    file: PathBuf,
    /// ner, classify or pairs
    #[arg(long, value_name = "FAMILY", value_parser = family)]
    family: DatasetFamily,
    /// Words past which a row counts as long
    #[arg(long, default_value_t = 128, value_name = "WORDS")]
    max_length: usize,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(in crate::app) struct ImportArgs {
    name: String,
    file: PathBuf,
    /// ner, classify or pairs
    #[arg(long, value_name = "FAMILY", value_parser = family)]
    family: DatasetFamily,
    #[arg(long, default_value = "train")]
    split: String,
    /// The server's state folder
    #[arg(long, default_value = "state", value_name = "DIR")]
    state_dir: PathBuf,
}

pub(in crate::app) fn run(command: DatasetsCommand) -> Result<()> {
    match command {
        DatasetsCommand::Check(args) => check(&args),
        DatasetsCommand::Import(args) => {
            let service = DatasetService::open(args.state_dir.join("datasets"))?;
            let info = service.put(&args.name, args.family, &args.split, &read_file(&args.file)?)?;
            print(&info.report.table())
        }
    }
}

fn check(args: &CheckArgs) -> Result<()> {
    let (report, split) = dataset::read(args.family, &read_file(&args.file)?, &[], args.max_length)?;
    print(&if args.json { json(&report)? } else { DoctorReport::table(&report) })?;
    match split {
        Some(_) => Ok(()),
        None => Err(Error::unprocessable(format!("{}: the errors above refuse this data", args.file.display()))),
    }
}

pub(super) fn family(text: &str) -> Result<DatasetFamily> {
    match text {
        "ner" => Ok(DatasetFamily::Ner),
        "classify" => Ok(DatasetFamily::Classify),
        "pairs" => Ok(DatasetFamily::Pairs),
        _ => Err(Error::invalid(format!("family {text:?} is none of \"ner\", \"classify\", \"pairs\""))),
    }
}

//! `trunkline datasets`: the doctor, on a file. The flags that say how a file is read serve `trunkline train` and `trunkline evaluate`, too.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::app::commands::{json, print, read_file};
use crate::domain::{Cancel, Error, Result};
use crate::serving::{DatasetService, Upload};
use crate::training::dataset::{self, AskedOptions, DatasetFamily, DoctorReport, ReadOptions, Reading};

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
    #[command(flatten)]
    reading: ReadingArgs,
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
    #[command(flatten)]
    reading: ReadingArgs,
}

/// How files of rows are to be read; what is left out is recognised from the file
#[derive(Clone, Debug, Default, Args)]
pub(in crate::app) struct ReadingArgs {
    /// The field or column with the text; of a table also its place, from 1
    #[arg(long, value_name = "NAME|PLACE")]
    text_column: Option<String>,
    /// The field or column with the label (ner: the spans or tags); of a table also its place, from 1
    #[arg(long, value_name = "NAME|PLACE")]
    label_column: Option<String>,
    /// The columns of a CoNLL file, from 1
    #[arg(long, value_name = "word:N,tag:M")]
    columns: Option<String>,
    /// Names of the labels or tags that the file has as 0, 1, 2…
    #[arg(long, value_name = "A,B,…")]
    labels: Option<String>,
    /// true: a row has any number of labels; false: it has one [default: as the file says]
    #[arg(long, value_name = "true|false")]
    multi_label: Option<String>,
    /// Labels to be called otherwise
    #[arg(long, value_name = "OLD:NEW,…")]
    rename: Option<String>,
    /// refuse: a row that cannot be read refuses the file; skip: it is left out and counted, up to half of the rows [default: refuse]
    #[arg(long, value_name = "refuse|skip")]
    on_error: Option<String>,
}

impl ReadingArgs {
    /// The options for data of `family`, if they make sense together.
    pub(in crate::app) fn options(&self, family: DatasetFamily) -> Result<ReadOptions> {
        let Self { text_column, label_column, columns, labels, multi_label, rename, on_error } = self.clone();
        let asked = AskedOptions { text_column, label_column, columns, labels, multi_label, rename, on_error };
        ReadOptions::parse(&asked, family)
    }
}

pub(in crate::app) fn run(command: DatasetsCommand) -> Result<()> {
    match command {
        DatasetsCommand::Check(args) => check(&args),
        DatasetsCommand::Import(args) => {
            let service = DatasetService::open(args.state_dir.join("datasets"))?;
            let (family, split) = (args.family, args.split);
            let upload = Upload { family, split, options: args.reading.options(family)? };
            print(&service.put_as(&args.name, &upload, &read_file(&args.file)?)?.report.table())
        }
    }
}

fn check(args: &CheckArgs) -> Result<()> {
    let options = args.reading.options(args.family)?;
    let reading =
        Reading { family: args.family, split: "train", options: &options, others: &[], max_length: args.max_length };
    let (report, split) = dataset::read_split(reading, &read_file(&args.file)?, &Cancel::default())?;
    print(&if args.json { json(&report)? } else { DoctorReport::table(&report) })?;
    match split {
        Some(_) => Ok(()),
        None => Err(Error::unprocessable(format!("{}: the errors above refuse this data", args.file.display()))),
    }
}

/// What the doctor has to say of a file that is read: its first rows as understood, and the warnings.
pub(super) fn tell(path: &Path, report: &DoctorReport) {
    let rows = report.preview.iter().map(|row| format!("understood {row}"));
    let warnings = report.warnings.iter().map(|warning| format!("warning: {warning}"));
    rows.chain(warnings).for_each(|line| eprintln!("{}: {line}", path.display()));
}

pub(super) fn family(text: &str) -> Result<DatasetFamily> {
    match text {
        "ner" => Ok(DatasetFamily::Ner),
        "classify" => Ok(DatasetFamily::Classify),
        "pairs" => Ok(DatasetFamily::Pairs),
        _ => Err(Error::invalid(format!("family {text:?} is none of \"ner\", \"classify\", \"pairs\""))),
    }
}

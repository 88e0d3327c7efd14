//! `trunkline evaluate`: the evaluation report of an adapter on a dataset.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::adapter::{AdapterBundle, AdapterStore};
use crate::app::commands::datasets::{ReadingArgs, tell};
use crate::app::commands::{json, print, read_file};
use crate::app::wiring::ModelArgs;
use crate::domain::{AdapterRef, Cancel, DataRef, Error, Family, Result};
use crate::serving::DatasetService;
use crate::training::dataset::{self, DatasetFamily, DoctorReport, ReadOptions, Reading, Split};
use crate::training::evaluate_adapter;

#[derive(Debug, Args)]
pub(in crate::app) struct EvaluateArgs {
    /// Adapter: a name, or name@version
    #[arg(long)]
    adapter: AdapterRef,
    /// A dataset of the state folder, or a file
    #[arg(long, value_name = "NAME|FILE")]
    dataset: String,
    #[arg(long, default_value = "test")]
    split: String,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
    /// Adapters, one folder each
    #[arg(long, default_value = "adapters", value_name = "DIR")]
    adapters_dir: PathBuf,
    /// The server's state folder
    #[arg(long, default_value = "state", value_name = "DIR")]
    state_dir: PathBuf,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    model: ModelArgs,
}

pub(in crate::app) fn run(args: EvaluateArgs) -> Result<()> {
    let model = args.model.load()?;
    let store = AdapterStore::open(&args.adapters_dir)?;
    let entry = store.get(&args.adapter.name)?;
    let version = args.adapter.version.or(entry.active).ok_or_else(|| {
        Error::conflict(format!(
            "adapter {:?} has no active version; name one, as in {}@1",
            entry.name.as_str(),
            entry.name
        ))
    })?;
    let bundle = AdapterBundle::read(&store.read(&entry.name, version)?, &model.encoder, &model.fingerprint)?;
    let split = load(&args, bundle.family())?;
    let report = evaluate_adapter(&model.encoder, &model.tokenizer, &bundle, &split, &args.dataset, model.threads)?;
    print(&if args.json { json(&report)? } else { report.table() })
}

fn load(args: &EvaluateArgs, family: Family) -> Result<Split> {
    let path = Path::new(&args.dataset);
    let options = args.reading.options(family.into())?;
    if path.is_file() {
        let (report, split) = split_of_file(path, family.into(), &args.split, &options)?;
        tell(path, &report);
        return Ok(split);
    }
    if options != ReadOptions::default() {
        let name = &args.dataset;
        return Err(Error::invalid(format!("{name} is no file; how it is read was said when it was uploaded")));
    }
    let service = DatasetService::open(args.state_dir.join("datasets"))?;
    let reference = DataRef { dataset: args.dataset.clone(), split: args.split.clone() };
    let (found, split, _digest) = service.read(&reference)?;
    if found != DatasetFamily::from(family) {
        return Err(Error::conflict(format!(
            "dataset {reference} is not of the adapter's family {:?}",
            family.as_str()
        )));
    }
    Ok(split)
}

/// Rows past this many words are counted in the report; nothing else depends on it here.
const LONG_ROW_WORDS: usize = 128;

/// A file in any format and what the doctor says of it; refused with the errors.
pub(super) fn split_of_file(
    path: &Path,
    family: DatasetFamily,
    split: &str,
    options: &ReadOptions,
) -> Result<(DoctorReport, Split)> {
    let reading = Reading { family, split, options, others: &[], max_length: LONG_ROW_WORDS };
    let (report, split) = dataset::read_split(reading, &read_file(path)?, &Cancel::default())?;
    match split {
        Some(split) => Ok((report, split)),
        None => {
            let problems: Vec<String> = report.errors.iter().map(|f| f.message.clone()).collect();
            Err(Error::unprocessable(format!("{}: this data is refused", path.display())).with_problems(problems))
        }
    }
}

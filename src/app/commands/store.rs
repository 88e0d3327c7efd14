//! `trunkline store`: whether what a server keeps on disk can be read, and what to do if not.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::adapter::AdapterStore;
use crate::app::commands::print;
use crate::disk::Damage;
use crate::domain::{Error, Result};
use crate::serving::jobs::Jobs;
use crate::serving::{BackboneJournal, DatasetService};

#[derive(Debug, Subcommand)]
pub(in crate::app) enum StoreCommand {
    /// Read everything in the adapter store and the state folder, and list what is damaged
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(in crate::app) struct CheckArgs {
    /// Adapters, one folder each
    #[arg(long, default_value = "adapters", value_name = "DIR")]
    adapters_dir: PathBuf,
    /// Jobs, datasets, checkpoints
    #[arg(long, default_value = "state", value_name = "DIR")]
    state_dir: PathBuf,
    /// Move what is damaged aside, as NAME.damaged-1, and write anew what follows from the rest; no server may run on these folders
    #[arg(long)]
    repair: bool,
}

pub(in crate::app) fn run(command: StoreCommand) -> Result<()> {
    match command {
        StoreCommand::Check(args) => check(&args),
    }
}

/// Fails if anything is damaged still.
fn check(args: &CheckArgs) -> Result<()> {
    let mut found = Vec::new();
    for (what, look) in PARTS {
        match look(args) {
            Ok(damaged) => found.extend(damaged),
            Err(error) => return Err(error.context(format!("{what} cannot be checked"))),
        }
    }
    found.iter().try_for_each(|damage| print(&line(damage)))?;
    let left = found.iter().filter(|damage| damage.repaired.is_none()).count();
    if left == 0 {
        return print(if found.is_empty() { "nothing is damaged\n" } else { "everything damaged was repaired\n" });
    }
    let advice = if args.repair { "see above why" } else { "--repair moves it aside" };
    Err(Error::unprocessable(format!("damaged: {left} of the files and folders a server reads; {advice}")))
}

type Look = fn(&CheckArgs) -> Result<Vec<Damage>>;

/// What is a file and should be a folder first, since nothing could look into it. Then the job journal: whoever repairs must be alone,
/// and its lock tells.
const PARTS: [(&str, Look); 5] = [
    ("the folders", |args| Ok(misplaced(args))),
    ("the job journal", |args| Ok(Jobs::check(&args.state_dir, args.repair)?.into_iter().collect())),
    ("the adapter store", |args| {
        let folder = &args.adapters_dir;
        if folder.is_dir() { AdapterStore::open(folder)?.check(args.repair) } else { Ok(Vec::new()) }
    }),
    ("the journal of backbones", |args| {
        Ok(BackboneJournal::check(args.state_dir.join("backbones.json"), args.repair).into_iter().collect())
    }),
    ("the datasets", |args| datasets(&args.state_dir.join("datasets"), args.repair)),
];

/// What is a file where a folder is wanted, or the other way round.
fn misplaced(args: &CheckArgs) -> Vec<Damage> {
    let state = |name: &str| args.state_dir.join(name);
    let folders = [args.adapters_dir.clone(), state("datasets"), state("jobs"), state("backbones")];
    let files = [args.adapters_dir.join(".lock"), state("jobs.lock"), state("listen")];
    let no_folder = folders.into_iter().filter(|path| path.exists() && !path.is_dir());
    let no_file = files.into_iter().filter(|path| path.exists() && !path.is_file());
    let damage = |why: &'static str| move |path: PathBuf| Damage::new(&path, why);
    let found = no_folder.map(damage("it is no folder")).chain(no_file.map(damage("it is no regular file")));
    found.map(|damage| if args.repair { damage.set_aside() } else { damage }).collect()
}

fn datasets(root: &Path, repair: bool) -> Result<Vec<Damage>> {
    if root.is_dir() { DatasetService::open(root.to_owned())?.check(true, repair) } else { Ok(Vec::new()) }
}

fn line(damage: &Damage) -> String {
    let repaired = damage.repaired.as_ref().map_or_else(String::new, |repaired| format!("  repaired: {repaired}\n"));
    format!("{}: {}\n{repaired}", damage.path.display(), damage.why)
}

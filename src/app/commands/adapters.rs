//! `trunkline adapters`: the store on disk.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use crate::adapter::{
    AdapterBundle, AdapterCard, AdapterEntry, AdapterFiles, AdapterStore, Carded, MadeFor, Upload, read_archive,
    write_tar,
};
use crate::app::commands::{json, print, read_file};
use crate::app::wiring::ModelArgs;
use crate::domain::{AdapterName, AdapterRef, Error, Family, Result};

#[derive(Debug, Subcommand)]
pub(in crate::app) enum AdaptersCommand {
    /// Names, versions and states
    List(DirArgs),
    /// One adapter's card
    Inspect(RefArgs),
    /// Publish a PEFT folder, .tar or .tar.gz as a new version
    Import(ImportArgs),
    /// Write a version as a PEFT folder, or as .tar if the target ends so
    Export(ExportArgs),
    /// Check every version's digest
    Verify(DirArgs),
}

#[derive(Debug, Args)]
pub(in crate::app) struct DirArgs {
    /// Adapters, one folder each
    #[arg(long, default_value = "adapters", value_name = "DIR")]
    adapters_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::app) struct RefArgs {
    /// A name, or name@version
    adapter: AdapterRef,
    #[command(flatten)]
    dir: DirArgs,
}

#[derive(Debug, Args)]
pub(in crate::app) struct ImportArgs {
    name: AdapterName,
    /// A PEFT folder, .tar or .tar.gz
    source: PathBuf,
    /// In head order; for folders without trunkline.json
    #[arg(long, value_delimiter = ',')]
    labels: Option<Vec<String>>,
    /// ner or classify; for folders whose task_type does not say
    #[arg(long)]
    family: Option<Family>,
    /// Keep the active version
    #[arg(long)]
    stage: bool,
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Args)]
pub(in crate::app) struct ExportArgs {
    /// A name, or name@version
    adapter: AdapterRef,
    /// A folder to make, or a .tar file
    target: PathBuf,
    #[command(flatten)]
    dir: DirArgs,
}

pub(in crate::app) fn run(command: AdaptersCommand) -> Result<()> {
    match command {
        AdaptersCommand::List(args) => list(&AdapterStore::open(&args.adapters_dir)?),
        AdaptersCommand::Inspect(args) => inspect(&args),
        AdaptersCommand::Import(args) => import(args),
        AdaptersCommand::Export(args) => export(&args),
        AdaptersCommand::Verify(args) => verify(&AdapterStore::open(&args.adapters_dir)?),
    }
}

fn list(store: &AdapterStore) -> Result<()> {
    let (entries, unreadable) = store.list()?;
    for entry in &entries {
        let versions: Vec<String> = entry.versions.iter().map(|v| v.version.to_string()).collect();
        let active = entry.active.map_or_else(|| "none".to_owned(), |v| v.to_string());
        print(&format!("{:<28} active {:<5} versions {}\n", entry.name, active, versions.join(" ")))?;
    }
    for (alias, value) in store.aliases()? {
        let targets: Vec<String> = value.targets.iter().map(|t| t.adapter.to_string()).collect();
        print(&format!("{:<28} alias of {}\n", alias, targets.join(" ")))?;
    }
    unreadable.iter().for_each(|name| eprintln!("unreadable: {name}"));
    Ok(())
}

fn version_of(entry: &AdapterEntry, wanted: Option<u32>) -> Result<u32> {
    wanted.or(entry.active).ok_or_else(|| {
        Error::conflict(format!(
            "adapter {:?} has no active version; name one, as in {}@1",
            entry.name.as_str(),
            entry.name
        ))
    })
}

fn open(args: &DirArgs, reference: &AdapterRef) -> Result<(u32, AdapterFiles)> {
    let store = AdapterStore::open(&args.adapters_dir)?;
    let version = version_of(&store.get(&reference.name)?, reference.version)?;
    Ok((version, store.read(&reference.name, version)?))
}

fn inspect(args: &RefArgs) -> Result<()> {
    let (version, files) = open(&args.dir, &args.adapter)?;
    let card = files.card.as_deref().ok_or_else(|| Error::internal("a published version has no trunkline.json"))?;
    AdapterCard::from_json(card)?;
    let card: serde_json::Value =
        serde_json::from_slice(card).map_err(|e| Error::internal(e.to_string()).with_source(e))?;
    print(&json(
        &serde_json::json!({"name": args.adapter.name.as_str(), "version": version, "digest": files.digest().as_str(), "card": card}),
    )?)
}

fn import(args: ImportArgs) -> Result<()> {
    let model = args.model.load()?;
    let upload = if args.source.is_dir() { upload_of(&args.source)? } else { read_archive(&read_file(&args.source)?)? };
    let (max_length, names) = (model.encoder.config().max_length, model.names());
    let made_for = MadeFor { fingerprint: &model.fingerprint, max_length, names: &names };
    let Carded { files, warnings } = upload.with_card(args.labels, args.family, made_for)?;
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    AdapterBundle::read(&files, &model.encoder, &model.fingerprint)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let entry = AdapterStore::open(&args.dir.adapters_dir)?.publish(&args.name, &files, now, !args.stage)?;
    print(&format!("{}@{} {}\n", args.name, entry.version, entry.digest))
}

/// A PEFT folder with what others left beside it.
fn upload_of(path: &Path) -> Result<Upload> {
    let config = path.join("config.json");
    let model_config = config.is_file().then(|| read_file(&config)).transpose()?;
    Ok(Upload { files: files_of(path)?, model_config })
}

/// The adapter files of a PEFT folder.
pub(super) fn files_of(path: &Path) -> Result<AdapterFiles> {
    let read = |name: &str| path.join(name).is_file().then(|| read_file(&path.join(name))).transpose();
    AdapterFiles::from_parts(read).map_err(|error| error.context(path.display()))
}

fn export(args: &ExportArgs) -> Result<()> {
    let (version, files) = open(&args.dir, &args.adapter)?;
    let target = &args.target;
    let at = |e: std::io::Error| Error::from(e).context(target.display());
    if target.extension().is_some_and(|e| e == "tar") {
        std::fs::write(target, write_tar(&files)?).map_err(at)?;
    } else {
        std::fs::create_dir_all(target).map_err(at)?;
        files.entries().try_for_each(|(name, bytes)| std::fs::write(target.join(name), bytes)).map_err(at)?;
    }
    print(&format!("{}@{version} -> {}\n", args.adapter.name, target.display()))
}

fn verify(store: &AdapterStore) -> Result<()> {
    let (entries, unreadable) = store.list()?;
    let mut problems: Vec<String> = unreadable.iter().map(ToString::to_string).collect();
    for entry in &entries {
        for version in &entry.versions {
            match store.read(&entry.name, version.version) {
                Ok(_) => print(&format!("ok {}@{} {}\n", entry.name, version.version, version.digest))?,
                Err(error) => problems.push(error.to_string()),
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::unprocessable("the store has damaged versions").with_problems(problems))
    }
}

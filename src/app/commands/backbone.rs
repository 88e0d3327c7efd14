//! `trunkline backbone`: the cache, without loading a network.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::commands::print;
use crate::app::progress::Progress;
use crate::app::wiring::{DEFAULT_BACKBONE, ModelArgs};
use crate::backbone::{BackboneInfo, pack};
use crate::domain::Result;

#[derive(Debug, Subcommand)]
pub(in crate::app) enum BackboneCommand {
    /// Fetch a backbone into the cache, and verify it
    Fetch(ModelArgs),
    /// What is in the cache
    List(ModelArgs),
    /// Hash everything again
    Verify(ModelArgs),
    /// Keep a pre-finetuned backbone as what differs from the one it began as: a small folder that --backbone takes
    Pack(PackArgs),
}

#[derive(Debug, Args)]
pub(in crate::app) struct PackArgs {
    /// What it began as; it must be at hand wherever the difference is used
    #[arg(long, default_value = DEFAULT_BACKBONE, value_name = "NAME")]
    parent: String,
    /// Made or written over
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

pub(in crate::app) fn run(command: BackboneCommand) -> Result<()> {
    match command {
        BackboneCommand::Fetch(args) => {
            let mut progress = Progress::bytes("fetching the backbone");
            let info =
                args.cache().resolve(name(&args), &mut |source, done, total| progress.set(source, done, total))?;
            progress.finish();
            print(&line(&info))
        }
        BackboneCommand::List(args) => print(&args.cache().list()?.iter().map(line).collect::<String>()),
        BackboneCommand::Pack(args) => {
            let cache = args.model.cache();
            let bytes = pack(&cache.verify(&args.parent)?, &cache.verify(name(&args.model))?, &args.out)?;
            print(&format!("packed      {bytes} bytes in {}\n", args.out.display()))
        }
        BackboneCommand::Verify(args) => print(&format!("verified {}", line(&args.cache().verify(name(&args))?))),
    }
}

fn name(args: &ModelArgs) -> &str {
    args.backbone.as_deref().unwrap_or(DEFAULT_BACKBONE)
}

fn line(info: &BackboneInfo) -> String {
    format!("{}  {}  {} bytes  {}\n", info.name, info.fingerprint, info.bytes, info.folder.display())
}

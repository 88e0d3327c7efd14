//! `trunkline backbone`: the cache, without loading a network.

use clap::Subcommand;

use crate::app::commands::print;
use crate::app::progress::Progress;
use crate::app::wiring::{DEFAULT_BACKBONE, ModelArgs};
use crate::backbone::BackboneInfo;
use crate::domain::Result;

#[derive(Debug, Subcommand)]
pub(in crate::app) enum BackboneCommand {
    /// Fetch a backbone into the cache, and verify it
    Fetch(ModelArgs),
    /// What is in the cache
    List(ModelArgs),
    /// Hash everything again
    Verify(ModelArgs),
}

pub(in crate::app) fn run(command: BackboneCommand) -> Result<()> {
    match command {
        BackboneCommand::Fetch(args) => {
            let mut progress = Progress::bytes("fetching the backbone");
            let info =
                args.cache()?.resolve(name(&args), &mut |source, done, total| progress.set(source, done, total))?;
            progress.finish();
            print(&line(&info))
        }
        BackboneCommand::List(args) => print(&args.cache()?.list()?.iter().map(line).collect::<String>()),
        BackboneCommand::Verify(args) => print(&format!("verified {}", line(&args.cache()?.verify(name(&args))?))),
    }
}

fn name(args: &ModelArgs) -> &str {
    args.backbone.as_deref().unwrap_or(DEFAULT_BACKBONE)
}

fn line(info: &BackboneInfo) -> String {
    format!("{}  {}  {} bytes  {}\n", info.name, info.fingerprint, info.bytes, info.folder.display())
}

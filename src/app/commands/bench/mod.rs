//! `trunkline bench`: sends load to a running server over REST and reports what its callers would see. Open loop (arrivals at a rate,
//! whatever the server does) or closed loop (so many clients, each waiting for its answer). Starts no server, and changes none.
//!
//! Pure: `arrivals`, `popularity`, `texts`, `workload`, `latency`, `tally`, `table`, `plot`. They talk to the world: `client`, `target`,
//! `load`, `machine`.

mod args;
mod arrivals;
mod client;
mod latency;
mod load;
mod machine;
mod plot;
mod popularity;
mod report;
mod table;
mod tally;
mod target;
mod texts;
mod workload;

pub(in crate::app) use args::BenchArgs;

use std::time::Duration;

use tracing::{info, warn};

use crate::app::commands::{json, print};
use crate::app::wiring::block_on_this_thread;
use crate::domain::Result;

use load::{Load, Loader};
use report::Report;
use tally::Stage;
use target::Target;
use workload::Workload;

pub(in crate::app) fn run(args: BenchArgs) -> Result<()> {
    args.check()?;
    block_on_this_thread(measure(&args))
}

async fn measure(args: &BenchArgs) -> Result<()> {
    let texts = args.texts()?;
    let target = Target::open(args).await?;
    let workload = Workload::new(&target.adapters, args.zipf, &texts, args.inputs_per_request(), args.seed);
    let mut report = Report::open(args, &target, texts.len());
    let mut loader = Loader { client: target.client, path: target.path, workload, settings: args.load_settings() };
    for load in loads(args, &mut loader, &mut report).await? {
        report.stages.push(stage(&mut loader, load, args.deadline()).await?);
    }
    publish(args, &report)
}

/// The loads asked for; those in shares of the capacity wait for a closed loop that measures it. It has no deadline: a capacity of
/// timely answers alone would depend on its own number of clients.
async fn loads(args: &BenchArgs, loader: &mut Loader, report: &mut Report) -> Result<Vec<Load>> {
    if args.load.is_empty() {
        return Ok(args.loads());
    }
    let capacity = report.set_capacity(stage(loader, Load::Closed { clients: args.clients() }, None).await?)?;
    Ok(args.load.iter().map(|&share| Load::Open { rate: share * capacity, share: Some(share) }).collect())
}

async fn stage(loader: &mut Loader, load: Load, deadline: Option<Duration>) -> Result<Stage> {
    info!(%load, "load starts");
    let stage = loader.run(load, deadline).await?;
    stage.warnings.iter().for_each(|warning| warn!(%load, "{warning}"));
    Ok(stage)
}

fn publish(args: &BenchArgs, report: &Report) -> Result<()> {
    if let Some(path) = &args.json {
        args::write(path, &json(report)?)?;
    }
    if let Some(path) = &args.svg {
        let title = format!("{}: latency of answers, from due to answered", args.url);
        args::write(path, &plot::svg(&title, &report.stages))?;
    }
    print(&table::text(report))
}

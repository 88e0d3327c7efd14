//! The command line: what can be asked, and which exit code the answer has.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::commands::{
    adapters, backbone, bench, datasets, evaluate, openapi, predict, serve, store, study, train,
};
use crate::app::config;
use crate::app::signals::{Heard, Signals};
use crate::domain::{Error, ErrorKind};
use crate::telemetry::{LogFormat, init_logging};

/// Wrong usage or configuration.
const EXIT_USAGE: u8 = 2;

/// One resident encoder, many LoRA adapters: serves NER and text classification, and trains the adapters it serves.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, arg_required_else_help = true, after_help = config::HELP)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Args)]
pub(super) struct GlobalArgs {
    /// TOML file whose keys are the flags' names
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Log lines for people or for machines: text or json
    #[arg(long, global = true, default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// What to log, as in RUST_LOG: info, or trunkline=debug
    #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
    log: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve REST and gRPC on one port
    Serve(Box<serve::ServeArgs>),
    /// One answer on the terminal, without a server
    Predict(predict::PredictArgs),
    /// Train an adapter in the foreground
    #[command(subcommand)]
    Train(train::TrainCommand),
    /// Compare ways of pre-finetuning on many data sets
    #[command(subcommand)]
    Study(study::StudyCommand),
    /// The evaluation report of an adapter on a dataset
    Evaluate(evaluate::EvaluateArgs),
    /// The adapter store
    #[command(subcommand)]
    Adapters(adapters::AdaptersCommand),
    /// What the server keeps on disk: adapters and state
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// The dataset doctor, on files
    #[command(subcommand)]
    Datasets(datasets::DatasetsCommand),
    /// The backbone cache
    #[command(subcommand)]
    Backbone(backbone::BackboneCommand),
    /// Load a running server and report latencies, goodput and speed
    Bench(Box<bench::BenchArgs>),
    /// Print the OpenAPI document
    Openapi,
}

/// Runs the command line `arguments` and says how it ended: 0 done, 1 failed, 2 wrong usage or configuration. `signals` are heard
/// since the process began.
pub fn run(arguments: impl IntoIterator<Item = OsString>, signals: Option<Signals>) -> ExitCode {
    let cli = match config::parse(arguments.into_iter().collect()) {
        Ok(cli) => cli,
        Err(failure) => return failure.report(),
    };
    let format = if cli.global.log_format == "json" { LogFormat::Json } else { LogFormat::Text };
    init_logging(format, Some(&cli.global.log));
    quiet_panics();
    match dispatch(cli.command, signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn dispatch(command: Command, signals: Option<Signals>) -> Result<(), Error> {
    let heard = signals.map(Signals::hear).transpose()?;
    if !matches!(command, Command::Serve(_)) {
        heard.iter().for_each(Heard::leave_to_default);
    }
    match command {
        Command::Serve(args) => serve::run(*args, &heard.map_or_else(Heard::from_now_on, Ok)?),
        Command::Predict(args) => predict::run(args),
        Command::Train(command) => train::run(command),
        Command::Study(command) => study::run(command),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Adapters(command) => adapters::run(command),
        Command::Store(command) => store::run(command),
        Command::Datasets(command) => datasets::run(command),
        Command::Backbone(command) => backbone::run(command),
        Command::Bench(args) => bench::run(*args),
        Command::Openapi => openapi::run(),
    }
}

/// A panic's message may quote a user's text, so the log gets its place alone.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "panicked");
    }));
}

/// A wrong value is the caller's usage; everything else is a failure.
fn fail(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        tracing::debug!(%cause, "caused by");
        source = cause.source();
    }
    let is_usage = error.kind() == ErrorKind::InvalidRequest;
    ExitCode::from(if is_usage { EXIT_USAGE } else { 1 })
}

//! Configuration and wiring: the command line, parts built bottom-up, signal to drained. Leaves every decision to the layers below.

mod backbones;
mod cli;
mod commands;
mod config;
mod file_limit;
mod pre_finetuning;
mod progress;
mod shutdown;
mod signals;
mod wiring;

pub use cli::run;
pub use signals::Signals;

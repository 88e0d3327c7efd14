//! The `trunkline` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let signals = trunkline::app::Signals::for_server(std::env::args_os());
    trunkline::model::kernels::single_threaded_pools();
    trunkline::model::kernels::keep_large_blocks();
    trunkline::app::run(std::env::args_os(), signals)
}

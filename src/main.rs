//! The `trunkline` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    trunkline::model::kernels::single_threaded_pools();
    trunkline::model::kernels::keep_large_blocks();
    trunkline::app::run(std::env::args_os())
}

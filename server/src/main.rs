//! `muster`: the server and every operator command.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster_server::cli::run(std::env::args_os())
}

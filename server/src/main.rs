//! `muster`: the server and every operator command.

use std::{
    panic::{catch_unwind, set_hook},
    process::ExitCode,
};

use muster_server::{api::error::Problem, cli};
use muster_shared::Code;

fn main() -> ExitCode {
    // A fault of ours is said in the same form as everything else. In the server it ends the task it
    // happened in, not the process.
    set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let why = panic.payload_as_str().unwrap_or("no message");
        let problem = Problem::new(Code::Fault);
        let next = "report it with these lines and what you were doing";
        eprintln!(
            "error[{}] {}\n  where  {place}\n  why    {why}\n  next   {next}",
            problem.code, problem.what
        );
    }));
    catch_unwind(|| cli::run(std::env::args_os())).unwrap_or(ExitCode::from(Code::Fault.entry().exit))
}

//! `hil`: the demo, the checks, and the bench of boards beside real programs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use muster_hil::{
    screen::{Color, Screen},
    verify,
};

#[derive(Debug, Parser)]
#[command(name = "hil", version, about, disable_help_subcommand = true)]
struct Arguments {
    /// Colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
    /// Write ASCII only
    #[arg(long, global = true)]
    ascii: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check everything a change must pass; ends with one line of counts
    Verify {
        /// Only these steps
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(verify::step_names()))]
        steps: Vec<String>,
    },
}

/// Checked, and the answer is no.
const NOT_AS_DESIGNED: u8 = 10;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let screen = Screen::new(arguments.color, arguments.ascii);
    let held = match arguments.command {
        Command::Verify { steps } => verify::verify(screen, &steps),
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_AS_DESIGNED),
        Err(fault) => {
            eprintln!("{} {fault:#}", screen.red("error"));
            ExitCode::FAILURE
        }
    }
}

//! `hil`: the demo, the checks, and the bench of boards beside real programs.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use muster_hil::{
    bench,
    demo::{self, End, Options},
    fleet,
    rig::{Ports, Taken},
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
    /// Show one device's whole life, step by step, then leave a server and a fresh board running
    Demo(Demo),
    /// Check everything a change must pass; ends with one line of counts
    Verify {
        /// Only these steps
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(verify::step_names()))]
        steps: Vec<String>,
    },
    /// Boot the rig a file describes and keep it running until Ctrl-C
    Run {
        /// Such as hil-tests/rigs/two-boards.toml
        rig: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Run the tests that boot boards
    Test {
        /// Only tests whose name contains this
        name: Option<String>,
    },
    /// Measure what things cost, beside their floor and installed peers; builds release programs
    Bench {
        /// Only these rows
        #[arg(value_name = "ROW", value_parser = clap::builder::PossibleValuesParser::new(bench::row_names()))]
        rows: Vec<String>,
        /// One JSON object a row
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Demo {
    /// End by itself; status 0 only if every step went as designed
    #[arg(long)]
    once: bool,
    /// One JSON line a step: {"step","ok","ms","detail"}
    #[arg(long)]
    json: bool,
    /// Wait for Enter before each step
    #[arg(long, conflicts_with = "json")]
    step: bool,
    /// Leave the temporary folder where it is, after the server has ended too
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    place: Place,
}

/// Where it works and listens.
#[derive(Debug, clap::Args)]
struct Place {
    /// Work in this folder and go on with what is there [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Port for devices on loopback; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8883)]
    mqtt_port: u16,
    /// Port for people and programs on loopback; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    https_port: u16,
}

impl Place {
    fn ports(&self) -> Ports {
        Ports { mqtt: self.mqtt_port, https: self.https_port }
    }
}

/// Needed input is absent.
const WRONG_USAGE: u8 = 2;
/// Stopped by Ctrl-C.
const INTERRUPTED: u8 = 130;
/// Refused by a rule: a port that is taken.
const REFUSED: u8 = 3;
/// Checked, and the answer is no.
const NOT_AS_DESIGNED: u8 = 10;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let screen = Screen::new(arguments.color, arguments.ascii);
    let held = match arguments.command {
        Command::Demo(Demo { once, json, step, keep, place }) => {
            let ports = place.ports();
            let options = Options { once, json, stepwise: step, keep, data_dir: place.data_dir, ports };
            if step && !std::io::stdin().is_terminal() {
                eprintln!(
                    "{}: --step waits for Enter, and nobody can press it here\n  next   cargo demo",
                    screen.red("error")
                );
                return ExitCode::from(WRONG_USAGE);
            }
            match demo::demo(screen, &options) {
                Ok(End::Interrupted) => return ExitCode::from(INTERRUPTED),
                other => other.map(|end| end == End::Held),
            }
        }
        Command::Verify { steps } => verify::verify(screen, &steps),
        Command::Run { rig, place } => {
            let ports = place.ports();
            fleet::run(screen, &rig, place.data_dir.as_deref(), ports).map(|()| true)
        }
        Command::Test { name } => verify::board_tests_named(screen, name.as_deref()),
        Command::Bench { rows, json } => bench::bench(&rows, json),
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_AS_DESIGNED),
        Err(fault) => {
            // A port's error is written in full, code and all.
            match fault.downcast_ref::<Taken>() {
                Some(taken) => eprintln!("{}", taken.to_string().replacen("error", &screen.red("error"), 1)),
                None => eprintln!("{}: {fault:#}", screen.red("error")),
            }
            let refused = fault.downcast_ref::<Taken>().is_some();
            ExitCode::from(if refused { REFUSED } else { 1 })
        }
    }
}

//! The operator's commands: parse, ask the server, render.
//!
//! Everything but `init`, `serve`, `restore`, `config`, `explain`, `cert issue` and `audit verify` with `--offline` or
//! `--file` goes through the HTTPS
//! API with the operator's token; nothing here opens the registry behind the server's back. The exit
//! status tells whether the document on standard output is whole; only 9 and 10 speak of what is in it.
//!
//! | module | is |
//! |---|---|
//! | `args`, `complete` | the grammar; what a shell is offered while a line of it is typed |
//! | `client` | HTTPS: one trusted file, one token |
//! | `screen`, `table`, `whole`, `words` | the one writer; listings, and those narrowed here; how a single value is said |
//! | `job`, `events`, `explain`, `doctor`, `interrupt`, `tools` | many at once; what happens; why; how it is; Ctrl-C; the
//! commands themselves |
//! | `device`, `readings`, `watch`, `bulk`, `group`, `batch`, `ca`, `session`, `audit`, `operator`, `token`, `login`, `cert`,
//! `certs`, `verify`, `local` | the nouns |

mod args;
mod audit;
mod backup;
mod batch;
mod bulk;
mod ca;
mod cert;
mod certs;
mod client;
mod commands;
mod complete;
mod device;
mod doctor;
mod events;
mod exchange;
mod explain;
mod group;
mod input;
mod interrupt;
mod job;
mod local;
mod login;
mod operator;
mod readings;
mod screen;
mod session;
mod swap;
mod table;
mod token;
mod tools;
mod twin;
mod verify;
mod watch;
mod whole;
mod words;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, error::ErrorKind};
use muster_shared::Code;

pub use args::{Args, FRONT};
use args::{Ca, Global, Noun};
use client::Client;
use screen::{Manner, Screen};

use crate::{
    api::error::Problem,
    config::{Color, Config, ConfigFault, Output},
};

/// What a command that did its work ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// 0.
    Well,
    /// 9: some of many failed; which ones was said.
    SomeFailed,
    /// 10: checked, and the answer is no.
    AnswerIsNo,
    /// 130: Ctrl-C ended it before the end; what was tried went well.
    Interrupted,
}

impl From<Done> for u8 {
    fn from(done: Done) -> u8 {
        match done {
            Done::Well => 0,
            Done::SomeFailed => 9,
            Done::AnswerIsNo => 10,
            Done::Interrupted => interrupt::STATUS,
        }
    }
}

/// Runs the command line and returns its exit status.
#[must_use]
pub fn run(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line: Vec<OsString> = line.into_iter().collect();
    if complete::answered(&line) {
        return ExitCode::SUCCESS;
    }
    let args = match Args::try_parse_from(&line) {
        Ok(args) => args,
        Err(error) => return usage(&line, &error),
    };
    let Some(noun) = args.noun else {
        print!("{FRONT}");
        return ExitCode::SUCCESS;
    };
    let loaded = load(&args.global);
    let screen = match &loaded {
        Ok(config) => {
            words::local(!config.client.utc);
            Screen::new(manner(&args.global, config))
        }
        Err(_) => Screen::new(plain_manner(args.global.json)),
    };
    let result = dispatch(noun, &args.global, loaded, &screen);
    let wrote = screen.finish();
    let status = match result {
        Ok(done) => done.into(),
        Err(problem) => {
            screen.error(&problem);
            problem.exit()
        }
    };
    match wrote {
        Ok(()) => ExitCode::from(status),
        Err(error) => {
            let problem = Problem::new(Code::Fault)
                .what("the result could not be written")
                .at("standard output")
                .because(error.to_string())
                .next("look at where the output goes");
            screen.error(&problem);
            ExitCode::from(problem.exit())
        }
    }
}

fn dispatch(
    noun: Noun,
    global: &Global,
    loaded: Result<Config, Vec<ConfigFault>>,
    screen: &Screen,
) -> Result<Done, Problem> {
    let noun = match noun {
        Noun::Config(args) => return local::config(args.verb.as_ref(), loaded, screen),
        Noun::Explain { code } => return local::explain(&code, screen),
        Noun::Completions { shell } => return tools::completions(shell, screen),
        Noun::Man { dir } => return tools::man(&dir, screen),
        Noun::Schema { name } => return tools::schema(name.as_deref(), screen),
        Noun::Serve(serve) => return local::serve(&serve, global, screen),
        other => other,
    };
    let config = loaded.map_err(|faults| local::config_problem(&faults))?;
    match noun {
        Noun::Init(init) => local::init(&init, &config, screen),
        Noun::Cert(verb) => cert::run(&verb, &config, screen),
        Noun::Audit(verb) => audit::run(verb, global, &config, screen),
        Noun::Device(verb) => device::run(verb, &Client::new(&config)?, screen),
        Noun::Batch(verb) => batch::run(verb, &Client::new(&config)?, screen),
        Noun::Ca(Ca::Init(init)) => local::init(&init, &config, screen),
        Noun::Ca(verb) => ca::run(verb, &Client::new(&config)?, screen),
        Noun::Session(verb) => session::run(&verb, &Client::new(&config)?, screen),
        Noun::Operator(verb) => operator::run(verb, &config, screen),
        Noun::Token(verb) => token::run(verb, &Client::new(&config)?, screen),
        Noun::Login => login::run(&config, screen),
        Noun::Backup { out } => backup::make(&out, &Client::patient(&config)?, screen),
        Noun::Export { out } => exchange::export(out.as_deref(), &Client::patient(&config)?, screen),
        Noun::Restore(restore) => backup::restore(&restore, &config, screen),
        Noun::Status => session::status(&Client::new(&config)?, screen),
        Noun::Job(verb) => job::run(&verb, &Client::new(&config)?, screen),
        Noun::Events(events) => events::run(&events, &Client::new(&config)?, screen),
        Noun::Doctor => doctor::run(&config, screen),
        Noun::Config(_)
        | Noun::Explain { .. }
        | Noun::Serve(_)
        | Noun::Completions { .. }
        | Noun::Man { .. }
        | Noun::Schema { .. } => Ok(Done::Well),
    }
}

fn load(global: &Global) -> Result<Config, Vec<ConfigFault>> {
    Config::load(&global.given(), &|name| std::env::var(name).ok())
}

fn manner(global: &Global, config: &Config) -> Manner {
    Manner {
        output: config.client.output,
        color: config.client.color,
        ascii: config.client.ascii,
        quiet: global.quiet,
        verbose: global.verbose,
        no_input: global.no_input,
    }
}

/// A refusal as every command writes it to standard error where no terminal reads it: for people, or with
/// `--json`.
#[must_use]
pub fn refusal(problem: &Problem, json: bool) -> String {
    Screen::new(plain_manner(json)).kept().refusal(problem)
}

fn plain_manner(json: bool) -> Manner {
    let output = if json { Output::Json } else { Output::Table };
    Manner { output, color: Color::Auto, ascii: false, quiet: false, verbose: false, no_input: false }
}

/// A command line that does not parse, or asks for help.
fn usage(line: &[OsString], error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that went away is no error.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(Code::UsageWrong.entry().exit)
        }
        _ => {
            let text = error.render().to_string();
            // What clap has to say, without its own frame: the first paragraph, and the tips.
            let said = text.trim_start_matches("error: ").split("\n\nUsage").next().unwrap_or(&text);
            let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let last = line.iter().skip(1).take_while(|word| !word.to_string_lossy().starts_with('-'));
            let nouns: Vec<_> = last.take(2).map(|word| word.to_string_lossy().into_owned()).collect();
            let problem = Problem::new(Code::UsageWrong)
                .what(lines.join(" "))
                .at("command line")
                .next(format!("muster {} --help", nouns.join(" ")).replace("  ", " "));
            let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
            let json = words.iter().any(|word| word == "--json")
                || words.windows(2).any(|pair| {
                    matches!(&*pair[0], "-o" | "--output") && matches!(&*pair[1], "json" | "jsonl")
                });
            Screen::new(plain_manner(json)).error(&problem);
            ExitCode::from(problem.exit())
        }
    }
}

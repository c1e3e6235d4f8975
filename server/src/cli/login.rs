//! `muster login`: keeps a token where every command looks for it.
//!
//! What is read from standard input is a token, or a one-time link, which the server changes for a token of
//! 30 days. It is never an argument: arguments are in the process list and the shell's history.

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _},
    path::Path,
};

use muster_shared::Code;
use serde_json::json;

use super::{
    Done,
    client::{Client, read},
    input,
    screen::Screen,
    token::unwritable,
    words,
};
use crate::{
    api::{
        error::Problem,
        view::{NewToken, Status},
    },
    app::private_file,
    config::Config,
};

/// Longest line read, octets: a link is 100.
const LINE_MAX: u64 = 4096;

pub(super) fn run(config: &Config, screen: &Screen) -> Result<Done, Problem> {
    let path = &config.client.token_file;
    if path.as_os_str() == "-" {
        return Err(Problem::new(Code::UsageWrong)
            .what("a token is kept in a file")
            .at("--token-file -")
            .next("muster login --token-file FILE"));
    }
    let said = secret(screen)?;
    let token = if said.starts_with("muster_") {
        said
    } else {
        // A link lets in by itself; nothing else is shown.
        let made: NewToken =
            read(&Client::with(config, "none")?.post("/v1/login", &json!({ "link": said }))?)?;
        let ends = made.ends_at.as_deref().map_or("no end".to_owned(), words::instant);
        screen.footer(format!("token {} of {}, ends {ends}", made.id, made.operator));
        made.token
    };
    let client = Client::with(config, &token)?;
    // Kept before it is tried: a link is used up by now.
    keep(path, &token)?;
    let document = client.get("/v1/status")?;
    let status: Status = read(&document)?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let whose = status.tenant.as_deref().unwrap_or("every tenant");
    screen.line(format!(
        "signed in to {} as {}, {} of {whose}; the token is in {}",
        client.base(),
        status.operator,
        status.role,
        path.display()
    ));
    Ok(Done::Well)
}

/// A line of standard input; on a terminal it is not shown while it is typed.
fn secret(screen: &Screen) -> Result<String, Problem> {
    input::unattended(screen)?;
    let unreadable = |error: io::Error| {
        Problem::new(Code::NotSignedIn)
            .at("standard input")
            .because(error.to_string())
            .next("muster login < FILE")
    };
    let line = if io::stdin().is_terminal() {
        rpassword::prompt_password("token or one-time link (not shown): ").map_err(unreadable)?
    } else {
        let mut line = String::new();
        io::Read::take(io::stdin().lock(), LINE_MAX).read_line(&mut line).map_err(unreadable)?;
        line
    };
    let line = line.trim();
    if line.is_empty() || !line.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err(Problem::new(Code::UsageWrong)
            .what("standard input holds neither a token nor a link")
            .at("standard input")
            .next("muster login < FILE, or on a terminal: muster login"));
    }
    Ok(line.to_owned())
}

/// Whole or not at all, of mode 0600.
fn keep(path: &Path, token: &str) -> Result<(), Problem> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| unwritable(path, &error))?;
    }
    private_file(path, format!("{token}\n").as_bytes()).map_err(|error| unwritable(path, &error))
}

//! What a shell is offered while a command is typed: serials, batches and filters out of the server, words and codes
//! out of the program itself.
//!
//! The script of `muster completions` asks the program each time, with [`VARIABLE`] set. A shell waits for the
//! answer, so the server has [`LIMIT`] for its part, what it said is used again for [`FRESH`], and when it is away,
//! or nobody is signed in, nothing is offered and nothing is said.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    time::Duration,
};

use clap::CommandFactory as _;
use clap_complete::{engine::CompletionCandidate, env::CompleteEnv};
use muster_shared::Code;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    args::{Args, KEYS},
    client::Client,
    device::encode,
};
use crate::{
    config::{Config, Given},
    registry::{DeviceState, RevocationReason, Role},
};

/// Set to the shell's name, it makes the program answer what is asked by the shell's script.
pub(super) const VARIABLE: &str = "MUSTER_COMPLETE";
/// Longest the server may take.
const LIMIT: Duration = Duration::from_millis(300);
/// How long what it said is used again.
const FRESH: Duration = Duration::from_secs(30);
/// Most that is offered.
const OFFERED: usize = 50;

/// Answers a shell, if it is one that asks.
pub(super) fn answered(line: &[OsString]) -> bool {
    let here = env::current_dir().ok();
    let asked = CompleteEnv::with_factory(Args::command).var(VARIABLE);
    // Whatever is wrong with the question: a shell that is told nothing offers nothing.
    asked.try_complete(line.iter().cloned(), here.as_deref()).unwrap_or(true)
}

fn offered<'a>(begun: &OsStr, words: impl IntoIterator<Item = &'a str>) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy().to_lowercase();
    let fits = words.into_iter().filter(|word| word.to_lowercase().starts_with(&begun));
    fits.take(OFFERED).map(CompletionCandidate::new).collect()
}

/// Serials that begin so.
pub(super) fn serials(begun: &OsStr) -> Vec<CompletionCandidate> {
    let text = begun.to_string_lossy();
    let filter = if text.is_empty() { String::new() } else { format!("&filter={}", encode(&text)) };
    let found = live(&format!("/v1/devices?limit={OFFERED}&sort=serial{filter}"), "serial");
    offered(begun, found.iter().map(String::as_str))
}

/// Batches that begin so.
pub(super) fn batches(begun: &OsStr) -> Vec<CompletionCandidate> {
    offered(begun, live("/v1/batches?limit=1000", "batch").iter().map(String::as_str))
}

/// The words of RFC 5280.
pub(super) fn reasons(begun: &OsStr) -> Vec<CompletionCandidate> {
    offered(begun, RevocationReason::ALL.iter().map(|reason| reason.as_str()))
}

/// Roles.
pub(super) fn roles(begun: &OsStr) -> Vec<CompletionCandidate> {
    offered(begun, Role::ALL.iter().map(|role| role.as_str()))
}

/// Every code, with its words.
pub(super) fn codes(begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy().to_uppercase();
    let fits = Code::ALL.iter().filter(|code| code.id().starts_with(&begun));
    fits.map(|code| CompletionCandidate::new(code.id()).help(Some(code.words().into()))).collect()
}

/// The last part of a filter: its key, then what it may be.
pub(super) fn filters(begun: &OsStr) -> Vec<CompletionCandidate> {
    const PARTS: [&str; 8] =
        ["state:", "batch:", "firmware:", "seen:", "expires:", "refused:", "online:", "tag:"];
    let text = begun.to_string_lossy();
    let (before, part) = text.rfind(char::is_whitespace).map_or(("", &*text), |at| text.split_at(at + 1));
    let found: Vec<String> = match part.split_once(':') {
        Some(("state", value)) => {
            // Several stand with a comma between them.
            let done = value.rfind(',').map_or("", |at| &value[..=at]);
            DeviceState::ALL.iter().map(|state| format!("state:{done}{state}")).collect()
        }
        Some(("batch", _)) => {
            live("/v1/batches?limit=1000", "batch").into_iter().map(|name| format!("batch:{name}")).collect()
        }
        Some(("online", _)) => ["online:yes", "online:no"].map(str::to_owned).into(),
        _ => PARTS.map(str::to_owned).into(),
    };
    let whole: Vec<_> = found.iter().map(|part| format!("{before}{part}")).collect();
    offered(begun, whole.iter().map(String::as_str))
}

/// A field of each line of a listing; nothing where it cannot be had at once.
fn live(path: &str, field: &str) -> Vec<String> {
    ask(path, field).unwrap_or_default()
}

fn ask(path: &str, field: &str) -> Option<Vec<String>> {
    let mut config = Config::load(&given(), &|name| env::var(name).ok()).ok()?;
    // A token on standard input is not there yet.
    if config.client.token_file.as_os_str() == "-" {
        return None;
    }
    config.client.timeout = config.client.timeout.min(LIMIT);
    let client = Client::new(&config).ok()?;
    let (server, dir) = (config.client.server.as_deref().unwrap_or_default(), config.data_dir.display());
    let kept = kept(&format!("{server} {dir} {} {path}", config.client.token_file.display()));
    if let Some(lines) = kept.as_ref().and_then(fresh) {
        return Some(lines);
    }
    let document = client.get(path).ok()?;
    let items = document["items"].as_array()?;
    let lines: Vec<_> = items.iter().filter_map(|of| of[field].as_str().map(str::to_owned)).collect();
    if let Some(path) = &kept {
        // Without it the server is only asked again.
        let _ = keep(path, &lines);
    }
    Some(lines)
}

/// What the line that is typed says of the server. The rest of it is not whole yet, so it is not parsed.
fn given() -> Given {
    let words: Vec<String> = env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let said = |flag: &str| {
        words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(flag) {
            Some("") => words.get(at + 1).cloned(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        })
    };
    let flags = KEYS.iter().filter_map(|(key, flag)| Some((*key, (*flag).to_owned(), said(flag)?)));
    Given {
        flags: flags.collect(),
        file: said("--config").map(PathBuf::from),
        data_dir: said("--data-dir").map(PathBuf::from),
    }
}

/// Where an answer is kept.
fn kept(asked: &str) -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    let name = hex::encode(&Sha256::digest(asked.as_bytes())[..16]);
    base.is_absolute().then(|| base.join("muster").join(name))
}

fn fresh(path: &PathBuf) -> Option<Vec<String>> {
    let age = fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()?;
    let value: Value = serde_json::from_slice(&fs::read(path).ok()?).ok().filter(|_| age < FRESH)?;
    Some(value.as_array()?.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect())
}

/// Names of a fleet are its operator's alone: nobody else reads them.
fn keep(path: &PathBuf, lines: &[String]) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(lines).map_err(std::io::Error::other)?)
}

//! What describes the commands themselves: completions, manual pages, the schemas of documents.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::{Shell, env::Shells};
use muster_shared::Code;

use super::{Args, Done, complete::VARIABLE, screen::Screen};
use crate::api::{error::Problem, openapi::schemas};

/// `muster completions SHELL`: a script for the shell to read. It asks the program what to offer, each time, so it
/// is of no particular version: [`complete`](super::complete).
pub(super) fn completions(shell: Shell, screen: &Screen) -> Result<Done, Problem> {
    let shells = Shells::builtins();
    let mut script = Vec::new();
    let completer = shells.completer(&shell.to_string()).ok_or_else(|| {
        Problem::new(Code::UsageWrong)
            .what(format!("{shell} is not spoken"))
            .next("muster completions --help")
    })?;
    completer.write_registration(VARIABLE, "muster", "muster", "muster", &mut script).map_err(|error| {
        Problem::new(Code::Fault).what("the script cannot be written").because(error.to_string())
    })?;
    screen.raw(String::from_utf8_lossy(&script).trim_end());
    Ok(Done::Well)
}

/// `muster man DIR`: a page for the command and for each of its nouns and verbs.
pub(super) fn man(dir: &Path, screen: &Screen) -> Result<Done, Problem> {
    let failed = |error: std::io::Error| {
        Problem::new(Code::FileUnreadable)
            .what("the manual pages cannot be written")
            .at(dir.display().to_string())
            .because(error.to_string())
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Args::command(), dir).map_err(failed)?;
    let pages = std::fs::read_dir(dir).map_err(failed)?.count();
    screen.footer(format!("{pages} pages in {} · read one: man {}/muster.1", dir.display(), dir.display()));
    Ok(Done::Well)
}

/// `muster schema [NAME]`: the JSON Schema of a document; without a name, which there are.
pub(super) fn schema(name: Option<&str>, screen: &Screen) -> Result<Done, Problem> {
    let schemas = schemas();
    let Some(name) = name else {
        for name in schemas.keys() {
            screen.line(name);
        }
        screen.footer("one of them: muster schema NAME");
        return Ok(Done::Well);
    };
    let bare = name.trim_start_matches("muster.").trim_end_matches("/1");
    let Some(schema) = schemas.get(bare) else {
        return Err(Problem::new(Code::UsageWrong)
            .what(format!("there is no document {name:?}"))
            .at("muster schema")
            .next("muster schema lists them"));
    };
    screen.raw(&serde_json::to_string_pretty(schema).unwrap_or_default());
    Ok(Done::Well)
}

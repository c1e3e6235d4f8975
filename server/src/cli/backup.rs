//! `muster backup` and `muster restore`.

use std::{
    io::{self, Read},
    path::Path,
};

use muster_shared::Code;
use serde_json::json;

use super::{Done, args::Restore, client::Client, screen::Screen};
use crate::{
    api::error::Problem,
    app::Claim,
    backup::{self, BackupError},
    config::Config,
    registry::{Actor, RegistryError},
};

/// What the server sends. Where it is cut it ends, so that it is found not to be whole, not that a file is at
/// fault.
struct Answer<R> {
    from: R,
    /// Why it ended before its end.
    cut: Option<String>,
}

impl<R: Read> Read for Answer<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.from.read(buf) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.cut = Some(error.to_string());
                Ok(0)
            }
            read => read,
        }
    }
}

/// Asks the server for a backup and keeps it when it is whole.
pub(super) fn make(out: &Path, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    if out.exists() {
        return Err(Problem::new(Code::FileUnreadable)
            .what("the file is there already, and nothing is overwritten")
            .at(out.display().to_string())
            .next("give another name with --out"));
    }
    let mut answer = Answer { from: client.stream("/v1/backup")?, cut: None };
    let kept = backup::keep(&mut answer, out);
    let octets = kept.map_err(|error| match error {
        // What arrives cut short was cut by the server, which says why where it says everything.
        BackupError::Archive(why) => Problem::new(Code::BackupDamaged)
            .what("the server did not send a whole backup; nothing was kept")
            .at(client.base().to_owned())
            .because(answer.cut.take().unwrap_or(why))
            .next("look at the server's log, then repeat"),
        other => problem(other, out),
    })?;
    if screen.output.is_json() {
        let document = json!({ "schema": "muster.backup/1", "file": out, "octets": octets });
        screen.raw(&document.to_string());
    } else {
        let mark = screen.glyph("✓", "ok");
        screen.line(format!("{mark} {} · {octets} octets", out.display()));
        screen.footer("not in it: the keys of the authorities, their passphrase, muster.toml");
    }
    Ok(Done::Well)
}

/// Brings a backup back, while no server runs.
pub(super) fn restore(args: &Restore, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    let fault = |error: &dyn std::fmt::Display| Problem::new(Code::Fault).because(error.to_string());
    let dir = &config.data_dir;
    let place = config.registry.place(dir)?;
    // Held until the end: no server may begin on what is half there.
    let _claim = match Claim::take(dir) {
        Ok(Some(claim)) => claim,
        Ok(None) => return Err(Problem::new(Code::DataDirectoryBusy).at(dir.display().to_string())),
        Err(error) => {
            let problem = Problem::new(Code::DataDirectory).at(dir.display().to_string());
            return Err(problem.because(error.to_string()));
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| fault(&error))?;
    let restored = runtime.block_on(backup::restore(&args.file, dir, &place, &Actor::server(), args.force));
    let restored = restored.map_err(|error| problem(error, &args.file))?;
    if screen.output.is_json() {
        let document = json!({
            "schema": "muster.restore/1",
            "rows": restored.rows,
            "audit_no": restored.audit_no,
            "continuity_epoch": restored.epoch,
        });
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let mark = screen.glyph("✓", "ok");
    screen.line(format!(
        "{mark} {} rows into {place}, audit log up to no. {}",
        restored.rows, restored.audit_no
    ));
    screen.line(format!("{mark} continuity tokens are of epoch {} from now on", restored.epoch));
    if !config.keys.bundle.is_dir() {
        screen.warning(format!(
            "the keys of the authorities are not here: bring {} and muster.toml back before muster serve",
            config.keys.bundle.display()
        ));
    }
    screen.footer(format!(
        "next: muster audit verify --offline --data-dir {0}; muster serve --data-dir {0}",
        dir.display()
    ));
    Ok(Done::Well)
}

fn problem(error: BackupError, file: &Path) -> Problem {
    let place = file.display().to_string();
    match error {
        BackupError::Registry(error @ RegistryError::Backup(_)) => Problem::from(error).at(place),
        BackupError::Registry(error) => error.into(),
        BackupError::Occupied(log) => Problem::new(Code::RegistryOccupied)
            .what("there is an uplink log already")
            .at(log.display().to_string()),
        BackupError::Archive(why) => Problem::new(Code::BackupDamaged).at(place).because(why),
        BackupError::Io(error) => Problem::new(Code::FileUnreadable).at(place).because(error.to_string()),
        BackupError::Uplink(error) => Problem::new(Code::Fault).at(place).because(error.to_string()),
    }
}

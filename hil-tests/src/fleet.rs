//! `hil run`: a rig from a file, booted and kept until Ctrl-C.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use muster_server::api::view::Import;
use serde::Deserialize;

use crate::{
    process::{self, ProcessError},
    qemu::BOARD_PATIENCE,
    rig::{Parts, Ports, Rig, batch, serial},
    screen::Screen,
};

/// Most boards a rig may have; each takes about 25 MB of memory.
const BOARDS_MAX: u32 = 100;

/// What a rig file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    /// Boards that are provisioned, imported and connected.
    #[serde(default)]
    boards: u32,
    /// Boards that wait for a station.
    #[serde(default)]
    blank: u32,
}

impl Plan {
    fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let plan: Self = toml::from_str(text)?;
        let all = plan.boards.saturating_add(plan.blank);
        ensure!((1..=BOARDS_MAX).contains(&all), "{all} boards; a rig has 1 to {BOARDS_MAX}");
        Ok(plan)
    }
}

/// Boots the rig and keeps it until Ctrl-C.
///
/// # Errors
/// What is wrong with the file, or what does not boot.
pub fn run(screen: Screen, file: &Path, data_dir: Option<&Path>, ports: Ports) -> Result<()> {
    let plan = Plan::read(file)?;
    process::catch_interrupts()?;
    ports.check()?;
    let parts = Parts::make(&mut |text| eprintln!("{text}"))?;
    let rig = Rig::open(&parts, data_dir)?;
    match keep(screen, &rig, plan, ports) {
        Err(fault) if matches!(fault.downcast_ref(), Some(ProcessError::Interrupted)) => Ok(()),
        other => other,
    }
}

fn keep(screen: Screen, rig: &Rig, plan: Plan, ports: Ports) -> Result<()> {
    rig.ceremony()?;
    rig.init_server()?;
    let mut server = rig.start_server(ports)?;
    screen.line(&format!(
        "server   https://localhost:{}  mqtts://localhost:{}",
        server.https.port(),
        server.mqtt.port()
    ));
    screen.line(&format!("         muster --data-dir {}", rig.data_dir().display()));
    let first = rig.next_number()?;
    let order = batch(first);
    let mut boards = Vec::new();
    for number in first..first + plan.boards + plan.blank {
        let name = serial(number);
        let mut board = rig.blank_board(&name, rig.root_digest()?)?;
        board.power_on()?;
        if number < first + plan.boards {
            let unit = rig.run_unit(&rig.factory()?, &board, &name, &order, server.mqtt)?;
            ensure!(unit.passed(), "{name} failed at the station: {unit:?}");
        } else {
            screen.line(&format!("blank    {}", board.port()));
        }
        boards.push((name, board));
    }
    if plan.boards > 0 {
        let manifest = rig.close_batch(&rig.factory()?, &order)?;
        let manifest = manifest.to_str().context("the rig's folder is not UTF-8")?;
        let import: Import = rig.ask(&["batch", "import", manifest])?;
        ensure!(import.registered == u64::from(plan.boards), "imported: {import:?}");
    }
    for (name, board) in boards.iter_mut().take(plan.boards as usize) {
        board.wait_for(0, "muster mqtt connected", BOARD_PATIENCE)?;
        screen.line(&format!("board    {name}  tail -f {}", board.log_path().display()));
    }
    screen.line("running until Ctrl-C");
    loop {
        process::pause(Duration::from_secs(1))?;
        if server.process().ended() {
            bail!("the server ended by itself:\n{}", server.log_tail());
        }
        if let Some(name) = boards.iter_mut().find_map(|(name, board)| (!board.is_on()).then_some(name)) {
            bail!("{name} ended by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rigs_of_this_repository_can_be_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("rigs");
        let mut read = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            Plan::read(&entry.unwrap().path()).unwrap();
            read += 1;
        }
        assert!(read > 0);
    }

    #[test]
    fn a_rig_file_with_a_mistake_is_refused() {
        for wrong in
            ["", "boards = 0", "boards = 101", "boards = -1", "board = 1", "boards = 4294967295\nblank = 1"]
        {
            assert!(Plan::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Plan::parse("blank = 3").unwrap(), Plan { boards: 0, blank: 3 });
    }
}

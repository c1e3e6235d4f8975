//! The ceremony and the factory station of a rig, through the real factory tool.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{
    Rig, STATION, TENANT, serial,
    server::{expect_success, text},
};
use crate::{
    flash::HARDWARE,
    image,
    process::{self, Said},
    qemu::Board,
};

/// Where a board in QEMU reaches this machine's loopback.
const HOST_SEEN_BY_BOARD: &str = "10.0.2.2";
/// How long one unit may take: QEMU shares the machine with compilers.
const UNIT_PATIENCE: Duration = Duration::from_secs(120);
/// Serials the ceremony gives the station.
const RANGE: (u32, u32) = (1, 999_999);
/// Longest wait before a reconnect, seconds: short, so that nobody needs to wait for it.
const RETRY_S_MAX: u16 = 2;

/// A station: its keys from the ceremony, and what it remembers.
#[derive(Debug, Clone)]
pub struct Factory {
    bundle: PathBuf,
    journal: PathBuf,
    /// Seconds between the telemetry messages of its devices.
    pub telemetry_s: u16,
    /// The kind of board it takes.
    pub hardware: &'static str,
    /// SHA-256 of the image it takes; any unless given.
    pub firmware_digest: Option<String>,
}

/// What the factory tool says of a unit.
#[derive(Debug, Clone, Deserialize)]
pub struct Unit {
    /// `pass`, `already_done` or `fail`.
    pub result: String,
    /// Why it failed: `E13`.
    pub code: Option<String>,
    /// What disagrees, when it failed.
    pub detail: Option<String>,
    /// Who it is now.
    pub serial: Option<String>,
    /// Its name on topics.
    pub device_id: Option<String>,
    /// SHA-256 of its certificate.
    pub certificate_id: Option<String>,
    /// How long it took, milliseconds.
    pub ms: u64,
    /// The steps it went through, in order, with their times in milliseconds.
    #[serde(skip)]
    pub steps: Vec<(String, u64)>,
}

impl Unit {
    /// Is it certified and locked?
    #[must_use]
    pub fn passed(&self) -> bool {
        self.result == "pass" || self.result == "already_done"
    }
}

#[derive(Deserialize)]
struct StepLine {
    step: String,
    ms: u64,
}

impl Rig {
    /// Carries out the key ceremony, if it was not; then puts the root's keys away. Says whether it did.
    ///
    /// # Errors
    /// What the factory tool says.
    pub fn ceremony(&self) -> Result<bool> {
        if self.ceremony_dir().exists() {
            return Ok(false);
        }
        let plan = self.dir().join("plan.toml");
        let (first, last) = (serial(RANGE.0), serial(RANGE.1));
        fs::write(
            &plan,
            format!(
                "owner = \"Muster rig\"\n\n[[station]]\nname = \"{STATION}\"\ntenant = \"{TENANT}\"\n\
                 first_serial = \"{first}\"\nlast_serial = \"{last}\"\n\n[[board]]\nhardware = \"{HARDWARE}\"\n"
            ),
        )?;
        let mut ceremony = self.factory_command();
        ceremony.arg("ceremony").arg(&plan).arg("--out").arg(self.ceremony_dir());
        ceremony.arg("--passphrase-file").arg(self.passphrase_file());
        let said = process::run("muster-factory", &ceremony, UNIT_PATIENCE)?;
        expect_success("muster-factory ceremony", &said)?;
        fs::rename(self.ceremony_dir().join("root"), self.dir().join("root-put-away"))?;
        Ok(true)
    }

    /// SHA-256 of the root's public key, as the ceremony gives it to the flasher.
    ///
    /// # Errors
    /// When there was no ceremony.
    pub fn root_digest(&self) -> Result<[u8; 32]> {
        let path = self.ceremony_dir().join("flasher").join("root-digest.txt");
        let said = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        image::unhex(said.trim()).with_context(|| format!("{} holds no digest", path.display()))
    }

    /// What the ceremony made for the server.
    #[must_use]
    pub fn server_bundle(&self) -> PathBuf {
        self.ceremony_dir().join("server")
    }

    /// The station of this rig, with an order for boards of its image.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn factory(&self) -> Result<Factory> {
        Ok(Factory {
            bundle: self.ceremony_dir().join("stations").join(STATION),
            journal: self.dir().join("station").join("journal"),
            telemetry_s: 2,
            hardware: HARDWARE,
            firmware_digest: Some(image::digest(self.image())?),
        })
    }

    /// Somebody's copy of the station's keys, without what the station remembers.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn stolen_factory(&self, name: &str) -> Result<Factory> {
        Ok(Factory { journal: self.dir().join("station").join(name), ..self.factory()? })
    }

    /// The command that takes the unit at a port through all its steps. `server` is where the unit will
    /// connect, as the unit sees it.
    ///
    /// # Errors
    /// When the station's folder cannot be made.
    pub fn run_command(
        &self,
        factory: &Factory,
        port: &str,
        serial: &str,
        batch: &str,
        server: (&str, u16),
    ) -> Result<Command> {
        if let Some(dir) = factory.journal.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut run = self.factory_command();
        run.arg("run").arg("--station").arg(&factory.bundle).arg("--journal").arg(&factory.journal);
        run.arg("--passphrase-file").arg(self.passphrase_file());
        run.args(["--port", port, "--batch", batch, "--product", "demo-1", "--serial", serial]);
        run.args(["--endpoint", &format!("{}:{}", server.0, server.1)]);
        run.args(["--server-name", "localhost", "--keep-alive-s", "30"]);
        run.args(["--telemetry-s", &factory.telemetry_s.to_string()]);
        run.args(["--retry-s-max", &RETRY_S_MAX.to_string(), "--hardware", factory.hardware]);
        if let Some(digest) = &factory.firmware_digest {
            run.args(["--firmware-digest", digest]);
        }
        Ok(run)
    }

    /// Takes one unit through all its steps; a unit that fails is no error.
    ///
    /// # Errors
    /// What the factory tool says when it, and not the unit, is at fault.
    pub fn run_unit(
        &self,
        factory: &Factory,
        board: &Board,
        serial: &str,
        batch: &str,
        server: SocketAddr,
    ) -> Result<Unit> {
        let server = (HOST_SEEN_BY_BOARD, server.port());
        let run = self.run_command(factory, &board.port(), serial, batch, server)?;
        unit_of(&process::run("muster-factory", &run, UNIT_PATIENCE)?)
    }

    /// Ends a batch: its signed manifest.
    ///
    /// # Errors
    /// What the factory tool says.
    pub fn close_batch(&self, factory: &Factory, batch: &str) -> Result<PathBuf> {
        let manifest = self.dir().join("station").join(format!("{batch}.muster"));
        let mut close = self.factory_command();
        close
            .args(["batch", "close", "--station"])
            .arg(&factory.bundle)
            .arg("--journal")
            .arg(&factory.journal);
        close.arg("--passphrase-file").arg(self.passphrase_file()).args(["--batch", batch]);
        close.args(["--out", &text(manifest.clone())?]);
        let said = process::run("muster-factory", &close, UNIT_PATIENCE)?;
        expect_success("muster-factory batch close", &said)?;
        Ok(manifest)
    }

    fn ceremony_dir(&self) -> PathBuf {
        self.dir().join("ceremony")
    }

    fn factory_command(&self) -> Command {
        let mut command = Command::new(&self.programs().factory);
        command.arg("--json").env_remove("MUSTER_FACTORY_PASSPHRASE");
        command
    }
}

impl Factory {
    /// What the station remembers.
    #[must_use]
    pub fn journal(&self) -> &Path {
        &self.journal
    }
}

/// Reads the lines of `muster-factory --json run`.
///
/// # Errors
/// What it says when there is no result in them.
pub fn unit_of(said: &Said) -> Result<Unit> {
    let mut steps = Vec::new();
    for line in said.out.lines() {
        if let Ok(StepLine { step, ms }) = serde_json::from_str::<StepLine>(line)
            && line.contains("muster.factory.step/1")
        {
            steps.push((step, ms));
        } else if line.contains("muster.factory.unit/1") {
            let unit: Unit = serde_json::from_str(line).with_context(|| line.to_owned())?;
            ensure!(unit.passed() == said.status.success(), "its result and its status disagree: {line}");
            return Ok(Unit { steps, ..unit });
        }
    }
    bail!("muster-factory ended with {}:\n{}{}", said.status, said.out, said.err)
}

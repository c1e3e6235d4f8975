//! The life: its fifteen steps, in order.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use muster_server::{
    api::view::{AuditVerdict, CommandResult, Decision, DeviceDetail, Import, Page, Reading, Session},
    uplink::{Cursor, Reader, StoredMessage},
};
use muster_shared::Code;

use super::{Show, Told};
use crate::{
    process,
    qemu::{BOARD_PATIENCE, Board},
    rig::{OPERATOR, Ports, Rig, Server, TENANT, Unit, batch, serial},
    screen::seconds,
};

/// How long the server may take until a question is answered as it must be.
const PATIENCE: Duration = Duration::from_secs(30);

/// One device, from blank to revoked.
pub(super) struct Life<'a> {
    rig: &'a Rig,
    ports: Ports,
    server: Option<Server>,
    board: Option<Board>,
    /// Up to here the board's log has been looked at.
    read: usize,
    number: u32,
    serial: String,
    batch: String,
}

/// A step: its name, what it does, and whether the later ones need it.
type Step<'a> = (&'static str, &'static str, fn(&mut Life<'a>) -> Result<Told>);

impl<'a> Life<'a> {
    pub(super) fn new(rig: &'a Rig, ports: Ports) -> Result<Self> {
        let number = rig.next_number()?;
        let (serial, batch) = (serial(number), batch(number));
        Ok(Self { rig, ports, server: None, board: None, read: 0, number, serial, batch })
    }

    /// Tells all steps; after one that is not as designed, the rest would tell nothing.
    pub(super) fn tell(&mut self, show: &mut Show) -> Result<()> {
        let steps: [Step<'a>; 15] = [
            ("authority", "root and issuers are made; root key put away", Self::authority),
            ("server", "listens, for devices and for people", Self::serve),
            ("power on", "new board in QEMU, Cortex-M4, no identity", Self::power_on),
            ("factory", "key is made ON the device; only the public half leaves", Self::factory),
            ("too early", "device connects before the server knows it", Self::too_early),
            ("ship", "batch closed, manifest signed, imported", Self::ship),
            ("first use", "device connects: mutual TLS 1.3, own certificate, MQTT 5", Self::first_use),
            ("telemetry", "committed to disk, and only then acknowledged", Self::telemetry),
            ("impostor", "same serial, another key, signed by a stolen station", Self::impostor),
            ("snoop", "device publishes on another device's topic", Self::snoop),
            ("suspend", "its open session is closed", Self::suspend),
            ("resume", "operator decides; device is back", Self::resume),
            ("revoke", "for ever", Self::revoke),
            ("too late", "power off, power on, connect again", Self::too_late),
            ("audit", "every decision is in a hash chain", Self::audit),
        ];
        for (name, doing, act) in steps {
            if !show.step(name, doing, || act(self))? {
                break;
            }
        }
        Ok(())
    }

    fn authority(&mut self) -> Result<Told> {
        let made = self.rig.ceremony()?;
        let digest = self.rig.root_digest()?;
        let shown: String = digest[..4].iter().map(|octet| format!("{octet:02x}")).collect();
        Ok(Told::done(if made {
            format!("root {shown}… and issuers made; root key put away")
        } else {
            format!("root {shown}… and issuers are there from before")
        }))
    }

    fn serve(&mut self) -> Result<Told> {
        self.rig.init_server()?;
        let server = self.rig.start_server(self.ports)?;
        let told = Told::done(format!(
            "https://localhost:{}  mqtts://localhost:{}",
            server.https.port(),
            server.mqtt.port()
        ));
        let told = told.took(server.took);
        let link = self.rig.sign_in_link(&server)?;
        self.server = Some(server);
        // The server's own authority is new with this folder: no browser knows it.
        Ok(told
            .in_private(format!("watch along: {link}"))
            .in_private("the browser warns of its certificate: it is of this folder's own authority"))
    }

    fn power_on(&mut self) -> Result<Told> {
        let mut board = self.rig.blank_board(&self.serial, self.rig.root_digest()?)?;
        let at = board.power_on()?;
        let (line, read) = board.wait_for(0, "no identity", BOARD_PATIENCE)?;
        self.read = read;
        self.board = Some(board);
        let took = line.at.saturating_duration_since(at);
        Ok(Told::done("new board in QEMU, Cortex-M4, no identity").took(took).device(&line.text))
    }

    fn factory(&mut self) -> Result<Told> {
        let server = self.server()?.mqtt;
        let (serial, batch) = (self.serial.clone(), self.batch.clone());
        let factory = self.rig.factory()?;
        let unit = self.rig.run_unit(&factory, self.board()?, &serial, &batch, server)?;
        passed(&unit)?;
        ensure!(unit.serial.as_deref() == Some(serial.as_str()), "the unit became {:?}", unit.serial);
        let (made, read) = self.heard("muster factory key made")?;
        self.read = read;
        let certificate = unit.certificate_id.unwrap_or_default();
        let steps: Vec<String> = unit
            .steps
            .iter()
            .map(|(step, ms)| format!("{step} {}", seconds(Duration::from_millis(*ms))))
            .collect();
        Ok(Told::done("key is made ON the device; only the public half leaves")
            .took(Duration::from_millis(unit.ms))
            .device(&made)
            .and(steps.join(" · "))
            .and(format!(
                "═════  ✓ PASS   {serial}   certificate {}…  ═════",
                &certificate[..8.min(certificate.len())]
            )))
    }

    fn too_early(&mut self) -> Result<Told> {
        let (line, read) = self.heard(" M202 ")?;
        self.read = read;
        let shown = self.rig.muster(&["--json", "device", "show", &self.serial])?;
        ensure!(
            shown.err.contains(Code::DeviceUnknown.id()),
            "the server knows the device already: {}",
            shown.out
        );
        Ok(Told::refused("device connects before the server knows it").device(&line))
    }

    fn ship(&mut self) -> Result<Told> {
        let manifest = self.rig.close_batch(&self.rig.factory()?, &self.batch)?;
        let import: Import = self.rig.ask(&["batch", "import", path(&manifest)?])?;
        ensure!(import.registered == 1 && import.refused.is_empty(), "imported: {import:?}");
        let detail = self.until("it is registered", |detail| detail.device.state == "registered")?;
        Ok(Told::done(format!("batch {} closed, manifest signed, imported", self.batch))
            .and(format!("state: manufactured → {}", detail.device.state)))
    }

    fn first_use(&mut self) -> Result<Told> {
        let (line, read) = self.heard("muster mqtt connected")?;
        self.read = read;
        let detail = self.until("it is active", |detail| detail.device.state == "active")?;
        let session = self.session()?.context("the server lists no session of it")?;
        ensure!(session.mqtt == "5.0", "its session speaks MQTT {}", session.mqtt);
        ensure!(
            session.certificate_id == detail.device.certificate_id,
            "its session has another certificate"
        );
        Ok(Told::done("device connects: mutual TLS 1.3, own certificate, MQTT 5")
            .device(&line)
            .and(format!("state: registered → {}", detail.device.state)))
    }

    fn telemetry(&mut self) -> Result<Told> {
        let (line, read) = self.heard("muster telemetry ")?;
        self.read = read;
        let seq = line.strip_prefix("muster telemetry ").and_then(|rest| rest.strip_suffix(" acked"));
        let seq: u64 =
            seq.and_then(|seq| seq.parse().ok()).with_context(|| format!("the board says {line:?}"))?;
        // Nothing that is still on its way to the disk survives this.
        let server = self.server.take().context("there is no server")?;
        let ports = Ports { mqtt: server.mqtt.port(), https: server.https.port() };
        server.kill();
        let position = position_of(&self.rig.data_dir(), &self.serial, seq)?;
        let server = self.rig.start_server(ports)?;
        let took = server.took;
        self.server = Some(server);
        let (back, read) = self.heard("muster mqtt connected")?;
        self.read = read;
        let is_temperature = |reading: &&Reading| reading.sensor == "temperature_c";
        let detail = self
            .until("its readings are there", |detail| detail.readings.iter().any(|r| is_temperature(&r)))?;
        let reading = detail.readings.iter().find(is_temperature).context("no temperature")?;
        Ok(Told::done("committed to disk, and only then acknowledged")
            .device(&line)
            .and(format!("server killed at this line: message {seq} is in its log, position {position}"))
            .and(format!("server back in {}: {} °C", seconds(took), reading.value))
            .device(&back))
    }

    fn impostor(&mut self) -> Result<Told> {
        let before = self.session()?.context("the real device has no session")?;
        let name = format!("impostor-{}", self.number);
        let stolen = self.rig.stolen_factory(&name)?;
        let mut board = self.rig.blank_board(&name, self.rig.root_digest()?)?;
        board.power_on()?;
        let server = self.server()?.mqtt;
        passed(&self.rig.run_unit(&stolen, &board, &self.serial, "B-STOLEN", server)?)?;
        let (line, _) = board.wait_for(0, " M204 ", BOARD_PATIENCE)?;
        drop(board);
        let after = self.session()?.context("the real device lost its session")?;
        ensure!(before.number == after.number, "the impostor cost the real device its session");
        Ok(Told::refused("same serial, another key, signed by a stolen station").device(&line.text))
    }

    fn snoop(&mut self) -> Result<Told> {
        let topic = format!("{TENANT}/{}/app/door", serial(999_999));
        let command = format!("publish {topic}");
        let result: CommandResult = self.rig.ask(&["device", "command", &self.serial, &command])?;
        ensure!(result.delivered, "the command did not reach the device: {result:?}");
        let (line, read) = self.heard("muster acl M210 ")?;
        self.read = read;
        ensure!(line.contains(&topic), "the board says {line:?}");
        ensure!(self.session()?.is_some(), "a refused topic cost the device its session");
        Ok(Told::refused("device publishes on another device's topic").device(&line))
    }

    fn suspend(&mut self) -> Result<Told> {
        let decision: Decision =
            self.rig.ask(&["device", "suspend", &self.serial, "--reason", "returned for repair"])?;
        let closed = closed_within(&decision, "suspended")?;
        // Once as the session ends, once more as it tries again.
        let (first, read) = self.heard(" M201 ")?;
        self.read = read;
        let (second, read) = self.heard(" M201 ")?;
        self.read = read;
        ensure!(self.session()?.is_none(), "a suspended device has a session");
        Ok(Told::refused(format!("open session closed {closed} ms after the commit; reconnect"))
            .device(&first)
            .device(&second))
    }

    fn resume(&mut self) -> Result<Told> {
        let decision: Decision = self.rig.ask(&["device", "resume", &self.serial, "--reason", "repaired"])?;
        ensure!(decision.to == "active", "resumed to {}", decision.to);
        let (line, read) = self.heard("muster mqtt connected")?;
        self.read = read;
        Ok(Told::done("operator decides; device is active again").device(&line))
    }

    fn revoke(&mut self) -> Result<Told> {
        let decision: Decision = self.rig.ask(&[
            "device",
            "revoke",
            &self.serial,
            "--reason-code",
            "keyCompromise",
            "--reason",
            "its housing was opened",
            "--confirm",
            &self.serial,
        ])?;
        let closed = closed_within(&decision, "revoked")?;
        let (line, read) = self.heard(" M302 ")?;
        self.read = read;
        let again =
            self.rig.muster(&["--json", "device", "resume", &self.serial, "--reason", "a mistake"])?;
        ensure!(
            again.err.contains(Code::TransitionNotAllowed.id()),
            "a revoked device was resumed: {}",
            again.out
        );
        Ok(Told::done(format!("for ever: session closed {closed} ms after the commit")).device(&line))
    }

    fn too_late(&mut self) -> Result<Told> {
        let board = self.board()?;
        board.power_cut();
        board.power_on()?;
        let (line, read) = board.wait_for(0, " M302 ", BOARD_PATIENCE)?;
        self.read = read;
        ensure!(line.text.contains("stop until power-on"), "the board says {:?}", line.text);
        Ok(Told::refused("power off, power on, connect again").device(&line.text))
    }

    fn audit(&mut self) -> Result<Told> {
        let verdict: AuditVerdict = self.rig.ask(&["audit", "verify"])?;
        ensure!(verdict.intact, "broken at {:?}: {:?}", verdict.broken_no, verdict.broken_why);
        Ok(Told::done(format!("{} records, hash chain intact, 0 gaps", verdict.rows)))
    }

    /// Makes another device and says what can be done with it.
    pub(super) fn welcome_another(&mut self, show: &mut Show) -> Result<()> {
        self.number += 1;
        (self.serial, self.batch) = (serial(self.number), batch(self.number));
        show.say("");
        show.step("fresh board", "another device, to try things on", || {
            self.power_on()?;
            self.factory()?;
            self.ship()?;
            self.first_use()?;
            Ok(Told::done(format!("{} is provisioned, imported and connected", self.serial)))
        })?;
        let data = self.rig.data_dir();
        let log = self.board()?.log_path().to_owned();
        let server = self.server()?;
        let muster = format!("{} --data-dir {}", self.rig.programs().muster.display(), data.display());
        show.say(&format!(
            "\nrunning until Ctrl-C\n\
             \x20 devices    mqtts://localhost:{}\n\
             \x20 people     https://localhost:{}\n\
             \x20 sign in    {muster} operator invite {OPERATOR}\n\
             \x20 token      {}\n\
             \x20 next       {muster} device show {}\n\
             \x20            {muster} device suspend {} --reason \"…\"\n\
             \x20 its log    tail -f {}",
            server.mqtt.port(),
            server.https.port(),
            self.rig.token_file().display(),
            self.serial,
            self.serial,
            log.display(),
        ));
        Ok(())
    }

    /// Do the server and the board still run?
    pub(super) fn is_well(&mut self) -> bool {
        let board = self.board.as_mut().is_some_and(Board::is_on);
        board && self.server.as_mut().is_some_and(|server| !server.process().ended())
    }

    /// The end of both logs.
    pub(super) fn last_words(&self) -> String {
        let server = self.server.as_ref().map(Server::log_tail).unwrap_or_default();
        let board = self.board.as_ref().map(|board| board.lines_since(0).join("\n")).unwrap_or_default();
        format!("{server}\n{board}")
    }

    /// Stops the board, then the server in order.
    pub(super) fn end(&mut self) -> Result<()> {
        self.board = None;
        match self.server.take() {
            Some(server) => server.stop().map(|_| ()),
            None => Ok(()),
        }
    }

    fn board(&mut self) -> Result<&mut Board> {
        self.board.as_mut().context("there is no board")
    }

    fn server(&self) -> Result<&Server> {
        self.server.as_ref().context("there is no server")
    }

    /// Waits for a line of the board's log that was not looked at yet.
    fn heard(&mut self, wanted: &str) -> Result<(String, usize)> {
        let from = self.read;
        let (line, read) = self.board()?.wait_for(from, wanted, BOARD_PATIENCE)?;
        Ok((line.text, read))
    }

    /// Asks for the device until the answer is as it must be.
    fn until(&self, wanted: &str, holds: impl Fn(&DeviceDetail) -> bool) -> Result<DeviceDetail> {
        let until = Instant::now() + PATIENCE;
        loop {
            let detail: DeviceDetail = self.rig.ask(&["device", "show", &self.serial])?;
            if holds(&detail) {
                return Ok(detail);
            }
            if Instant::now() > until {
                bail!("not within {} s: {wanted}; the server says {:?}", PATIENCE.as_secs(), detail.device);
            }
            process::pause(Duration::from_millis(50))?;
        }
    }

    /// The device's live session.
    fn session(&self) -> Result<Option<Session>> {
        let page: Page<Session> = self.rig.ask(&["session", "list"])?;
        Ok(page.items.into_iter().find(|session| session.serial.as_deref() == Some(&*self.serial)))
    }
}

/// Where a device's telemetry message stands in the uplink log of a server that does not run.
fn position_of(data: &Path, device: &str, seq: u64) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let log = Reader::open(data).await?;
        let mut cursor = Cursor::default();
        loop {
            let read = log.read(&cursor, 1000).await?;
            let it = |message: &StoredMessage| {
                message.device().is_some_and(|(_, id)| id.as_str() == device)
                    && message.name.is_some_and(|(_, number)| number == seq)
            };
            if let Some((position, _)) = read.messages.iter().find(|(_, message)| it(message)) {
                log.close().await;
                return Ok(position.0);
            }
            ensure!(!read.messages.is_empty(), "message {seq} was acknowledged and is not in the log");
            cursor = read.next;
        }
    })
}

fn passed(unit: &Unit) -> Result<()> {
    if unit.passed() {
        return Ok(());
    }
    bail!(
        "the unit failed: {} {}",
        unit.code.as_deref().unwrap_or("without a code"),
        unit.detail.as_deref().unwrap_or("")
    )
}

/// The time from the commit to the closed socket, when the decision ended the one live session.
fn closed_within(decision: &Decision, state: &str) -> Result<u64> {
    ensure!(decision.to == state, "the device is {}", decision.to);
    ensure!(decision.ended.enforced && decision.ended.sessions_closed == 1, "not enforced: {decision:?}");
    decision.ended.commit_to_closed_ms.context("no time from commit to closed socket")
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

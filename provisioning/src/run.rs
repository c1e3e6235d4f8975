//! One unit at a time: the controller, the journal, the authority and a port, brought together.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use muster_pki::{
    Authority, CertificateSerial, Request, VerifiedCsr, authority::IssueError, bundle::StationBundle,
};
use muster_shared::{BatchId, Code, DeviceId, SerialNumber, factory::Subject};

use crate::{
    fault::Fault,
    journal::{Journal, JournalError, Record},
    port::{Port, PortName},
    screen::{Result as Shown, Screen},
    station::{Command, Failure, Keep, Known, Material, Outcome, Patience, Step, Unit},
};

/// How long to wait before a lost line is opened again.
const REOPEN: Duration = Duration::from_millis(250);

/// Which unit, for which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The order.
    pub batch: BatchId,
    /// What the unit is.
    pub product: String,
    /// The serial on its label; the next free one of the range unless given.
    pub serial: Option<SerialNumber>,
    /// Its name in topics; the serial (with `.` as `-`) unless given.
    pub device_id: Option<DeviceId>,
}

/// A station at work.
pub struct Shift<'a> {
    /// What the ceremony gave it.
    pub bundle: &'a StationBundle,
    /// What it remembers.
    pub journal: &'a mut Journal,
    /// What its units are given.
    pub material: Material,
    /// How long it waits.
    pub patience: Patience,
    /// Where it says what happens.
    pub screen: Screen,
}

impl Shift<'_> {
    /// Takes one unit through all its steps. The outcome has been shown and recorded when this returns.
    ///
    /// # Errors
    /// A [`Fault`] where the station, not the unit, is at fault: no port, no journal, a closed batch.
    pub fn unit(&mut self, job: &Job, port: &PortName, out: &mut impl Write) -> Result<Outcome, Fault> {
        if closed(self.journal, &job.batch) {
            return Err(Fault::new(Code::StationOrderFull, format!("batch {} is closed", job.batch)));
        }
        clock(self.bundle, self.journal, now_ms())?;
        let mut line = Line::open(port)?;
        let mut nonce = [0; 32];
        let mut number = [0; 2];
        let drawn = draw(&mut nonce).and_then(|()| draw(&mut number));
        drawn.map_err(|error| Fault::new(Code::Fault, error))?;
        let mut unit = Unit::new(self.material.clone(), self.patience, u16::from_be_bytes(number), nonce);
        let began = Instant::now();
        let mut watch = Watch { step: None };
        let outcome = loop {
            let now_ms = elapsed(began);
            match unit.poll(now_ms) {
                Command::Send(octets) => line.write(&octets),
                Command::Wait(until_ms) => line.read(until_ms.saturating_sub(now_ms), &mut unit),
                Command::Begin(step) => watch.begin(&self.screen, out, step, now_ms)?,
                Command::Assign(asked) => match assign(self.bundle, self.journal, job, asked) {
                    Ok((subject, known)) => unit.assigned(subject, known),
                    Err(refused) => unit.refuse(refused.code, refused.place),
                },
                Command::Record(keep) => {
                    self.keep(keep, job, &mut unit)?;
                    unit.recorded();
                }
                Command::Issue(csr) => self.issue(&csr, &mut unit)?,
                Command::Done(outcome) => break outcome,
            }
        };
        let ms = elapsed(began);
        watch.end(&self.screen, out, &outcome, ms)?;
        if let Outcome::Fail(failure) = &outcome {
            self.failed(failure)?;
        }
        let shown = Shown { at: time_text(now_ms()), outcome: outcome.clone(), ms };
        self.screen.result(out, &shown).map_err(screen)?;
        Ok(outcome)
    }

    /// On disk before the next step.
    fn keep(&mut self, keep: Keep, job: &Job, unit: &mut Unit) -> Result<(), Fault> {
        let Some(subject) = unit.subject() else { return Ok(()) };
        let (serial, at_ms) = (subject.serial.clone(), now_ms());
        let record = match keep {
            Keep::Started => {
                let (batch, product) = (job.batch.clone(), job.product.clone());
                Record::Started { serial, batch, product, at_ms }
            }
            Keep::Proved => Record::Proved { serial, at_ms },
            Keep::Done => Record::Done { serial, batch: job.batch.clone(), at_ms },
        };
        self.journal.append(record).map_err(disk)
    }

    fn issue(&mut self, csr: &VerifiedCsr, unit: &mut Unit) -> Result<(), Fault> {
        let known = self.journal.unit(&csr.subject().serial).is_some();
        let made = self.journal.units().count() as u64;
        if !known && made >= self.bundle.record.quota {
            let quota = self.bundle.record.quota;
            unit.refuse(
                Code::StationSignerRefused,
                format!("the station's quota of {quota} devices is used up"),
            );
            return Ok(());
        }
        let fresh = CertificateSerial::draw().map_err(|error| Fault::new(Code::Fault, error))?;
        let now_s = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
        let authority = Authority::new(&self.bundle.factory);
        match authority.issue(&Request::Device(csr), self.journal, fresh, now_s) {
            Ok(issued) => unit.issued(issued.certificate),
            // What could not be kept must not go on, and nothing else may either: all ports stop.
            Err(IssueError::Ledger(error)) => return Err(disk(error)),
            Err(error @ (IssueError::OtherKey { .. } | IssueError::OtherDeviceId)) => {
                unit.refuse(Code::StationSerialTaken, error.to_string());
            }
            Err(IssueError::Key(error)) => unit.refuse(Code::StationSignerAway, error.to_string()),
            Err(error) => unit.refuse(Code::StationSignerRefused, error.to_string()),
        }
        Ok(())
    }

    fn failed(&mut self, failure: &Failure) -> Result<(), Fault> {
        let record = Record::Failed {
            serial: failure.subject.as_ref().map(|subject| subject.serial.clone()),
            code: failure.code.id().to_owned(),
            step: failure.step.word().to_owned(),
            at_ms: now_ms(),
        };
        self.journal.append(record).map_err(disk)
    }
}

/// How far back a station's clock may be set without a word: what a network's time corrects by.
const CLOCK_BACK_MS: u64 = 60_000;

/// A station may have no network to ask for the time. What it can know is that it is later than when the root
/// signed its record, and than what it last wrote down: a certificate begins at the station's time.
///
/// # Errors
/// E18 when it is more than a minute earlier.
pub fn clock(bundle: &StationBundle, journal: &Journal, now_ms: u64) -> Result<(), Fault> {
    let signed_ms = bundle.record.signed_at_s.saturating_mul(1000);
    let newest_ms = journal.newest_ms().unwrap_or(0).max(signed_ms);
    if now_ms.saturating_add(CLOCK_BACK_MS) >= newest_ms {
        return Ok(());
    }
    let (now, then) = (time_text(now_ms), time_text(newest_ms));
    let place = format!("it says {now}, and it was {then} already · journal, and the station's record");
    Err(Fault::new(Code::StationClock, place))
}

/// Chooses the serial of a unit: the one given, else the one it was asked to be before, else the next of the
/// range. Says what the journal knows of it.
///
/// # Errors
/// A [`Fault`] of the unit: E05, E07, E20.
pub fn assign(
    bundle: &StationBundle,
    journal: &Journal,
    job: &Job,
    asked: Option<Subject>,
) -> Result<(Subject, Option<Known>), Fault> {
    let record = &bundle.record;
    let serial = match (&job.serial, &asked) {
        (Some(serial), _) => serial.clone(),
        (None, Some(asked)) if asked.tenant == record.tenant => asked.serial.clone(),
        (None, _) => next_serial(bundle, journal)?,
    };
    if record.serials.place(&serial).is_none() {
        let place = format!("serial {serial} · the station's range is {}", record.serials);
        return Err(Fault::new(Code::StationSerialRange, place));
    }
    let device_id = match (&job.device_id, journal.unit(&serial).and_then(|known| known.device_id())) {
        (Some(device_id), _) => device_id.clone(),
        (None, Some(known)) => known.clone(),
        (None, None) => device_id(&serial)?,
    };
    let known = journal.unit(&serial).map(|known| Known {
        key_digest: known.key_digest(),
        certificate_id: known.certificate_id(),
        proved: known.proved,
        done: known.done.is_some(),
    });
    Ok((Subject { tenant: record.tenant.clone(), device_id, serial }, known))
}

/// The serial after the highest one ever started here.
fn next_serial(bundle: &StationBundle, journal: &Journal) -> Result<SerialNumber, Fault> {
    let serials = &bundle.record.serials;
    let started = journal.records().iter().filter_map(|record| match record {
        Record::Started { serial, .. } => serials.place(serial),
        _ => None,
    });
    let next = started.max().map_or(0, |place| place + 1);
    serials.serial(next).ok_or_else(|| {
        Fault::new(Code::StationOrderFull, format!("the station's range {serials} is used up"))
    })
}

/// A device's name unless one is given: its serial, with `-` for the one octet that names do not have.
fn device_id(serial: &SerialNumber) -> Result<DeviceId, Fault> {
    let name = serial.as_str().replace('.', "-");
    name.parse().map_err(|error| Fault::new(Code::StationLabel, format!("serial {serial}: {error}")))
}

/// Has a manifest of this batch been made?
#[must_use]
pub fn closed(journal: &Journal, batch: &BatchId) -> bool {
    journal.records().iter().any(|record| matches!(record, Record::Closed { batch: b, .. } if b == batch))
}

/// A line that is opened again when it is lost: a board that restarts may take its socket with it.
struct Line {
    name: PortName,
    port: Option<Port>,
}

impl Line {
    fn open(name: &PortName) -> Result<Self, Fault> {
        Ok(Self { name: name.clone(), port: Some(Port::open(name)?) })
    }

    /// What cannot be written is sent again when the controller's patience says so.
    fn write(&mut self, octets: &[u8]) {
        if self.port.as_mut().is_some_and(|port| port.write(octets).is_err()) {
            self.port = None;
        }
    }

    fn read(&mut self, wait_ms: u64, unit: &mut Unit) {
        let mut room = [0; 1024];
        match self.port.as_mut().map(|port| port.read(&mut room)) {
            Some(Ok(read)) => unit.receive(&room[..read]),
            Some(Err(_)) => self.port = None,
            None => {
                std::thread::sleep(REOPEN.min(Duration::from_millis(wait_ms)));
                self.port = Port::open(&self.name).ok();
            }
        }
    }
}

/// Times the steps.
struct Watch {
    step: Option<(Step, u64)>,
}

impl Watch {
    fn begin(&mut self, screen: &Screen, out: &mut impl Write, step: Step, now_ms: u64) -> Result<(), Fault> {
        if let Some((before, at_ms)) = self.step.replace((step, now_ms)) {
            screen.step(out, before, true, now_ms - at_ms).map_err(self::screen)?;
        }
        Ok(())
    }

    fn end(
        &self,
        screen: &Screen,
        out: &mut impl Write,
        outcome: &Outcome,
        now_ms: u64,
    ) -> Result<(), Fault> {
        let ok = matches!(outcome, Outcome::Pass { .. });
        match self.step {
            Some((step, at_ms)) => screen.step(out, step, ok, now_ms - at_ms).map_err(self::screen),
            None => Ok(()),
        }
    }
}

/// The fault of a journal: what cannot be kept stops the station.
#[must_use]
pub fn disk(error: JournalError) -> Fault {
    let fault = Fault::new(Code::StationDisk, &error);
    match error {
        JournalError::Io { .. } => fault.what("record could not be kept"),
        JournalError::Locked(_) => fault
            .what("the journal is in use")
            .next("end the other muster-factory of this station, then repeat"),
        JournalError::Damaged { .. } => fault.what("the journal is damaged"),
        JournalError::OtherStation { .. } => {
            fault.what("the journal is another station's").next("give this station's --journal FILE").exit(2)
        }
    }
}

fn screen(error: std::io::Error) -> Fault {
    Fault::new(Code::Fault, format!("standard output: {error}"))
}

fn draw(out: &mut [u8]) -> Result<(), muster_pki::key::KeyError> {
    muster_pki::key::fill(out)
}

fn elapsed(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn time_text(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.0}", at.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

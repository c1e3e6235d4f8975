//! The real station and the real device, in one process and in virtual time: octets are lost, changed and
//! repeated on the line, the device loses power in the middle of a flash operation, the station is started
//! anew. Whatever happens, the unit passes in the end, with one key and one certificate.
//!
//! Every run comes from a seed, which a failure names; `MUSTER_SEED=N` runs that one alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use embedded_io_async::Write as _;
use muster_firmware::{
    Resources,
    testing::{Flash, Pipe, TestClock, TestLog, TestNetwork, TestPlatform, block_on},
};
use muster_hil::workbench::now_s;
use muster_pki::{
    Authority, CertificateSerial, Request, bundle::StationBundle, hierarchy::Hierarchy, testing,
};
use muster_provisioning::{
    journal::{Journal, Record},
    order::RawOrder,
    run::{Job, assign},
    station::{Command, Keep, Material, Outcome, Patience, Unit},
};
use muster_shared::{CertificateId, Code};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

/// Starts of a station before the unit must have passed: an operator would have given up long before.
const STARTS_MAX: u32 = 200;
/// One step of the clock, milliseconds.
const TICK_MS: u64 = 20;
/// Virtual time one start of a station may take.
const START_MS_MAX: u64 = 600_000;

/// How bad the day is: of 1000 frames, starts or ticks, so many go wrong.
#[derive(Debug, Clone, Copy)]
struct Weather {
    lost: u32,
    changed: u32,
    repeated: u32,
    power: u32,
    station: u32,
}

const CALM: Weather = Weather { lost: 0, changed: 0, repeated: 0, power: 0, station: 0 };
const LINE: Weather = Weather { lost: 150, changed: 150, repeated: 150, power: 0, station: 0 };
const POWER: Weather = Weather { lost: 20, changed: 20, repeated: 50, power: 300, station: 0 };
const STORM: Weather = Weather { lost: 80, changed: 80, repeated: 80, power: 150, station: 100 };

/// A device that can lose power.
struct Device {
    flash: Flash,
    clock: TestClock,
    log: TestLog,
    station: Pipe,
    life: Pin<Box<dyn Future<Output = ()>>>,
}

impl Device {
    fn switched_on(flash: Flash) -> Self {
        let (platform, station) = TestPlatform::on(flash.clone(), TestNetwork::default());
        let (clock, log) = (platform.clock.clone(), platform.log.clone());
        let life = Box::pin(async move {
            let mut resources = Box::new(Resources::new());
            muster_firmware::run(platform, &mut resources).await;
        });
        Self { flash, clock, log, station, life }
    }

    fn run(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(self.life.as_mut().poll(&mut context), Poll::Pending);
    }
}

/// Everything that outlives a start of the station.
struct Pair<'a> {
    rng: ChaCha20Rng,
    weather: Weather,
    bundle: &'a StationBundle,
    journal: &'a Path,
    device: Device,
    restarts: u32,
    cuts: u32,
}

impl Pair<'_> {
    fn chance(&mut self, of_1000: u32) -> bool {
        self.rng.next_u32() % 1000 < of_1000
    }

    fn journal(&self) -> Journal {
        Journal::open(self.journal, &self.bundle.record.tenant, &self.bundle.record.station).unwrap()
    }

    /// One frame or a piece of one on its way.
    fn carry(&mut self, mut octets: Vec<u8>) -> Vec<u8> {
        if octets.is_empty() || self.chance(self.weather.lost) {
            return Vec::new();
        }
        if self.chance(self.weather.changed) {
            let at = self.rng.next_u32() as usize % octets.len();
            octets[at] ^= 1 << (self.rng.next_u32() % 8);
        }
        if self.chance(self.weather.repeated) {
            let again = octets.clone();
            octets.extend(again);
        }
        octets
    }

    fn power_cut(&mut self) {
        self.cuts += 1;
        let flash = self.device.flash.clone();
        flash.power_on();
        self.device = Device::switched_on(flash);
    }

    /// Lets the device run, and the power go where the dice say.
    fn run_device(&mut self) {
        if self.chance(self.weather.power) {
            let torn = Flash::TORN[self.rng.next_u32() as usize % Flash::TORN.len()];
            self.device.flash.cut_after(u64::from(self.rng.next_u32() % 60), torn);
        }
        self.device.run();
        if self.chance(self.weather.power / 10) || self.device.flash.power_on() {
            self.power_cut();
        }
    }

    /// One start of the station; `None` when it was ended in the middle.
    fn start(&mut self, job: &Job, material: &Material) -> Option<Outcome> {
        let mut journal = self.journal();
        let number = self.rng.next_u32() as u16;
        let mut nonce = [0; 32];
        self.rng.fill_bytes(&mut nonce);
        let mut unit = Unit::new(material.clone(), Patience::default(), number, nonce);
        let mut now_ms = 0;
        while now_ms < START_MS_MAX {
            match unit.poll(now_ms) {
                Command::Send(octets) => {
                    let octets = self.carry(octets);
                    block_on(self.device.station.write_all(&octets)).expect("a cable takes everything");
                    self.run_device();
                }
                Command::Wait(_) => {
                    now_ms += TICK_MS;
                    self.device.clock.advance(TICK_MS);
                    self.run_device();
                    let octets = self.device.station.drain();
                    let octets = self.carry(octets);
                    unit.receive(&octets);
                }
                Command::Begin(_) => {}
                Command::Assign(asked) => match assign(self.bundle, &journal, job, asked) {
                    Ok((subject, known)) => unit.assigned(subject, known),
                    Err(refused) => unit.refuse(refused.code, refused.place),
                },
                Command::Record(keep) => {
                    journal.append(record(keep, job, &unit)).unwrap();
                    if self.chance(self.weather.station) {
                        return None;
                    }
                    unit.recorded();
                }
                Command::Issue(csr) => {
                    let authority = Authority::new(&self.bundle.factory);
                    let fresh = CertificateSerial::draw().unwrap();
                    let issued =
                        authority.issue(&Request::Device(&csr), &mut journal, fresh, now_s()).unwrap();
                    if self.chance(self.weather.station) {
                        return None;
                    }
                    unit.issued(issued.certificate);
                }
                Command::Done(outcome) => return Some(outcome),
            }
            if self.chance(self.weather.station / 50) {
                return None;
            }
        }
        panic!("the station neither passes nor fails the unit");
    }
}

fn record(keep: Keep, job: &Job, unit: &Unit) -> Record {
    let serial = unit.subject().unwrap().serial.clone();
    let (batch, product, at_ms) = (job.batch.clone(), job.product.clone(), 1);
    match keep {
        Keep::Started => Record::Started { serial, batch, product, at_ms },
        Keep::Proved => Record::Proved { serial, at_ms },
        Keep::Done => Record::Done { serial, batch, at_ms },
    }
}

/// Makes one unit in this weather; returns its certificate, how often the station was started and how
/// often the power went.
fn make(seed: u64, weather: Weather, hierarchy: &Hierarchy) -> (CertificateId, u32, u32) {
    let dir = tempfile::tempdir().unwrap();
    let bundle = hierarchy.station_bundle(&hierarchy.stations[0].record.station).unwrap();
    let order = RawOrder { host: Some("10.0.2.2".into()), ..RawOrder::default() }.valid().unwrap();
    let issuer = bundle.factory.certificate().der().to_vec();
    let material = Material { order, issuer, anchors: bundle.anchors.clone() };
    let serial = Some("MU-000001".parse().unwrap());
    let job = Job { batch: "B-0001".parse().unwrap(), product: "p".into(), serial, device_id: None };
    let flash = Flash::flashed_for(hierarchy.root_digest(), [seed as u8; 32]);
    let mut pair = Pair {
        rng: ChaCha20Rng::seed_from_u64(seed),
        weather,
        bundle: &bundle,
        journal: &dir.path().join("journal"),
        device: Device::switched_on(flash),
        restarts: 0,
        cuts: 0,
    };
    let id = loop {
        pair.restarts += 1;
        assert!(pair.restarts <= STARTS_MAX, "seed {seed}: never passes\n{}", pair.device.log.text());
        match pair.start(&job, &material) {
            Some(Outcome::Pass { certificate_id, .. }) => break certificate_id,
            // What an operator answers with: unplug it, plug it in.
            Some(Outcome::Fail(failure))
                if matches!(failure.code, Code::StationNoAnswer | Code::StationRestarted) =>
            {
                pair.power_cut();
            }
            Some(Outcome::Fail(failure)) => panic!("seed {seed}: {failure:?}\n{}", pair.device.log.text()),
            None => {}
        }
    };
    // One certificate, on both sides, and the station knows that it has passed.
    pair.weather = CALM;
    pair.power_cut();
    let again = pair.start(&job, &material);
    assert!(
        matches!(&again, Some(Outcome::Pass { certificate_id, already: true, .. }) if *certificate_id == id),
        "seed {seed}: once more gives {again:?}"
    );
    let journal = pair.journal();
    let issued: Vec<_> = journal
        .records()
        .iter()
        .filter_map(|record| match record {
            Record::Issued { certificate, .. } => Some(certificate.clone()),
            _ => None,
        })
        .collect();
    assert!(issued.windows(2).all(|two| two[0] == two[1]), "seed {seed}: more than one certificate");
    (id, pair.restarts, pair.cuts)
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("MUSTER_SEED") {
        Ok(seed) => vec![seed.parse().expect("MUSTER_SEED is a number")],
        Err(_) => (1..=count).collect(),
    }
}

fn every_unit_passes(weather: Weather, count: u64) -> (u32, u32) {
    let hierarchy = testing::hierarchy(now_s());
    let (mut restarts, mut cuts) = (0, 0);
    for seed in seeds(count) {
        let (_, r, c) = make(seed, weather, &hierarchy);
        restarts += r;
        cuts += c;
    }
    println!("{count} units, {restarts} starts of the station, {cuts} power cuts");
    (restarts, cuts)
}

#[test]
fn on_a_calm_day_a_unit_passes_at_once() {
    assert_eq!(every_unit_passes(CALM, 2).0, 2);
}

#[test]
fn on_a_bad_line_every_unit_passes() {
    every_unit_passes(LINE, 20);
}

#[test]
fn with_power_that_goes_in_the_middle_of_a_write_every_unit_passes() {
    let (_, cuts) = every_unit_passes(POWER, 20);
    assert!(cuts > 40, "the power went only {cuts} times");
}

#[test]
fn in_a_storm_every_unit_passes() {
    let (restarts, cuts) = every_unit_passes(STORM, 20);
    assert!(restarts > 40 && cuts > 40, "{restarts} starts, {cuts} cuts: no storm");
}

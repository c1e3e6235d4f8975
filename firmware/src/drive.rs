//! The shell around the machines: the only folder that waits.
//!
//! ```text
//! start    vendor page, entropy, stage                                        (this file)
//! blank    one request of the station after another, until the lock            drive/port.rs
//! locked   hello on the factory port, for ever, beside
//!          the agent: sample, connect, wait, again                            (this file)
//!          one connection at a time, from TCP to its end                       drive/session.rs
//! ```
//!
//! Everything runs in one task. The only future that is kept across others is the read of a session,
//! which must not be dropped.

mod port;
mod session;

use core::{
    fmt,
    future::{Future, pending},
    pin::{Pin, pin},
};

use embassy_futures::{
    join::join,
    select::{Either, select},
};
use embedded_storage_async::nor_flash::{MultiwriteNorFlash, ReadNorFlash};
use heapless::Vec;
use muster_shared::{
    Code,
    factory::{Anchors, Endpoint, Entropy, SignedAnchors, Stage, Subject},
    limits::{ANCHOR_SET_MAX, ANCHORS_MAX, HOST_MAX, READINGS_MAX, TELEMETRY_MAX},
    telemetry::{Boot, Reading, TelemetryBatch},
    vendor::{VENDOR_LEN, VendorPage},
};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use self::{port::Port, session::Rooms};
use crate::{
    agent::{Agent, Command, Pace},
    credentials,
    enrol::{self, Device},
    entropy,
    log::{Cause, Line, line},
    mqtt, outbox,
    platform::{Clock, Layout, Parts, Platform, Sensors},
    report::Report,
    store::{self, Record, Slot, Store, StoreError},
    tls, x509,
};

const ENDPOINT_MAX: usize = 2 * (HOST_MAX + 2) + 16;

/// Everything the device needs in memory besides its stack: put one in a `StaticCell` (or a `Box`).
pub struct Resources {
    store: [u8; store::ROOM],
    endpoint: [u8; ENDPOINT_MAX],
    anchors: [u8; ANCHOR_SET_MAX],
    port: port::Room,
    session: Rooms,
}

impl Resources {
    /// Empty buffers, in a constant: a board's linker places them without copying.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            store: [0; store::ROOM],
            endpoint: [0; ENDPOINT_MAX],
            anchors: [0; ANCHOR_SET_MAX],
            port: port::Room::new(),
            session: Rooms::new(),
        }
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs the device for ever. Dropping the future is what pulling the plug is to a board.
pub async fn run<P: Platform>(platform: P, resources: &mut Resources) -> ! {
    let Parts { clock, flash, mut network, serial, log, mut trng, sensors, about } = platform.split();
    let mut log = Log(log);
    let mut store = Store::new(flash, &mut resources.store);
    let vendor = vendor_page(store.flash()).await;
    let (mut rng, source) = match entropy::start(store.flash(), trng.as_mut()).await {
        Ok((rng, source)) => (Some(rng), source),
        Err(_) => (None, Entropy::Failed),
    };
    let device = Device { vendor: vendor.as_ref(), about: &about, entropy: source };
    let mut port = Port::new(serial, &clock, &mut resources.port);
    if rng.is_none() {
        log.refuse(&Cause::of(Code::TlsNoEntropy));
    }

    match credentials::stage(&mut store).await {
        Ok(Stage::Locked) => {}
        Ok(_) => {
            log.line(format_args!("muster boot {} no identity | waiting for a station", about.version));
            port.enrol(&mut store, rng.as_mut(), &device, &mut log).await;
        }
        Err(_) => {
            log.refuse(&Cause::of(Code::StoreDamaged));
            port.enrol(&mut store, rng.as_mut(), &device, &mut log).await;
        }
    }

    let hello = enrol::hello(&mut store, &device).await;
    let config = Config::load(&mut store, &mut resources.endpoint, &mut resources.anchors).await;
    let (Ok(hello), Ok(config)) = (hello, config) else {
        log.refuse(&Cause::of(Code::StoreDamaged));
        halt().await
    };
    let Some(rng) = rng else {
        // The log has said T03 already: no key is used without randomness.
        port.serve_locked(&hello).await
    };
    let Endpoint { host, port: tcp, .. } = config.endpoint;
    let Subject { tenant, device_id, .. } = &config.subject;
    log.line(format_args!("muster boot {} {tenant}/{device_id} | connecting to {host}:{tcp}", about.version));
    let life = pin!(async {
        match Life::<P>::start(clock.clone(), store, log, rng, sensors, config, about.version).await {
            Ok(mut life) => life.run(&mut network, &mut resources.session).await,
            Err(mut log) => {
                log.refuse(&Cause::of(Code::StoreDamaged));
                halt().await
            }
        }
    });
    join(pin!(port.serve_locked(&hello)), life).await.0
}

/// Nothing more happens before power-on.
async fn halt() -> ! {
    loop {
        pending::<()>().await;
    }
}

async fn vendor_page(flash: &mut impl ReadNorFlash) -> Option<VendorPage> {
    const PADDED: usize = VENDOR_LEN.next_multiple_of(64);
    let mut page = [0; PADDED];
    flash.read(Layout::VENDOR.start, &mut page).await.ok()?;
    VendorPage::from_bytes(page.first_chunk()?)
}

/// `future`, unless it takes longer than this.
///
/// Takes it pinned: a future that is moved into another is kept twice in the task's memory.
async fn within<F: Future>(clock: &impl Clock, ms: u64, future: Pin<&mut F>) -> Option<F::Output> {
    let until = clock.wait_until(clock.now_ms() + ms);
    match select(future, pin!(until)).await {
        Either::First(output) => Some(output),
        Either::Second(()) => None,
    }
}

/// The log, line by line.
struct Log<L>(L);

impl<L: fmt::Write> Log<L> {
    fn print(&mut self, line: &Line) {
        // A log that fails is no reason to stop.
        let _ = writeln!(self.0, "{line}");
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        self.print(&line(text));
    }

    fn refuse(&mut self, cause: &Cause) {
        self.print(&cause.line(cause.code.entry().device.map_or("stop", |device| device.act)));
    }

    fn all(&mut self, lines: impl IntoIterator<Item = Line>) {
        lines.into_iter().for_each(|line| self.print(&line));
    }
}

/// What the factory gave the device.
struct Config<'a> {
    subject: Subject,
    endpoint: Endpoint<'a>,
    anchors: Vec<&'a [u8], ANCHORS_MAX>,
    /// It is not earlier than this, seconds since 1970.
    floor: u64,
}

impl<'a> Config<'a> {
    async fn load<F: MultiwriteNorFlash>(
        store: &mut Store<'_, F>,
        endpoint: &'a mut [u8; ENDPOINT_MAX],
        signed: &'a mut [u8; ANCHOR_SET_MAX],
    ) -> Result<Self, StoreError> {
        let subject = credentials::subject(store).await?.ok_or(StoreError::Damaged)?;
        let endpoint = copy(store.get(Record::Endpoint).await?, endpoint)?;
        let endpoint = postcard::from_bytes(endpoint).map_err(|_| StoreError::Damaged)?;
        let signed = copy(store.get(Record::Anchors).await?, signed)?;
        let signed = SignedAnchors::read(signed).map_err(|_| StoreError::Damaged)?;
        let set = Anchors::read(signed.anchors).map_err(|_| StoreError::Damaged)?;
        let anchors: Vec<&[u8], ANCHORS_MAX> = core::iter::once(set.current).chain(set.next).collect();

        // Whoever signed these lived when they became valid. A successor may begin later than now.
        let mut floor = 0;
        for certificate in [Some(set.current), store.get(Record::Certificate(Slot::Birth)).await?] {
            let view = certificate.and_then(|der| x509::View::read(der).ok()).ok_or(StoreError::Damaged)?;
            floor = floor.max(view.not_before);
        }
        if let Some(kept) = store.get(Record::Floor).await?.and_then(|octets| octets.try_into().ok()) {
            floor = floor.max(u64::from_le_bytes(kept));
        }
        Ok(Self { subject, endpoint, anchors, floor })
    }
}

fn copy<'a>(from: Option<&[u8]>, to: &'a mut [u8]) -> Result<&'a [u8], StoreError> {
    let from = from.ok_or(StoreError::Damaged)?;
    let to = to.get_mut(..from.len()).ok_or(StoreError::Damaged)?;
    to.copy_from_slice(from);
    Ok(to)
}

/// A provisioned device that is running.
struct Life<'a, P: Platform> {
    clock: P::Clock,
    store: Store<'a, P::Flash>,
    log: Log<P::Log>,
    rng: ChaCha20Rng,
    sensors: P::Sensors,
    config: Config<'a>,
    agent: Agent,
    boot: Boot,
    seq: u64,
    report: Report,
}

impl<'a, P: Platform> Life<'a, P> {
    async fn start(
        clock: P::Clock,
        mut store: Store<'a, P::Flash>,
        log: Log<P::Log>,
        mut rng: ChaCha20Rng,
        sensors: P::Sensors,
        config: Config<'a>,
        version: &'static str,
    ) -> Result<Self, Log<P::Log>> {
        let begun = async {
            Ok((next_boot(&mut store, &mut rng).await?, credentials::slots(&mut store).await?.len()))
        };
        let (boot, slots) = match begun.await {
            Ok(begun) => begun,
            Err(StoreError::Flash | StoreError::ReadBack | StoreError::Damaged) => return Err(log),
        };
        let Endpoint { retry_s_max, telemetry_s, .. } = config.endpoint;
        let agent = Agent::new(Pace { retry_s_max, telemetry_s }, slots, clock.now_ms());
        let report = Report::new(version);
        let mut life = Self { clock, store, log, rng, sensors, config, agent, boot, seq: 0, report };
        life.log.refuse(&Cause::of(Code::TlsClockUnset));
        Ok(life)
    }

    async fn run(&mut self, network: &mut P::Network, rooms: &mut Rooms) -> ! {
        loop {
            match self.agent.next(self.clock.now_ms()) {
                Command::Sample => self.sample(&mut rooms.out, &mut rooms.message).await,
                Command::Wait { until_ms } => self.clock.wait_until(until_ms).await,
                Command::Connect { slot } => {
                    let cause = self.connect(network, rooms, slot).await;
                    let lines = self.agent.ended(&cause, self.clock.now_ms(), &mut self.rng);
                    self.log.all(lines);
                }
                Command::Stop => halt().await,
            }
        }
    }

    /// Measures once, into the outbox.
    async fn sample(&mut self, out: &mut [u8; mqtt::PACKET_OUT], room: &mut [u8; outbox::ROOM]) {
        let Some(message) = self.measure(out) else { return };
        let stored = outbox::push(self.store.flash(), message, room).await;
        // A number is used once it may be in flash, whether or not the write was answered.
        self.seq += 1;
        match stored {
            Ok(0) => {}
            Ok(n) => self.log.line(format_args!("muster outbox full | {n} oldest dropped")),
            Err(_) => self.log.line(format_args!("muster outbox failed | 1 message dropped")),
        }
    }

    /// One round of the sensors, as a message.
    fn measure<'b>(&mut self, out: &'b mut [u8; mqtt::PACKET_OUT]) -> Option<&'b [u8]> {
        let uptime_ms = self.clock.now_ms();
        let mut batch = TelemetryBatch::new(self.boot, self.seq, uptime_ms);
        self.sensors.measure(&mut |sensor, value| {
            // Names and readings beyond the limits are left out.
            if let Ok(sensor) = sensor.try_into() {
                let _ = batch.readings.push(Reading { sensor, uptime_ms, value });
            }
        });
        batch.write(&mut out[..TELEMETRY_MAX]).ok()
    }
}

/// Names this start: counted before anything is sent under it.
async fn next_boot<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    rng: &mut ChaCha20Rng,
) -> Result<Boot, StoreError> {
    let kept = store.get(Record::Boot).await?.map(<[u8; 12]>::try_from);
    let boot = match kept {
        None => Boot { install: rng.next_u64(), count: 1 },
        Some(Ok(octets)) => {
            let (install, count) = octets.split_at(8);
            let install = u64::from_le_bytes(install.try_into().map_err(|_| StoreError::Damaged)?);
            let count = u32::from_le_bytes(count.try_into().map_err(|_| StoreError::Damaged)?);
            match count.checked_add(1) {
                Some(count) => Boot { install, count },
                // A name is never used twice.
                None => Boot { install: rng.next_u64(), count: 1 },
            }
        }
        Some(Err(_)) => return Err(StoreError::Damaged),
    };
    let mut octets = [0; 12];
    octets[..8].copy_from_slice(&boot.install.to_le_bytes());
    octets[8..].copy_from_slice(&boot.count.to_le_bytes());
    store.put(Record::Boot, &octets).await?;
    Ok(boot)
}

const _: () = assert!(READINGS_MAX > 0 && mqtt::PACKET_OUT + 128 <= tls::TRANSMIT);

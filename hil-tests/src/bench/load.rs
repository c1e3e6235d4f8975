//! Devices that publish telemetry while a switch is on, at a pace or as fast as they are acknowledged.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use muster_shared::telemetry::{Boot, Reading, TelemetryBatch, Value};
use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{
    client::{Client, Packets, Session},
    rig::arrive,
};

/// A turn.
pub(super) const TURN: Duration = Duration::from_secs(6);
/// How long the last acknowledgements of a turn may take.
const SETTLE: Duration = Duration::from_secs(10);

/// How fast a device publishes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// So many messages at once each time this is over; the devices' turns are spread over it.
    Every(Duration, usize),
    /// So many at once, and again when all are acknowledged.
    Together(usize),
}

/// The devices of a fleet, connected.
pub(super) struct Load {
    pace: watch::Sender<Option<Pace>>,
    count: Arc<Count>,
    devices: JoinSet<Result<Infallible>>,
}

/// Of all devices.
#[derive(Default)]
struct Count {
    sent: AtomicU64,
    acked: AtomicU64,
    /// From a message to its acknowledgement, µs, of those that are sent at a pace.
    waits_us: Mutex<Vec<u32>>,
}

/// What a turn came to.
pub(super) struct Turn {
    pub(super) messages: u64,
    /// From the first message to the last acknowledgement.
    pub(super) took: Duration,
    pub(super) waits_us: Vec<u32>,
}

/// One of them.
struct Device {
    client: Client,
    packets: Packets<Session>,
    boot: Boot,
    seq: u64,
    /// Its place in a period, from 0 to 1.
    phase: f64,
}

impl Load {
    pub(super) async fn start(clients: &[Client], to: SocketAddr) -> Result<Self> {
        let sessions = arrive(clients, to).await?;
        let mut load =
            Self { pace: watch::Sender::new(None), count: Arc::default(), devices: JoinSet::new() };
        for (n, session) in sessions.into_iter().enumerate() {
            let device = Device {
                client: clients[n].clone(),
                packets: Packets::new(session),
                boot: Boot { install: n as u64 + 1, count: 1 },
                seq: 0,
                phase: n as f64 / clients.len() as f64,
            };
            load.devices.spawn(device.run(load.pace.subscribe(), Arc::clone(&load.count)));
        }
        Ok(load)
    }

    /// Publishes for [`TURN`] and waits until all of it is acknowledged.
    pub(super) async fn turn(&mut self, pace: Pace) -> Result<Turn> {
        let (begin, already) = (Instant::now(), self.count.acked.load(Ordering::Relaxed));
        self.pace.send_replace(Some(pace));
        sleep(TURN).await;
        self.pace.send_replace(None);
        let until = Instant::now() + SETTLE;
        while self.count.acked.load(Ordering::Relaxed) < self.count.sent.load(Ordering::Relaxed) {
            ensure!(Instant::now() < until, "messages are not acknowledged");
            sleep(Duration::from_millis(1)).await;
        }
        let took = begin.elapsed();
        if let Some(ended) = self.devices.try_join_next() {
            ended?.map(|never| match never {}).context("a connection ended")?;
        }
        let messages = self.count.acked.load(Ordering::Relaxed) - already;
        let waits_us =
            std::mem::take(&mut *self.count.waits_us.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Turn { messages, took, waits_us })
    }
}

impl Device {
    async fn run(mut self, mut pace: watch::Receiver<Option<Pace>>, count: Arc<Count>) -> Result<Infallible> {
        loop {
            let begun = *pace.wait_for(Option::is_some).await?;
            match begun {
                Some(Pace::Every(period, messages)) => {
                    self.at_a_pace(period, messages, &pace, &count).await?;
                }
                Some(Pace::Together(messages)) => {
                    while pace.borrow().is_some() {
                        self.together(messages, &count).await?;
                    }
                }
                None => {}
            }
        }
    }

    async fn at_a_pace(
        &mut self,
        period: Duration,
        messages: usize,
        pace: &watch::Receiver<Option<Pace>>,
        count: &Count,
    ) -> Result<()> {
        let mut clock = interval_at(Instant::now() + period.mul_f64(self.phase), period);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sent = VecDeque::new();
        while pace.borrow().is_some() || !sent.is_empty() {
            tokio::select! {
                biased;
                heard = self.packets.next() => {
                    acknowledged(heard?)?;
                    let at: Instant = sent.pop_front().context("an acknowledgement nobody waits for")?;
                    let wait_us = u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX);
                    count.waits_us.lock().unwrap_or_else(PoisonError::into_inner).push(wait_us);
                    count.acked.fetch_add(1, Ordering::Relaxed);
                }
                _ = clock.tick() => {
                    if pace.borrow().is_none() {
                        continue;
                    }
                    sent.extend(std::iter::repeat_n(Instant::now(), messages));
                    self.send(messages, count).await?;
                }
            }
        }
        Ok(())
    }

    async fn together(&mut self, messages: usize, count: &Count) -> Result<()> {
        self.send(messages, count).await?;
        for _ in 0..messages {
            acknowledged(self.packets.next().await?)?;
            count.acked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// So many in one write.
    async fn send(&mut self, messages: usize, count: &Count) -> Result<()> {
        let octets: Vec<u8> = (0..messages).flat_map(|_| self.message()).collect();
        count.sent.fetch_add(messages as u64, Ordering::Relaxed);
        self.packets.stream.write_all(&octets).await?;
        self.packets.stream.flush().await?;
        Ok(())
    }

    fn message(&mut self) -> Vec<u8> {
        let packet_id = (self.seq % 65_535) as u16 + 1;
        let message = self.client.publish(packet_id, &telemetry(self.boot, self.seq));
        self.seq += 1;
        message
    }
}

/// A PUBACK; no reason code is success (MQTT 5.0 §3.4.2.1).
fn acknowledged((kind, puback): (u8, &[u8])) -> Result<()> {
    ensure!(kind == 0x40 && puback.get(2).is_none_or(|reason| *reason < 0x80), "{kind:02x} {puback:02x?}");
    Ok(())
}

/// A telemetry message of the size a small device sends: four readings.
pub(super) fn telemetry(boot: Boot, seq: u64) -> Vec<u8> {
    let mut batch = TelemetryBatch::new(boot, seq, seq * 250);
    for sensor in ["temperature_c", "supply_v", "humidity_pct", "uptime_s"] {
        let sensor = sensor.try_into().expect("sensor names are short");
        let reading = Reading { sensor, uptime_ms: seq * 250, value: Value::Int(seq as i64) };
        batch.readings.push(reading).expect("four readings fit");
    }
    let mut room = [0; muster_shared::limits::TELEMETRY_MAX];
    batch.write(&mut room).expect("four readings fit").to_vec()
}

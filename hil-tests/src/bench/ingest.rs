//! `ingest_cpu_us`: what a durable QoS 1 message costs the server, at 4000 a second from 1000 connections.
//!
//! Floor: the same messages at the same pace through [`Writer`] in this process: the same commits, without
//! TLS, MQTT and sockets; the time of whoever makes the messages is in it. mosquitto stores nothing.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use muster_server::{
    registry::{Registry, now_ms},
    uplink::{Message, Outcome, Publisher, Writer},
};
use muster_shared::telemetry::{Boot, Reading, TelemetryBatch, Value};
use tokio::{
    io::{AsyncWriteExt, ReadHalf, WriteHalf},
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{
    Bench, Row, TURNS,
    client::{self, Client},
    cpu_us, folder, median,
    peer::Mosquitto,
    server::{Fleet, Server},
};

/// Connections, one a device.
const DEVICES: usize = 1000;
/// Between two messages of a device: 4000 a second together.
const PERIOD: Duration = Duration::from_millis(250);
/// A turn.
const TURN: Duration = Duration::from_secs(6);
/// How long the last acknowledgements of a turn may take.
const SETTLE: Duration = Duration::from_secs(10);
/// Handshakes at a time while the connections come up.
const ARRIVALS: usize = 32;

pub(super) fn measure(bench: &Bench) -> Result<Row> {
    let dir = folder(&bench.workspace.target)?;
    let fleet = Fleet::new(DEVICES);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    fleet.register(dir.path(), &runtime)?;
    let server = Server::start(bench, dir.path())?;
    let peer = Mosquitto::start(dir.path(), &fleet)?;
    let bare = folder(&bench.workspace.target)?;
    fleet.register(bare.path(), &runtime)?;
    runtime.block_on(async {
        let mut ours = Load::start(&fleet, server.mqtt).await.context("connecting to the server")?;
        let mut theirs = match &peer {
            Some(peer) => Some(Load::start(&fleet, peer.mqtt).await.context("connecting to mosquitto")?),
            None => None,
        };
        let floor = Floor::open(&fleet, &bare.path().join("data")).await?;
        let mut turns: [Vec<f64>; 3] = Default::default();
        for turn in 0..TURNS {
            turns[0].push(ours.turn(server.id()).await?);
            if let (Some(load), Some(peer)) = (&mut theirs, &peer) {
                turns[1].push(load.turn(peer.id()).await?);
            }
            turns[2].push(floor.turn(turn as u32 + 1).await?);
        }
        floor.close().await;
        let [value, mosquitto, floor] = turns;
        let row = Row::new("ingest_cpu_us", "us", median(value)?, Some(median(floor)?));
        Ok(if peer.is_some() { row.peer("mosquitto_volatile", median(mosquitto)?) } else { row })
    })
}

/// A telemetry message of the size a small device sends: four readings.
fn telemetry(boot: Boot, seq: u64) -> Vec<u8> {
    let mut batch = TelemetryBatch::new(boot, seq, seq * 250);
    for sensor in ["temperature_c", "supply_v", "humidity_pct", "uptime_s"] {
        let sensor = sensor.try_into().expect("sensor names are short");
        let reading = Reading { sensor, uptime_ms: seq * 250, value: Value::Int(seq as i64) };
        batch.readings.push(reading).expect("four readings fit");
    }
    let mut room = [0; muster_shared::limits::TELEMETRY_MAX];
    batch.write(&mut room).expect("four readings fit").to_vec()
}

/// Connections that publish while the switch is on.
struct Load {
    on: watch::Sender<bool>,
    count: Arc<Count>,
    devices: JoinSet<Result<()>>,
}

/// Messages of all connections.
#[derive(Default)]
struct Count {
    sent: AtomicU64,
    acked: AtomicU64,
}

impl Load {
    async fn start(fleet: &Fleet, to: SocketAddr) -> Result<Self> {
        let mut load = Self { on: watch::Sender::new(false), count: Arc::default(), devices: JoinSet::new() };
        for (some, devices) in fleet.devices.chunks(ARRIVALS).enumerate() {
            let mut arrivals = JoinSet::new();
            for (n, device) in devices.iter().enumerate() {
                let client = Client::new(fleet, device)?;
                arrivals.spawn(async move {
                    let session = client.connect(to).await?;
                    anyhow::Ok((some * ARRIVALS + n, client, session))
                });
            }
            while let Some(arrived) = arrivals.join_next().await {
                let (n, client, session) = arrived??;
                load.devices.spawn(publish(n, client, session, load.on.subscribe(), load.count.clone()));
            }
        }
        Ok(load)
    }

    /// The process's time for one acknowledged message.
    async fn turn(&mut self, process: u32) -> Result<f64> {
        let (before, already) = (cpu_us(process)?, self.count.acked.load(Ordering::Relaxed));
        self.on.send_replace(true);
        sleep(TURN).await;
        self.on.send_replace(false);
        let until = Instant::now() + SETTLE;
        while self.count.acked.load(Ordering::Relaxed) < self.count.sent.load(Ordering::Relaxed) {
            ensure!(Instant::now() < until, "messages are not acknowledged");
            sleep(Duration::from_millis(5)).await;
        }
        if let Some(ended) = self.devices.try_join_next() {
            ended?.context("a connection ended")?;
        }
        let messages = self.count.acked.load(Ordering::Relaxed) - already;
        let wanted = DEVICES as u64 * (TURN.as_millis() / PERIOD.as_millis()) as u64;
        ensure!(messages >= wanted * 8 / 10, "only {messages} of {wanted} messages in a turn");
        Ok((cpu_us(process)? - before) / messages as f64)
    }
}

/// One device: sends, and hears what was stored.
async fn publish(
    n: usize,
    client: Client,
    session: client::Session,
    on: watch::Receiver<bool>,
    count: Arc<Count>,
) -> Result<()> {
    let (read, write) = tokio::io::split(session);
    let ended = tokio::try_join!(hear(read, &count), send(n, &client, write, on, &count));
    ended.map(|(never, _)| match never {})
}

async fn hear(mut read: ReadHalf<client::Session>, count: &Count) -> Result<Infallible> {
    loop {
        let (kind, puback) = client::read(&mut read).await?;
        // MQTT 5.0 §3.4.2.1: no reason code is success.
        ensure!(kind == 0x40 && puback.get(2).is_none_or(|reason| *reason < 0x80), "{puback:02x?}");
        count.acked.fetch_add(1, Ordering::Relaxed);
    }
}

/// A message a period while the switch is on.
async fn send(
    n: usize,
    client: &Client,
    mut write: WriteHalf<client::Session>,
    mut on: watch::Receiver<bool>,
    count: &Count,
) -> Result<Infallible> {
    let boot = Boot { install: n as u64 + 1, count: 1 };
    let mut seq = 0;
    loop {
        on.wait_for(|on| *on).await?;
        // The devices' turns are spread over the period.
        let mut clock = interval_at(Instant::now() + PERIOD.mul_f64(n as f64 / DEVICES as f64), PERIOD);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        clock.tick().await;
        while *on.borrow() {
            let packet_id = (seq % 65_535) as u16 + 1;
            count.sent.fetch_add(1, Ordering::Relaxed);
            write.write_all(&client.publish(packet_id, &telemetry(boot, seq))).await?;
            write.flush().await?;
            seq += 1;
            clock.tick().await;
        }
    }
}

/// The uplink log by itself.
struct Floor {
    registry: Registry,
    writer: Writer,
    messages: Vec<Message>,
}

impl Floor {
    async fn open(fleet: &Fleet, data: &Path) -> Result<Self> {
        let registry = Registry::open(data).await?;
        let verdicts = registry.verdicts();
        let writer = Writer::open(data, registry.verdicts(), Arc::new(()), Box::new(|_| ())).await?;
        let mut messages = Vec::new();
        for device in &fleet.devices {
            let id = device.identity().id;
            let known = verdicts.certificate(&id).context("every device is registered")?;
            messages.push(Message {
                publisher: Publisher::Device { device: known.device, certificate: id },
                topic: Bytes::from(Client::new(fleet, device)?.topic),
                payload: Bytes::new(),
                qos: 1,
                retain: false,
                name: None,
                properties: Bytes::new(),
                received_ms: now_ms(),
                state: None,
            });
        }
        Ok(Self { registry, writer, messages })
    }

    /// This process's time for one stored message: the load is off meanwhile.
    async fn turn(&self, count: u32) -> Result<f64> {
        let own = std::process::id();
        // What idle devices of the load cost this process is not the log's.
        let idle = cpu_us(own)?;
        sleep(TURN).await;
        let before = cpu_us(own)?;
        let idle = before - idle;
        let (mut tickets, begin) = (Vec::new(), Instant::now());
        let step = PERIOD / DEVICES as u32;
        while begin.elapsed() < TURN {
            sleep(Duration::from_millis(1)).await;
            let due = (begin.elapsed().as_nanos() / step.as_nanos()) as usize;
            while tickets.len() < due {
                let n = tickets.len();
                let mut message = self.messages[n % DEVICES].clone();
                let boot = Boot { install: (n % DEVICES) as u64 + 1, count };
                let seq = (n / DEVICES) as u64;
                message.payload = Bytes::from(telemetry(boot, seq));
                message.name = Some((boot, seq));
                tickets.push(self.writer.append(message));
            }
        }
        let messages = tickets.len();
        for ticket in tickets {
            let outcome = ticket.await;
            ensure!(matches!(outcome, Outcome::Stored(_)), "a message was not stored: {outcome:?}");
        }
        Ok((cpu_us(own)? - before - idle) / messages as f64)
    }

    async fn close(self) {
        self.writer.close().await;
        self.registry.close().await;
    }
}

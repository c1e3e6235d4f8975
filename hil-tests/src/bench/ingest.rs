//! `ingest_cpu_us`: what a durable QoS 1 message costs the server, at 4000 a second from 1000 connections.
//!
//! Floor: the same messages at the same pace through [`Writer`] in this process: the same commits, without
//! TLS, MQTT and sockets; the time of whoever makes the messages is in it. mosquitto stores nothing.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use muster_server::{
    registry::{Registry, now_ms},
    uplink::{Message, Outcome, Publisher, Writer},
};
use muster_shared::telemetry::Boot;
use tokio::time::{Instant, sleep};

use super::{
    Bench, Row, TURNS,
    client::Client,
    clock::cpu_us,
    folder,
    load::{Load, Pace, TURN, telemetry},
    median,
    rig::Rig,
    server::Fleet,
};

/// Connections, one a device.
const DEVICES: usize = 1000;
/// Between two messages of a device: 4000 a second together.
const PERIOD: Duration = Duration::from_millis(250);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let rig = Rig::new(bench, DEVICES)?;
    let bare = folder(&bench.workspace.target)?;
    rig.fleet.register(bare.path(), &rig.runtime)?;
    let clients = rig.clients()?;
    rig.runtime.block_on(async {
        let mut ours = Load::start(&clients, rig.server.mqtt).await.context("connecting to the server")?;
        let mut theirs = match &rig.peer {
            Some(peer) => Some(Load::start(&clients, peer.mqtt).await.context("connecting to mosquitto")?),
            None => None,
        };
        let floor = Floor::open(&rig.fleet, &clients, &bare.path().join("data")).await?;
        let mut turns: [Vec<f64>; 3] = Default::default();
        for count in 0..TURNS {
            turns[0].push(turn(&mut ours, rig.server.id()).await?);
            if let (Some(load), Some(peer)) = (&mut theirs, &rig.peer) {
                turns[1].push(turn(load, peer.id()).await?);
            }
            turns[2].push(floor.turn(count as u32 + 1).await?);
        }
        floor.close().await;
        let [value, mosquitto, floor] = turns;
        let row = Row::new("ingest_cpu_us", "us", median(value)?, Some(median(floor)?));
        let with_peer = rig.peer.is_some();
        Ok(vec![if with_peer { row.peer("mosquitto_volatile", median(mosquitto)?) } else { row }])
    })
}

/// The process's time for one acknowledged message.
async fn turn(load: &mut Load, process: u32) -> Result<f64> {
    let before = cpu_us(process)?;
    let messages = load.turn(Pace::Every(PERIOD, 1)).await?.messages;
    let wanted = DEVICES as u64 * (TURN.as_millis() / PERIOD.as_millis()) as u64;
    ensure!(messages >= wanted * 8 / 10, "only {messages} of {wanted} messages in a turn");
    Ok((cpu_us(process)? - before) / messages as f64)
}

/// The uplink log by itself.
struct Floor {
    registry: Registry,
    writer: Writer,
    messages: Vec<Message>,
}

impl Floor {
    async fn open(fleet: &Fleet, clients: &[Client], data: &Path) -> Result<Self> {
        let registry = Registry::open(data).await?;
        let verdicts = registry.verdicts();
        let writer = Writer::open(data, registry.verdicts(), Arc::new(()), Box::new(|_| ())).await?;
        let mut messages = Vec::new();
        for (device, client) in fleet.devices.iter().zip(clients) {
            let id = device.identity().id;
            let known = verdicts.certificate(&id).context("every device is registered")?;
            messages.push(Message {
                publisher: Publisher::Device { device: known.device, certificate: id },
                topic: Bytes::from(client.topic.clone()),
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

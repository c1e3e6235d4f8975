//! `fanin_cpu_us`: what a message from a device to a service costs the server, QoS 1 from 1000 devices to one
//! service that acknowledges each: from the first octet to the last acknowledgement. Ours are stored.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use muster_server::registry::now_ms;
use tokio::{
    io::AsyncWriteExt,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Bench, Row, TURNS,
    client::{self, Client, Packets, Session},
    clock::cpu_us,
    load::{Load, Pace},
    median,
    rig::Rig,
    server::SERVICE,
};

/// Connections, one a device.
const DEVICES: usize = 1000;
/// Messages of a device at once: 4000 wait for the service or their own acknowledgement.
const TOGETHER: usize = 4;
/// How long the service may take for what is left at the end of a turn.
const SETTLE: Duration = Duration::from_secs(60);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let rig = Rig::new(bench, DEVICES)?;
    let clients = rig.clients()?;
    let now_s = i64::try_from(now_ms() / 1000)?;
    let service = Client::service(&rig.fleet.hierarchy, SERVICE, now_s)?;
    rig.runtime.block_on(async {
        let mut ours = FanIn::start(&clients, &service, rig.server.mqtt, rig.server.id()).await?;
        let mut theirs = match &rig.peer {
            Some(peer) => Some(FanIn::start(&clients, &service, peer.mqtt, peer.id()).await?),
            None => None,
        };
        let (mut value, mut mosquitto) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            value.push(ours.turn().await?);
            if let Some(peer) = &mut theirs {
                mosquitto.push(peer.turn().await?);
            }
        }
        let row = Row::new("fanin_cpu_us", "us", median(value)?, None);
        Ok(vec![if theirs.is_some() { row.peer("mosquitto_volatile", median(mosquitto)?) } else { row }])
    })
}

/// Devices, and the service they are heard by.
struct FanIn {
    process: u32,
    load: Load,
    sent: u64,
    heard: Arc<AtomicU64>,
    service: JoinHandle<Result<Infallible>>,
}

impl FanIn {
    async fn start(clients: &[Client], service: &Client, to: SocketAddr, process: u32) -> Result<Self> {
        let mut packets = Packets::new(service.connect(to).await.context("connecting as a service")?);
        packets.stream.write_all(&client::subscribe("acme/+/telemetry/#")).await?;
        packets.stream.flush().await?;
        let (kind, suback) = packets.next().await?;
        ensure!(kind == 0x90 && suback.last() == Some(&1), "not subscribed: {suback:02x?}");
        let heard = Arc::<AtomicU64>::default();
        let service = tokio::spawn(hear(packets, Arc::clone(&heard)));
        let load = Load::start(clients, to).await.context("connecting devices")?;
        Ok(Self { process, load, sent: 0, heard, service })
    }

    /// The process's time for a message that was sent, heard and acknowledged.
    async fn turn(&mut self) -> Result<f64> {
        let before = cpu_us(self.process)?;
        let messages = self.load.turn(Pace::Together(TOGETHER)).await?.messages;
        self.sent += messages;
        let until = Instant::now() + SETTLE;
        while self.heard.load(Ordering::Relaxed) < self.sent {
            ensure!(!self.service.is_finished(), "the service's session has ended");
            let heard = self.heard.load(Ordering::Relaxed);
            ensure!(Instant::now() < until, "the service has heard {heard} of {}", self.sent);
            sleep(Duration::from_millis(1)).await;
        }
        Ok((cpu_us(self.process)? - before) / messages as f64)
    }
}

/// Acknowledges and counts what comes, as many at a time as a read brings.
async fn hear(mut packets: Packets<Session>, heard: Arc<AtomicU64>) -> Result<Infallible> {
    let mut answers = Vec::new();
    loop {
        packets.fill().await?;
        let mut count = 0;
        while let Some((kind, body)) = packets.buffered()? {
            ensure!(kind & 0xf6 == 0x32, "no PUBLISH at QoS 1: {kind:02x} {body:02x?}");
            let (topic, rest) = body.split_first_chunk::<2>().context("a PUBLISH without a topic")?;
            let at = usize::from(u16::from_be_bytes(*topic));
            answers.extend([0x40, 2]);
            answers.extend(rest.get(at..at + 2).context("a PUBLISH without a packet id")?);
            count += 1;
        }
        packets.stream.write_all(&answers).await?;
        packets.stream.flush().await?;
        answers.clear();
        heard.fetch_add(count, Ordering::Relaxed);
    }
}

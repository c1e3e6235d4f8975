//! `ingest_max_cpu_us`, `ingest_max_per_s` and `ack_ms_p99`: durable QoS 1 from 1000 connections, as fast as
//! it is acknowledged, then at half of that rate.
//!
//! The devices are on the same processors: the rate is what is left for the server, and a broker that has them
//! for itself does more. Floor of the acknowledgement: an fsync of as much as a commit writes, on the same
//! disk, alone. mosquitto stores nothing.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    Bench, Row, TURNS,
    clock::cpu_us,
    load::{Load, Pace},
    median, quantile,
    rig::Rig,
};

/// Connections, one a device.
const DEVICES: usize = 1000;
/// Messages of a device at once.
const TOGETHER: usize = 16;
/// What is written between two fsyncs at half the rate, octets: some 200 messages of 140.
const COMMIT_BYTES: usize = 28 << 10;
/// Fsyncs measured a turn.
const FSYNCS: usize = 300;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let rig = Rig::new(bench, DEVICES)?;
    let clients = rig.clients()?;
    rig.runtime.block_on(async {
        let mut ours = Load::start(&clients, rig.server.mqtt).await.context("connecting to the server")?;
        let mut theirs = match &rig.peer {
            Some(peer) => Some((Load::start(&clients, peer.mqtt).await?, peer.id())),
            None => None,
        };
        let (mut value, mut mosquitto) = (Turns::default(), Turns::default());
        for _ in 0..TURNS {
            value.turn(&mut ours, rig.server.id()).await?;
            if let Some((load, process)) = &mut theirs {
                mosquitto.turn(load, *process).await?;
            }
        }
        // The same messages, as many together: half as often.
        let together = (DEVICES * TOGETHER) as f64;
        let half = Duration::from_secs_f64(together * 2.0 / median(value.per_s.clone())?);
        let (mut waits_ms, mut fsyncs_ms) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let turn = ours.turn(Pace::Every(half, TOGETHER)).await?;
            waits_ms.push(quantile(turn.waits_us.iter().map(|us| f64::from(*us) / 1000.0).collect(), 0.99)?);
            fsyncs_ms.push(quantile(fsyncs(rig.dir())?, 0.99)?);
        }
        let mut cost = Row::new("ingest_max_cpu_us", "us", median(value.cpu_us)?, None);
        let mut rate = Row::new("ingest_max_per_s", "/s", median(value.per_s)?, None);
        if theirs.is_some() {
            cost = cost.peer("mosquitto_volatile", median(mosquitto.cpu_us)?);
            rate = rate.peer("mosquitto_volatile", median(mosquitto.per_s)?);
        }
        Ok(vec![cost, rate, Row::new("ack_ms_p99", "ms", median(waits_ms)?, Some(median(fsyncs_ms)?))])
    })
}

#[derive(Default)]
struct Turns {
    cpu_us: Vec<f64>,
    per_s: Vec<f64>,
}

impl Turns {
    async fn turn(&mut self, load: &mut Load, process: u32) -> Result<()> {
        let before = cpu_us(process)?;
        let turn = load.turn(Pace::Together(TOGETHER)).await?;
        self.cpu_us.push((cpu_us(process)? - before) / turn.messages as f64);
        self.per_s.push(turn.messages as f64 / turn.took.as_secs_f64());
        Ok(())
    }
}

/// How long each took, milliseconds.
fn fsyncs(dir: &Path) -> Result<Vec<f64>> {
    let path = dir.join("fsync");
    let mut file = File::create(&path)?;
    let octets = [7; COMMIT_BYTES];
    let mut took = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        file.write_all(&octets)?;
        let begin = Instant::now();
        file.sync_data()?;
        took.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    std::fs::remove_file(path)?;
    Ok(took)
}

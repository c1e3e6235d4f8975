//! `connect_cpu_us` and `connect_chain_cpu_us`: what a full connect costs the server, when it recognises the
//! certificate and when it verifies its chain.
//!
//! Floor: rustls' side of the same handshake in memory, without and with chain validation: no socket, no MQTT.
//! tokio-rustls and mosquitto verify chains, over a socket, and answer CONNECT.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::task::JoinSet;

use super::{
    Bench, Row, TURNS,
    client::{self, Client},
    clock::cpu_us,
    median,
    rig::Rig,
    tls,
    tokio_tls::TokioTls,
};

/// Devices that connect, each again and again.
const DEVICES: usize = 64;
/// Connects in a turn: with 10 ms a tick of the kernel's clock, an error below 2 %.
const CONNECTS: usize = 4096;

pub(super) fn pinned(bench: &Bench) -> Result<Vec<Row>> {
    measure(bench, "connect_cpu_us", "pinned")
}

pub(super) fn chain(bench: &Bench) -> Result<Vec<Row>> {
    measure(bench, "connect_chain_cpu_us", "chain")
}

fn measure(bench: &Bench, row: &'static str, verify: &str) -> Result<Vec<Row>> {
    let rig = Rig::with(bench, DEVICES, &[("MUSTER_MQTT_VERIFY", verify)])?;
    let clients = rig.clients()?;
    let hierarchy = &rig.fleet.hierarchy;
    let usual = TokioTls::start(hierarchy)?;
    let verifier = if verify == "chain" { tls::chain_verifier(hierarchy)? } else { tls::known_verifier() };
    let bare = tls::server_config(hierarchy, "localhost", verifier)?;
    let device = client::config(hierarchy, &rig.fleet.devices[0])?;

    let mut turns: [Vec<f64>; 4] = Default::default();
    for _ in 0..TURNS {
        let server = || cpu_us(rig.server.id());
        turns[0].push(rig.runtime.block_on(turn(&clients, rig.server.mqtt, &server))?);
        if let Some(peer) = &rig.peer {
            turns[1].push(rig.runtime.block_on(turn(&clients, peer.mqtt, &|| cpu_us(peer.id())))?);
        }
        turns[2].push(rig.runtime.block_on(turn(&clients, usual.mqtt, &|| usual.cpu_us()))?);
        turns[3].push(tls::in_memory(&device, &bare)?);
    }
    let [value, mosquitto, usual, floor] = turns;
    let row = Row::new(row, "us", median(value)?, Some(median(floor)?)).peer("tokio_rustls", median(usual)?);
    Ok(vec![if rig.peer.is_some() { row.peer("mosquitto", median(mosquitto)?) } else { row }])
}

/// The server's time for one connect.
async fn turn(clients: &[Client], to: SocketAddr, used_us: &impl Fn() -> Result<f64>) -> Result<f64> {
    let before = used_us()?;
    let mut devices = JoinSet::new();
    for client in clients {
        let client = client.clone();
        devices.spawn(async move {
            for _ in 0..CONNECTS / DEVICES {
                client::leave(client.connect(to).await?).await;
            }
            anyhow::Ok(())
        });
    }
    while let Some(device) = devices.join_next().await {
        device??;
    }
    Ok((used_us()? - before) / CONNECTS as f64)
}

//! `idle_bytes`: the memory a connection takes that says nothing, the server's own, not the kernel's; of 5000.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use tokio::time::sleep;

use super::{
    Bench, Row,
    client::{self, Client},
    clock::memory,
    rig::{Rig, arrive},
};

/// Connections.
const DEVICES: usize = 5000;
/// Connections that come and go before: what a server takes once is not theirs.
const FIRST: usize = 256;
/// How long until what a connect leaves behind is written, and given back.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let rig = Rig::new(bench, DEVICES)?;
    let clients = rig.clients()?;
    rig.runtime.block_on(async {
        let row = Row::new("idle_bytes", "B", each(&clients, rig.server.mqtt, rig.server.id()).await?, None);
        Ok(vec![match &rig.peer {
            Some(peer) => row.peer("mosquitto", each(&clients, peer.mqtt, peer.id()).await?),
            None => row,
        }])
    })
}

async fn each(clients: &[Client], to: SocketAddr, process: u32) -> Result<f64> {
    for session in arrive(&clients[..FIRST], to).await? {
        client::leave(session).await;
    }
    sleep(SETTLE).await;
    let before = memory(process)?;
    let sessions = arrive(clients, to).await?;
    sleep(SETTLE).await;
    let after = memory(process)?;
    drop(sessions);
    Ok((after.saturating_sub(before)) as f64 / clients.len() as f64)
}

//! What a row measures with: a fleet, a server that knows it, mosquitto where it is installed, and the way to
//! all of them.

use std::{net::SocketAddr, path::Path};

use anyhow::Result;
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    Bench,
    client::{Client, Session},
    folder,
    peer::Mosquitto,
    server::{Fleet, Server},
};

/// Handshakes at a time while connections come up.
const ARRIVALS: usize = 32;

/// The folder goes last, when nobody works in it any more.
pub(super) struct Rig {
    pub(super) server: Server,
    pub(super) peer: Option<Mosquitto>,
    pub(super) fleet: Fleet,
    pub(super) runtime: Runtime,
    dir: TempDir,
}

impl Rig {
    /// With a fleet of so many devices.
    pub(super) fn new(bench: &Bench, devices: usize) -> Result<Self> {
        Self::with(bench, devices, &[])
    }

    /// With settings of the server, as its environment gives them.
    pub(super) fn with(bench: &Bench, devices: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let dir = folder(&bench.workspace.target)?;
        let fleet = Fleet::new(devices);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        fleet.register(dir.path(), &runtime)?;
        let server = Server::start(bench, dir.path(), settings)?;
        let peer = Mosquitto::start(dir.path(), &fleet)?;
        Ok(Self { server, peer, fleet, runtime, dir })
    }

    /// Where it works.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Every device's side.
    pub(super) fn clients(&self) -> Result<Vec<Client>> {
        self.fleet.devices.iter().map(|device| Client::device(&self.fleet.hierarchy, device)).collect()
    }
}

/// Connects all of these, some at a time; in their order.
pub(super) async fn arrive(clients: &[Client], to: SocketAddr) -> Result<Vec<Session>> {
    let mut all = Vec::with_capacity(clients.len());
    for some in clients.chunks(ARRIVALS) {
        let mut arrivals = JoinSet::new();
        for (n, client) in some.iter().cloned().enumerate() {
            arrivals.spawn(async move { anyhow::Ok((n, client.connect(to).await?)) });
        }
        let mut arrived = Vec::with_capacity(some.len());
        while let Some(one) = arrivals.join_next().await {
            arrived.push(one??);
        }
        arrived.sort_by_key(|(n, _)| *n);
        all.extend(arrived.into_iter().map(|(_, session)| session));
    }
    Ok(all)
}

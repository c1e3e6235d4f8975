//! `start_ms`: from the start of the program to the first CONNACK a device hears, wall time; the registry holds
//! that device and nothing else.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Bench, Row, TURNS,
    client::{self, Client},
    folder, median,
    peer::Mosquitto,
    server::{Fleet, Server},
};
use crate::process::Running;

/// How long a start may take.
const START: Duration = Duration::from_secs(60);
/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(20);
/// Between two knocks.
const KNOCK: Duration = Duration::from_micros(200);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let dir = folder(&bench.workspace.target)?;
    let fleet = Fleet::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    fleet.register(dir.path(), &runtime)?;
    let client = Client::device(&fleet.hierarchy, &fleet.devices[0])?;
    let mut serve = Server::command(bench, dir.path());
    let mqtt = free()?;
    serve.env("MUSTER_MQTT_LISTEN", mqtt.to_string());
    let (mut value, mut mosquitto) = (Vec::new(), Vec::new());
    // What the first start makes once, such as the file of the uplink log, is no part of a start.
    runtime.block_on(start(&serve, mqtt, &client))?;
    for _ in 0..TURNS {
        value.push(runtime.block_on(start(&serve, mqtt, &client))?);
        let mqtt = free()?;
        if let Some(command) = Mosquitto::command(dir.path(), &fleet, mqtt.port())? {
            mosquitto.push(runtime.block_on(start(&command, mqtt, &client))?);
        }
    }
    let row = Row::new("start_ms", "ms", median(value)?, None);
    Ok(vec![if mosquitto.is_empty() { row } else { row.peer("mosquitto", median(mosquitto)?) }])
}

/// An address nobody listens on.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

async fn start(command: &Command, to: SocketAddr, client: &Client) -> Result<f64> {
    let begin = Instant::now();
    let mut process = Running::start("the server", command, None)?;
    while tokio::net::TcpStream::connect(to).await.is_err() {
        ensure!(!process.ended() && begin.elapsed() < START, "no start: {}", process.log.tail(5));
        tokio::time::sleep(KNOCK).await;
    }
    let session = client.connect(to).await?;
    let took = begin.elapsed();
    client::leave(session).await;
    process.stop(STOP);
    Ok(took.as_secs_f64() * 1000.0)
}

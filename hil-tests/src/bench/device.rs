//! `device_connect_minsn`: million instructions on the board from the start of a connect to CONNACK.
//!
//! Under `-icount shift=0` an instruction takes a nanosecond of the board's own clock, and the board
//! measures how long its processor did not sleep: with every telemetry message it says so. The first sample
//! is taken right before the first connect, the second a period after it, the third another period later:
//! the first difference holds the connect and a period with one message, the second a period with one
//! message. What they differ in is the connect.
//!
//! There is no floor: the least is what the elliptic-curve operations take, and the image cannot run those
//! by themselves.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use muster_shared::{
    factory::Endpoint,
    telemetry::{TelemetryBatch, Value},
};
use tokio::{io::AsyncWriteExt, net::TcpListener, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{Bench, Row, client, median, tls};
use crate::workbench::{NOWHERE, Workbench};

/// Starts of the board.
const STARTS: usize = 3;
/// Seconds between two of its samples.
const PERIOD_S: u16 = 10;
/// How long a start may take: an emulated second may take several.
const PATIENCE: Duration = Duration::from_secs(240);

pub(super) fn measure(_: &Bench) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let mut desk = Workbench::new()?;
    let port = listener.local_addr()?.port();
    desk.endpoint = Endpoint { port, telemetry_s: PERIOD_S, retry_s_max: 1, ..NOWHERE };
    desk.provision(&mut desk.cable()?)?;
    desk.board.power_cut();
    let hierarchy = desk.hierarchy();
    let verifier = tls::chain_verifier(hierarchy)?;
    let acceptor = TlsAcceptor::from(tls::server_config(hierarchy, NOWHERE.server_name, verifier)?);
    desk.board.extra_arguments(&["-icount", "shift=0,sleep=on"]);
    let mut instructions = Vec::new();
    for _ in 0..STARTS {
        desk.board.power_on()?;
        let samples = runtime.block_on(async { timeout(PATIENCE, serve(&listener, &acceptor)).await });
        let [before, after, later] = samples.context("the board sends no telemetry")??;
        desk.board.power_cut();
        ensure!(before < after && after < later, "busy times {before}, {after}, {later} µs");
        instructions.push(((after - before) - (later - after)) as f64 / 1000.0);
    }
    Ok(vec![Row::new("device_connect_minsn", "Minsn", median(instructions)?, None)])
}

/// A broker for one board: the busy times of its first three samples since it was switched on, µs.
async fn serve(listener: &TcpListener, acceptor: &TlsAcceptor) -> Result<[i64; 3]> {
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        // A connection from before the power was cut ends in its handshake.
        let Ok(mut session) = acceptor.accept(tcp).await else { continue };
        let mut start = None;
        let mut samples = Vec::new();
        while samples.len() < 3 {
            let (kind, body) = client::read(&mut session).await?;
            match kind >> 4 {
                // CONNECT: CONNACK, no session, no properties.
                1 => session.write_all(&[0x20, 3, 0, 0, 0]).await?,
                // SUBSCRIBE: SUBACK, QoS 1, for as many filters as a device asks for.
                8 => session.write_all(&[0x90, 4, body[0], body[1], 0, 1]).await?,
                3 => {
                    let (topic, packet_id, payload) = published(&body)?;
                    session.write_all(&[0x40, 2, packet_id[0], packet_id[1]]).await?;
                    if topic.ends_with(b"/twin/reported") {
                        // What it runs, once a session.
                        session.flush().await?;
                        continue;
                    }
                    let batch = TelemetryBatch::read(payload)?;
                    // What an earlier start left in the outbox comes first, and once more before that.
                    if start != Some(batch.boot) {
                        start = Some(batch.boot);
                        samples.clear();
                    }
                    samples.push(busy(&batch)?);
                }
                12 => session.write_all(&[0xd0, 0]).await?,
                _ => bail!("a packet nobody expects here: {kind:02x}"),
            }
            session.flush().await?;
        }
        return samples.try_into().ok().context("three samples");
    }
}

/// Topic, packet id and payload of a QoS 1 PUBLISH.
fn published(body: &[u8]) -> Result<(&[u8], [u8; 2], &[u8])> {
    let (length, rest) = body.split_first_chunk::<2>().context("a PUBLISH without a topic")?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (topic, rest) = rest.split_at_checked(length).context("a topic cut short")?;
    let (packet_id, rest) = rest.split_first_chunk::<2>().context("a PUBLISH of QoS 0")?;
    // Properties shorter than 128 octets have a length of one.
    let (properties, rest) = rest.split_first().context("no properties")?;
    Ok((topic, *packet_id, rest.get(usize::from(*properties)..).context("properties cut short")?))
}

fn busy(batch: &TelemetryBatch) -> Result<i64> {
    let reading = batch.readings.iter().find(|reading| reading.sensor == "busy_us");
    match reading.map(|reading| &reading.value) {
        Some(Value::Int(us)) => Ok(*us),
        _ => bail!("the board does not say how busy it was"),
    }
}

//! `revoke_close_ms_p99` and `revoke_call_ms_p99`: from the answer of `POST /v1/devices/SERIAL/revoke`, and from
//! its call, to the end of the device's connection as the device sees it, wall time, with 9999 sessions live.
//! The answer waits for the connections to close: who sees it earlier counts as 0.
//!
//! `revoke_all_ms` and `revoke_all_call_ms`: the same for the call that revokes the batch of all the others, to
//! the last of their ends; the devices' own time for some 9700 ends, on the same processors, is in the second.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::{io::AsyncReadExt, time::timeout};

use super::{
    Bench, Row,
    api::Api,
    client::Session,
    quantile,
    rig::{Rig, arrive},
    server::BATCH,
};

/// Live sessions: one batch of devices.
const DEVICES: usize = 9999;
/// Revocations measured, one after the other.
const REVOKED: usize = 300;
/// How long a client may wait for its end.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let rig = Rig::new(bench, DEVICES)?;
    let clients = rig.clients()?;
    rig.runtime.block_on(async {
        let mut sessions = arrive(&clients, rig.server.mqtt).await?.into_iter();
        let mut api = Api::connect(&rig.server, &rig.fleet, rig.dir()).await?;
        let (mut late_ms, mut call_ms) = (Vec::new(), Vec::new());
        let single = rig.fleet.devices.iter().zip(sessions.by_ref()).take(REVOKED);
        for (device, session) in single {
            let end = tokio::spawn(end(session));
            let serial = device.identity().serial;
            let called = Instant::now();
            let answered = revoke(&mut api, "devices", serial.as_str()).await?;
            let ended = timeout(PATIENCE, end).await.context("a session does not end")??;
            late_ms.push(ms(ended.saturating_duration_since(answered)));
            call_ms.push(ms(ended.saturating_duration_since(called)));
        }
        let ends: Vec<_> = sessions.map(|session| tokio::spawn(end(session))).collect();
        let called = Instant::now();
        let answered = revoke(&mut api, "batches", BATCH).await?;
        let mut last = called;
        for end in ends {
            last = last.max(timeout(PATIENCE, end).await.context("a session does not end")??);
        }
        Ok(vec![
            Row::new("revoke_close_ms_p99", "ms", quantile(late_ms, 0.99)?, None),
            Row::new("revoke_call_ms_p99", "ms", quantile(call_ms, 0.99)?, None),
            Row::new("revoke_all_ms", "ms", ms(last.saturating_duration_since(answered)), None),
            Row::new("revoke_all_call_ms", "ms", ms(last - called), None),
        ])
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// When the session's stream ended.
async fn end(mut session: Session) -> Instant {
    let mut octets = [0; 256];
    // What comes before is the server's DISCONNECT; a reset is an end as well.
    while session.read(&mut octets).await.is_ok_and(|read| read > 0) {}
    Instant::now()
}

/// Revokes it, and says when the call returned.
async fn revoke(api: &mut Api, kind: &str, name: &str) -> Result<Instant> {
    let body =
        format!("{{\"reason\":\"measured\",\"reason_code\":\"keyCompromise\",\"confirm\":\"{name}\"}}");
    let answer = api.ask("POST", &format!("/v1/{kind}/{name}/revoke"), &body).await?;
    let answered = Instant::now();
    answer.good()?;
    Ok(answered)
}

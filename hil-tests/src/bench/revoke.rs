//! `revoke_close_ms_p99` and `revoke_call_ms_p99`: from the answer of `POST /v1/devices/SERIAL/revoke`, and from
//! its call, to the end of the device's connection as the device sees it, wall time, with 9999 sessions live.
//! The answer waits for the connections to close: who sees it earlier counts as 0.
//!
//! `revoke_all_ms` and `revoke_all_call_ms`: the same for the call that revokes the batch of all the others, to
//! the last of their ends; the devices' own time for some 9700 ends, on the same processors, is in the second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Bench, Row,
    client::Session,
    quantile,
    rig::{Rig, arrive},
    server::BATCH,
};

/// Live sessions: as many devices as one station may make.
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
        let mut api = Api::connect(&rig).await?;
        let (mut late_ms, mut call_ms) = (Vec::new(), Vec::new());
        let single = rig.fleet.devices.iter().zip(sessions.by_ref()).take(REVOKED);
        for (device, session) in single {
            let end = tokio::spawn(end(session));
            let serial = device.identity().serial;
            let called = Instant::now();
            let answered = api.revoke("devices", serial.as_str()).await?;
            let ended = timeout(PATIENCE, end).await.context("a session does not end")??;
            late_ms.push(ms(ended.saturating_duration_since(answered)));
            call_ms.push(ms(ended.saturating_duration_since(called)));
        }
        let ends: Vec<_> = sessions.map(|session| tokio::spawn(end(session))).collect();
        let called = Instant::now();
        let answered = api.revoke("batches", BATCH).await?;
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

/// The API, on one connection.
struct Api {
    stream: TlsStream<TcpStream>,
    token: String,
}

impl Api {
    async fn connect(rig: &Rig) -> Result<Self> {
        let data = rig.dir().join("data");
        let mut roots = RootCertStore::empty();
        roots.add(rig.fleet.hierarchy.https.certificate().der().to_vec().into())?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(rig.server.https).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::new(config));
        let stream = tls.connect(ServerName::try_from("localhost")?, tcp).await?;
        Ok(Self { stream, token: std::fs::read_to_string(data.join("token"))?.trim().to_owned() })
    }

    /// Revokes it, and says when the call returned.
    async fn revoke(&mut self, kind: &str, name: &str) -> Result<Instant> {
        let body =
            format!("{{\"reason\":\"measured\",\"reason_code\":\"keyCompromise\",\"confirm\":\"{name}\"}}");
        let path = format!("/v1/{kind}/{name}/revoke");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        let answer = timeout(PATIENCE, self.answer()).await.context("the API does not answer")??;
        let answered = Instant::now();
        ensure!(answer.starts_with("HTTP/1.1 200 "), "not revoked: {answer}");
        Ok(answered)
    }

    async fn answer(&mut self) -> Result<String> {
        let mut octets = Vec::new();
        loop {
            ensure!(self.stream.read_buf(&mut octets).await? > 0, "the API hung up");
            let text = String::from_utf8_lossy(&octets);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.context("an answer without a length")?.trim().parse()?;
            if body.len() >= length {
                return Ok(text.into_owned());
            }
        }
    }
}

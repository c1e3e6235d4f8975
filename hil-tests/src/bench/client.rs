//! Devices as a load: rustls and the few MQTT 5 packets a publisher needs.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use muster_pki::{
    hierarchy::Hierarchy,
    testing::{self, Credential},
};
use muster_shared::topic::{Kind, Topic};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A client's side: who it is, and whom it believes.
#[derive(Clone)]
pub(super) struct Client {
    tls: TlsConnector,
    client_id: String,
    /// Where a device's telemetry goes.
    pub(super) topic: String,
}

/// An open session.
pub(super) type Session = TlsStream<TcpStream>;

/// What a device's TLS offers: its suite, its curve, its certificate; resumption is nothing devices do.
pub(super) fn config(hierarchy: &Hierarchy, who: &Credential) -> Result<Arc<ClientConfig>> {
    let provider = rustls::crypto::CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::SECP256R1],
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(hierarchy.broker.certificate().der().to_vec()))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![who.chain[0].clone().into()],
            PrivateKeyDer::Pkcs8(who.key_pkcs8().into()),
        )?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

impl Client {
    pub(super) fn device(hierarchy: &Hierarchy, device: &Credential) -> Result<Self> {
        let name = device.identity();
        let topic = Topic::of(&name.tenant, &name.device_id, Kind::Telemetry { stream: "bench" });
        Ok(Self {
            tls: TlsConnector::from(config(hierarchy, device)?),
            client_id: name.device_id.to_string(),
            topic: topic.text().context("a device's topic is short")?.to_string(),
        })
    }

    /// A service, which publishes nothing.
    pub(super) fn service(hierarchy: &Hierarchy, name: &str, now_s: i64) -> Result<Self> {
        let who = testing::named(&hierarchy.service, name, now_s);
        let tls = TlsConnector::from(config(hierarchy, &who)?);
        Ok(Self { tls, client_id: name.to_owned(), topic: String::new() })
    }

    /// TCP, TLS, CONNECT, CONNACK.
    pub(super) async fn connect(&self, to: SocketAddr) -> Result<Session> {
        let tcp = TcpStream::connect(to).await?;
        tcp.set_nodelay(true)?;
        let mut session = self.tls.connect(ServerName::try_from("localhost")?, tcp).await?;
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 2, 1, 0x2c, 0];
        body.extend(text(&self.client_id));
        session.write_all(&packet(0x10, &body)).await?;
        let (kind, connack) = read(&mut session).await?;
        ensure!(kind == 0x20 && connack.get(1) == Some(&0), "refused: {connack:02x?}");
        Ok(session)
    }

    /// A QoS 1 PUBLISH.
    pub(super) fn publish(&self, packet_id: u16, payload: &[u8]) -> Vec<u8> {
        let mut body = text(&self.topic);
        body.extend(packet_id.to_be_bytes());
        body.push(0);
        body.extend_from_slice(payload);
        packet(0x32, &body)
    }
}

/// SUBSCRIBE at QoS 1.
pub(super) fn subscribe(filter: &str) -> Vec<u8> {
    packet(0x82, &[&[0, 1, 0], &*text(filter), &[1]].concat())
}

/// DISCONNECT, and the end of the stream on both sides: who comes back sooner takes its own session over.
pub(super) async fn leave(mut session: Session) {
    // A server that has hung up first has left as well.
    let _ = session.write_all(&[0xe0, 0]).await;
    let _ = session.shutdown().await;
    let mut rest = [0; 64];
    while session.read(&mut rest).await.is_ok_and(|read| read > 0) {}
}

/// Reads a packet: its first octet, and what follows the length. Cancelling it loses the stream.
pub(super) async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let octet = stream.read_u8().await?;
        length |= usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            return Ok((kind, body));
        }
    }
    bail!("a packet's length has more than four octets")
}

/// Packets of a stream, as many as a read brings.
pub(super) struct Packets<R> {
    pub(super) stream: R,
    buffer: Vec<u8>,
    at: usize,
}

impl<R: AsyncRead + Unpin> Packets<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::with_capacity(4096), at: 0 }
    }

    /// The next packet. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Result<(u8, &[u8])> {
        while here(&self.buffer[self.at..])?.is_none() {
            self.fill().await?;
        }
        self.buffered()?.context("a whole packet was there")
    }

    /// Reads once. Cancelling it loses nothing.
    pub(super) async fn fill(&mut self) -> Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the stream has ended");
        Ok(())
    }

    /// A packet that is here in full: its first octet, and what follows the length.
    pub(super) fn buffered(&mut self) -> Result<Option<(u8, &[u8])>> {
        let rest = &self.buffer[self.at..];
        let Some((head, length)) = here(rest)? else { return Ok(None) };
        self.at += head + length;
        Ok(Some((rest[0], &rest[head..head + length])))
    }
}

/// Octets of a packet's head and of what follows it, when all of it is here.
fn here(octets: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut length = 0;
    for at in 1..5 {
        let Some(octet) = octets.get(at) else { return Ok(None) };
        length |= usize::from(octet & 0x7f) << (7 * (at - 1));
        if octet & 0x80 == 0 {
            return Ok((octets.len() > at + length).then_some((at + 1, length)));
        }
    }
    bail!("a packet's length has more than four octets")
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("names and topics are short");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

/// A packet whose body is shorter than 16 kB.
fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("packets of this bench are short");
    let mut packet = vec![kind];
    if length < 128 {
        packet.push(length as u8);
    } else {
        packet.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
    }
    packet.extend_from_slice(body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_come_whole_however_they_are_cut() {
        let puback: &[u8] = &[0x40, 2, 0, 7];
        let long = packet(0x32, &[9; 300]);
        let octets = [puback, &long, puback].concat();
        for cut in 0..octets.len() {
            let (first, second) = octets.split_at(cut);
            let mut packets = Packets::new(first.chain(second));
            assert_eq!(packets.next().await.unwrap(), (0x40, &puback[2..]));
            assert_eq!(packets.next().await.unwrap(), (0x32, &[9; 300][..]));
            assert_eq!(packets.next().await.unwrap(), (0x40, &puback[2..]));
            assert!(packets.next().await.is_err(), "the stream has ended");
        }
    }
}

//! Devices as a load: rustls and the few MQTT 5 packets a publisher needs.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use muster_pki::testing::Credential;
use muster_shared::topic::{Kind, Topic};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::server::Fleet;

/// A device's side: who it is, and whom it believes.
#[derive(Clone)]
pub(super) struct Client {
    tls: TlsConnector,
    client_id: String,
    /// Where its telemetry goes.
    pub(super) topic: String,
}

/// An open session.
pub(super) type Session = TlsStream<TcpStream>;

/// What a device's TLS offers: its suite, its curve, its certificate; resumption is nothing devices do.
pub(super) fn config(fleet: &Fleet, device: &Credential) -> Result<Arc<ClientConfig>> {
    let provider = rustls::crypto::CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::SECP256R1],
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(fleet.hierarchy.broker.certificate().der().to_vec()))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![device.chain[0].clone().into()],
            PrivateKeyDer::Pkcs8(device.key_pkcs8().into()),
        )?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

impl Client {
    pub(super) fn new(fleet: &Fleet, device: &Credential) -> Result<Self> {
        let name = device.identity();
        let topic = Topic::of(&name.tenant, &name.device_id, Kind::Telemetry { stream: "bench" });
        Ok(Self {
            tls: TlsConnector::from(config(fleet, device)?),
            client_id: name.device_id.to_string(),
            topic: topic.text().context("a device's topic is short")?.to_string(),
        })
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

/// DISCONNECT, and the end of the stream.
pub(super) async fn leave(mut session: Session) {
    // A server that has hung up first has left as well.
    let _ = session.write_all(&[0xe0, 0]).await;
    let _ = session.shutdown().await;
}

/// Reads a packet: its first octet, and what follows the length. Cancelling it loses the stream.
pub(super) async fn read<R: tokio::io::AsyncRead + Unpin>(stream: &mut R) -> Result<(u8, Vec<u8>)> {
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

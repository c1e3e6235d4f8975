//! A client that says exactly the octets it is told to, over real TLS.

use std::{io, sync::Arc};

use muster_pki::testing::Credential;
use rustls::{
    AlertDescription, ClientConfig, HandshakeKind, RootCertStore,
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::site::{HIERARCHY, PATIENCE, Site};

pub(crate) const V3: u8 = 4;
pub(crate) const V5: u8 = 5;

pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
    pub(crate) version: u8,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// close_notify.
    Clean,
    /// A TLS alert.
    Alert(AlertDescription),
    /// Anything else.
    Broken(io::ErrorKind),
}

/// Shows whatever it is given: a client library that checks its own certificate would spare the server.
pub(crate) fn tls(chain: &[Vec<u8>], key_pkcs8: Vec<u8>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(HIERARCHY.broker.certificate().der())).unwrap();
    let provider = aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(key_pkcs8).into()).unwrap();
    let chain = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
    Arc::new(config)
}

pub(crate) fn tls_of(credential: &Credential) -> Arc<ClientConfig> {
    tls(&credential.chain[..1], credential.key_pkcs8())
}

impl Client {
    /// A TLS connection; nothing said yet.
    pub(crate) async fn open(site: &Site, config: Arc<ClientConfig>, version: u8) -> io::Result<Self> {
        Self::over(TcpStream::connect(site.addr).await?, config, version).await
    }

    /// The same over a TCP connection that is there already.
    pub(crate) async fn over(stream: TcpStream, config: Arc<ClientConfig>, version: u8) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream =
            timeout(PATIENCE, TlsConnector::from(config).connect(name, stream)).await.expect("in time")?;
        Ok(Self { stream, version })
    }

    /// Connected as this device, whatever CONNACK says.
    pub(crate) async fn connecting(site: &Site, credential: &Credential, version: u8) -> (Self, Vec<u8>) {
        let mut client = Self::open(site, tls_of(credential), version).await.unwrap();
        client.send(&connect(version, "")).await;
        let connack = client.packet().await.expect("CONNACK");
        assert_eq!(connack[0], 0x20);
        (client, connack)
    }

    /// Connected as this device, and let in.
    pub(crate) async fn connected(site: &Site, credential: &Credential, version: u8) -> Self {
        let (client, connack) = Self::connecting(site, credential, version).await;
        assert_eq!(connack[3], 0, "{connack:02x?}");
        client
    }

    /// Sends CONNECT; what CONNACK says, 0xff without one.
    pub(crate) async fn let_in(&mut self) -> u8 {
        self.send(&connect(self.version, "")).await;
        self.packet().await.map_or(0xff, |connack| connack[3])
    }

    /// The certificate the server showed.
    pub(crate) fn server_leaf(&self) -> Vec<u8> {
        self.stream.get_ref().1.peer_certificates().expect("verified")[0].to_vec()
    }

    /// How the handshake went: in full, or with a ticket.
    pub(crate) fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.stream.get_ref().1.handshake_kind()
    }

    /// Sends KeyUpdate, and asks for one (RFC 8446 §4.6.3).
    pub(crate) fn update_keys(&mut self) {
        self.stream.get_mut().1.refresh_traffic_keys().unwrap();
    }

    /// Breaks the connection without a goodbye.
    pub(crate) fn reset(self) {
        self.stream.get_ref().0.set_zero_linger().unwrap();
    }

    pub(crate) async fn send(&mut self, octets: &[u8]) {
        // A server that has closed is found by what is read.
        let _ = self.stream.write_all(octets).await;
        let _ = self.stream.flush().await;
    }

    /// The next packet, or how the connection ended.
    pub(crate) async fn packet(&mut self) -> Result<Vec<u8>, End> {
        let read = async {
            let mut packet = vec![self.stream.read_u8().await?];
            let mut len = 0;
            for shift in [0, 7, 14, 21] {
                let octet = self.stream.read_u8().await?;
                packet.push(octet);
                len |= usize::from(octet & 0x7f) << shift;
                if octet & 0x80 == 0 {
                    break;
                }
            }
            let head = packet.len();
            packet.resize(head + len, 0);
            self.stream.read_exact(&mut packet[head..]).await?;
            Ok(packet)
        };
        timeout(PATIENCE, read).await.expect("in time").map_err(|error| end(&error))
    }

    /// How the connection ends, with nothing said before.
    pub(crate) async fn end(&mut self) -> End {
        match self.packet().await {
            Err(end) => end,
            Ok(packet) => panic!("not an end: {packet:02x?}"),
        }
    }

    /// Publishes and waits for PUBACK; its reason code.
    pub(crate) async fn publish(&mut self, id: u16, topic: &str, payload: &[u8]) -> u8 {
        self.send(&publish(self.version, 1, id, topic, payload)).await;
        let puback = self.packet().await.expect("PUBACK");
        assert_eq!((puback[0], &puback[2..4]), (0x40, &id.to_be_bytes()[..]), "{puback:02x?}");
        puback.get(4).copied().unwrap_or(0)
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) -> u8 {
        let properties: &[u8] = if self.version == V5 { &[0] } else { &[] };
        self.send(&packet(0x82, &[&[0, 9], properties, &text(filter), &[1]])).await;
        let suback = self.packet().await.expect("SUBACK");
        assert_eq!(suback[0], 0x90);
        *suback.last().unwrap()
    }
}

pub(crate) fn end(error: &io::Error) -> End {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => End::Alert(*alert),
        None if error.kind() == io::ErrorKind::UnexpectedEof && error.get_ref().is_none() => End::Clean,
        _ if error.to_string() == "early eof" => End::Clean,
        _ => End::Broken(error.kind()),
    }
}

pub(crate) fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut out = vec![first];
    let mut len = body.len();
    loop {
        let octet = (len % 128) as u8;
        len /= 128;
        out.push(if len > 0 { octet | 0x80 } else { octet });
        if len == 0 {
            break;
        }
    }
    [out, body].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

pub(crate) fn connect(version: u8, client_id: &str) -> Vec<u8> {
    connect_with(version, 0b10, 60, &[&text(client_id)])
}

pub(crate) fn connect_with(version: u8, flags: u8, keep_alive_s: u16, rest: &[&[u8]]) -> Vec<u8> {
    let properties: &[u8] = if version == V5 { &[0] } else { &[] };
    let head = [&[0, 4][..], b"MQTT", &[version, flags], &keep_alive_s.to_be_bytes()].concat();
    packet(0x10, &[&head, properties, &rest.concat()])
}

pub(crate) fn publish(version: u8, qos: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let id: &[u8] = if qos == 0 { &[] } else { &id.to_be_bytes() };
    let properties: &[u8] = if version == V5 { &[0] } else { &[] };
    packet(0x30 | qos << 1, &[&text(topic), id, properties, payload])
}

/// The code in the reason string of a packet.
pub(crate) fn code_in(packet: &[u8]) -> Option<muster_shared::Code> {
    let words = String::from_utf8_lossy(packet);
    let at = words.rfind(" ").map_or(0, |_| words.find('M').unwrap_or(0));
    muster_shared::Code::from_reason(&words[at..])
}

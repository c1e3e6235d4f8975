//! A client of MQTT 5 that says exactly what it is told to, over TLS, and waits for the answer.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
};

use muster_pki::testing::Credential;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};

use crate::rig::{LIMIT, Server};

pub(crate) struct Client(StreamOwned<ClientConnection, TcpStream>);

fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let len = u8::try_from(body.len()).ok().filter(|len| *len < 0x80).expect("a short packet");
    [&[first, len], &body[..]].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

impl Client {
    /// A TLS connection of this device; nothing said yet.
    pub(crate) fn open(server: &Server, device: &Credential) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        let broker = server.place().hierarchy.broker.certificate().der();
        roots.add(CertificateDer::from(broker)).unwrap();
        let provider = aws_lc_rs::default_provider();
        let key = PrivatePkcs8KeyDer::from(device.key_pkcs8()).into();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let leaf = CertificateDer::from(device.chain[0].clone());
        let shown = SingleCertAndKey::from(CertifiedKey::new(vec![leaf], key));
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(shown));
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", server.mqtt_port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self(StreamOwned::new(connection, stream)))
    }

    /// The same, with a clean session; and the reason in CONNACK.
    pub(crate) fn connecting(server: &Server, device: &Credential) -> io::Result<(Self, u8)> {
        let mut client = Self::open(server, device)?;
        client.send(&packet(0x10, &[&[0, 4], b"MQTT", &[5, 0b10, 0, 0, 0, 0, 0]]))?;
        let connack = client.packet()?;
        assert_eq!(connack[0], 0x20, "{connack:02x?}");
        let reason = connack[3];
        Ok((client, reason))
    }

    /// Connected, and let in.
    #[track_caller]
    pub(crate) fn connected(server: &Server, device: &Credential) -> Self {
        let (client, reason) = Self::connecting(server, device).unwrap();
        assert_eq!(reason, 0);
        client
    }

    /// With a session that goes on for an hour, taking one message at a time; and whether it was there before.
    #[track_caller]
    pub(crate) fn lasting(server: &Server, device: &Credential) -> (Self, bool) {
        let mut client = Self::open(server, device).unwrap();
        let properties = [8, 0x11, 0, 0, 0x0e, 0x10, 0x21, 0, 1];
        client.send(&packet(0x10, &[&[0, 4], b"MQTT", &[5, 0, 0, 0], &properties, &[0, 0]])).unwrap();
        let connack = client.packet().unwrap();
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
        (client, connack[2] == 1)
    }

    /// Retained, at QoS 1.
    #[track_caller]
    pub(crate) fn keep(&mut self, topic: &str, payload: &str) {
        self.send(&packet(0x33, &[&text(topic), &[0, 1, 0], payload.as_bytes()])).unwrap();
        let answer = self.packet().unwrap();
        assert_eq!((answer[0], answer.get(4).copied().unwrap_or(0)), (0x40, 0), "{answer:02x?}");
    }

    /// At QoS 1.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filter: &str) {
        self.send(&packet(0x82, &[&[0, 1, 0], &text(filter), &[1]])).unwrap();
        let answer = self.packet().unwrap();
        assert_eq!((answer[0], answer.last()), (0x90, Some(&1)), "{answer:02x?}");
    }

    /// The payload of the next message at QoS 1, its packet identifier, and whether it comes again.
    #[track_caller]
    pub(crate) fn told(&mut self) -> (String, u16, bool) {
        let said = self.packet().unwrap();
        assert_eq!(said[0] & 0xf6, 0x32, "{said:02x?}");
        let id = 4 + usize::from(said[3]);
        let payload = String::from_utf8(said[id + 3..].to_vec()).unwrap();
        (payload, u16::from_be_bytes([said[id], said[id + 1]]), said[0] & 0x08 != 0)
    }

    /// PUBACK.
    pub(crate) fn acknowledge(&mut self, id: u16) {
        self.send(&packet(0x40, &[&id.to_be_bytes()])).unwrap();
    }

    pub(crate) fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.0.write_all(octets)?;
        self.0.flush()
    }

    pub(crate) fn packet(&mut self) -> io::Result<Vec<u8>> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let (mut len, mut packet) = (usize::from(head[1] & 0x7f), head.to_vec());
        if head[1] >= 0x80 {
            let mut more = [0];
            self.0.read_exact(&mut more)?;
            assert!(more[0] < 0x80, "a packet of more than 16 KiB");
            len |= usize::from(more[0]) << 7;
        }
        let at = packet.len();
        packet.resize(at + len, 0);
        self.0.read_exact(&mut packet[at..])?;
        Ok(packet)
    }

    /// Publishes at QoS 1. `Ok`: the reason in PUBACK; `Err`: the one in DISCONNECT, if there was one.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str) -> Result<u8, Option<u8>> {
        let sent = self.send(&packet(0x32, &[&text(topic), &[0, 1, 0], payload.as_bytes()]));
        let answer = sent.and_then(|()| self.packet()).map_err(|_| None)?;
        match answer[0] {
            0x40 => Ok(answer.get(4).copied().unwrap_or(0)),
            0xe0 => Err(Some(answer[2])),
            _ => panic!("{answer:02x?}"),
        }
    }

    /// PINGREQ is answered.
    #[track_caller]
    pub(crate) fn ping(&mut self) {
        self.send(&[0xc0, 0]).unwrap();
        assert_eq!(self.packet().unwrap(), [0xd0, 0]);
    }

    /// What the server says next of its own: the reason of its DISCONNECT.
    #[track_caller]
    pub(crate) fn disconnected(&mut self) -> u8 {
        let said = self.packet().unwrap();
        assert_eq!(said[0], 0xe0, "{said:02x?}");
        said[2]
    }
}

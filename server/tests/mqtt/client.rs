//! A client that says exactly the octets it is told to, over real TLS, and waits for everything with a bound.

use std::{collections::VecDeque, io, sync::Arc};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    packets::{
        self, Connect, DISCONNECT, PINGREQ, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Publish,
        SUBACK, UNSUBACK, V5, ack,
    },
    reading::{Message, Packet},
    site::PATIENCE,
};

/// Where [`Client::drain`] puts its mark. Nothing else is published there.
const MARK: &str = "muster-mark";

pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
    pub(crate) version: u8,
    id_last: u16,
    mark: String,
    /// Messages that came while an answer was waited for.
    inbox: VecDeque<Packet>,
}

impl Client {
    /// A TLS connection; nothing said yet.
    pub(crate) async fn open(port: u16, config: Arc<ClientConfig>, version: u8) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(config).connect(name, stream);
        let stream = timeout(PATIENCE, connecting).await.expect("in time")?;
        Ok(Self { stream, version, id_last: 0, mark: MARK.to_owned(), inbox: VecDeque::new() })
    }

    /// A client that may not publish on every topic puts its marks here.
    pub(crate) fn marks_at(&mut self, topic: &str) {
        topic.clone_into(&mut self.mark);
    }

    pub(crate) async fn send(&mut self, octets: impl AsRef<[u8]>) {
        // A server that has closed is found by what is read.
        let _ = self.stream.write_all(octets.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// Says CONNECT, whatever the answer.
    pub(crate) async fn connect(&mut self, connect: &Connect) -> Packet {
        self.send(connect.bytes()).await;
        self.packet().await.expect("CONNACK")
    }

    /// The next packet; `None` when the server has closed.
    pub(crate) async fn packet(&mut self) -> Option<Packet> {
        match self.inbox.pop_front() {
            Some(packet) => Some(packet),
            None => self.arrival().await,
        }
    }

    async fn arrival(&mut self) -> Option<Packet> {
        timeout(PATIENCE, self.read()).await.expect("in time").ok()
    }

    /// The answer of this kind. Messages may come first: they are the next packets then.
    async fn answer_of(&mut self, kind: u8) -> Packet {
        loop {
            let packet = self.arrival().await.unwrap_or_else(|| panic!("closed, not {kind:02x}"));
            if packet.kind() == kind & 0xf0 {
                return packet;
            }
            assert_eq!(packet.kind(), PUBLISH, "not {kind:02x}: {packet:02x?}");
            self.inbox.push_back(packet);
        }
    }

    async fn read(&mut self) -> io::Result<Packet> {
        let first = self.stream.read_u8().await?;
        let mut length = Vec::new();
        loop {
            let octet = self.stream.read_u8().await?;
            length.push(octet);
            if octet & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; crate::reading::varint(&length).0];
        self.stream.read_exact(&mut body).await?;
        Ok(Packet { version: self.version, first, length, body })
    }

    /// The next packet, of this kind.
    #[track_caller]
    pub(crate) fn expect(&mut self, kind: u8) -> impl Future<Output = Packet> {
        let caller = std::panic::Location::caller();
        async move {
            let packet = self.packet().await.unwrap_or_else(|| panic!("{caller}: closed, not {kind:02x}"));
            assert_eq!(packet.kind(), kind & 0xf0, "{caller}: {packet:02x?}");
            packet
        }
    }

    /// A packet identifier not used for a while.
    pub(crate) fn fresh_id(&mut self) -> u16 {
        self.id_last += 1;
        self.id_last
    }

    /// Subscribes; the code of SUBACK.
    pub(crate) async fn subscribe(&mut self, filter: impl AsRef<[u8]>, options: u8) -> u8 {
        self.subscribe_with(&[], &[(filter, options)]).await[0]
    }

    /// Subscribes to several, with properties; the codes of SUBACK.
    pub(crate) async fn subscribe_with<F: AsRef<[u8]>>(
        &mut self,
        with: &[u8],
        filters: &[(F, u8)],
    ) -> Vec<u8> {
        let id = self.fresh_id();
        self.send(packets::subscribe(self.version, id, with, filters)).await;
        let suback = self.expect(SUBACK).await;
        assert_eq!(suback.id(), id, "{suback:02x?}");
        suback.codes()
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) {
        let id = self.fresh_id();
        self.send(packets::unsubscribe(self.version, id, &[filter])).await;
        assert_eq!(self.expect(UNSUBACK).await.id(), id);
    }

    /// Publishes and waits for the whole exchange of its QoS; the reason code of PUBACK or PUBREC. At
    /// QoS 0 nothing says that it has come: what the same client does next is behind it.
    pub(crate) async fn publish(&mut self, publish: Publish) -> u8 {
        let publish = if publish.qos > 0 && publish.id == 0 { publish.id(self.fresh_id()) } else { publish };
        self.send(publish.bytes(self.version)).await;
        match publish.qos {
            0 => 0,
            1 => {
                let puback = self.answer_of(PUBACK).await;
                assert_eq!(puback.id(), publish.id);
                puback.reason()
            }
            _ => {
                let pubrec = self.answer_of(PUBREC).await;
                assert_eq!(pubrec.id(), publish.id);
                if pubrec.reason() < 0x80 {
                    self.send(ack(PUBREL, publish.id)).await;
                    assert_eq!(self.answer_of(PUBCOMP).await.id(), publish.id);
                }
                pubrec.reason()
            }
        }
    }

    /// Publishes at QoS 1 and has it acknowledged as stored.
    pub(crate) async fn say(&mut self, topic: &str, payload: impl AsRef<[u8]>) {
        let reason = self.publish(Publish::new(topic, payload).qos(1)).await;
        assert!(reason < 0x80, "{topic}: {reason:02x}");
    }

    /// The same, retained.
    pub(crate) async fn keep(&mut self, topic: &str, payload: impl AsRef<[u8]>) {
        let reason = self.publish(Publish::new(topic, payload).qos(1).retain()).await;
        assert!(reason < 0x80, "{topic}: {reason:02x}");
    }

    /// The next packet, which is a message; not answered.
    #[track_caller]
    pub(crate) fn message(&mut self) -> impl Future<Output = Message> {
        let packet = self.expect(PUBLISH);
        async move { packet.await.message() }
    }

    /// The next message, answered to the end.
    #[track_caller]
    pub(crate) fn take(&mut self) -> impl Future<Output = Message> {
        let caller = std::panic::Location::caller();
        async move {
            let packet = self.packet().await.unwrap_or_else(|| panic!("{caller}: closed, no message"));
            assert_eq!(packet.kind(), PUBLISH, "{caller}: {packet:02x?}");
            let message = packet.message();
            self.answer(&message).await;
            message
        }
    }

    /// Answers a message to the end of its exchange.
    pub(crate) async fn answer(&mut self, message: &Message) {
        match message.qos {
            0 => {}
            1 => self.send(ack(PUBACK, message.id)).await,
            _ => {
                self.send(ack(PUBREC, message.id)).await;
                assert_eq!(self.expect(PUBREL).await.id(), message.id);
                self.send(ack(PUBCOMP, message.id)).await;
            }
        }
    }

    /// Every message that is on its way, answered: all there is before a message of our own, which is
    /// behind everything that was acknowledged to anybody before. It takes the longest way there is: one of
    /// QoS 0 or 1 may come before one of QoS 2, whose identifier is stored first.
    pub(crate) async fn drain(&mut self) -> Vec<Message> {
        let mark = self.mark.clone();
        let (subscribe_id, publish_id) = (self.fresh_id(), self.fresh_id());
        self.send(packets::subscribe(self.version, subscribe_id, &[], &[(&mark, 2)])).await;
        let mark_payload = publish_id.to_be_bytes();
        let mut all = Vec::new();
        let (mut subscribed, mut published, mut marked, mut released) = (false, false, false, Vec::new());
        while !(subscribed && published && marked && released.is_empty()) {
            let packet = self.packet().await.expect("the server is there");
            match packet.kind() {
                SUBACK => {
                    assert!(packet.codes()[0] < 0x80, "no mark is to be had: {packet:02x?}");
                    subscribed = true;
                    let publish = Publish::new(&mark, mark_payload).qos(2).id(publish_id);
                    self.send(publish.bytes(self.version)).await;
                }
                PUBREC => {
                    assert!(packet.reason() < 0x80, "no mark is to be had: {packet:02x?}");
                    self.send(ack(PUBREL, publish_id)).await;
                }
                PUBCOMP => published = true,
                PUBLISH => {
                    let message = packet.message();
                    match message.qos {
                        0 => {}
                        1 => self.send(ack(PUBACK, message.id)).await,
                        _ => {
                            self.send(ack(PUBREC, message.id)).await;
                            released.push(message.id);
                        }
                    }
                    if message.topic == mark.as_bytes() {
                        marked |= message.payload == mark_payload;
                    } else {
                        all.push(message);
                    }
                }
                kind if kind == PUBREL & 0xf0 => {
                    self.send(ack(PUBCOMP, packet.id())).await;
                    released.retain(|id| *id != packet.id());
                }
                _ => panic!("not expected while draining: {packet:02x?}"),
            }
        }
        self.unsubscribe(&mark).await;
        all
    }

    /// The payloads of [`Client::drain`], as text.
    pub(crate) async fn heard(&mut self) -> Vec<String> {
        self.drain().await.iter().map(|message| message.says().to_owned()).collect()
    }

    pub(crate) async fn ping(&mut self) {
        self.send(PINGREQ).await;
        self.expect(PINGRESP).await;
    }

    /// Waits for the end of the connection; the reason of the server's DISCONNECT, if it said one. Nothing
    /// else may come before.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> impl Future<Output = Option<u8>> {
        let caller = std::panic::Location::caller();
        async move {
            let last = self.packet().await?;
            assert_eq!(last.kind(), DISCONNECT, "{caller}: neither a farewell nor an end: {last:02x?}");
            assert_eq!(self.packet().await, None, "{caller}: more after DISCONNECT");
            Some(last.reason())
        }
    }

    /// Closed for what the client did: with one of these reasons in MQTT 5, without a word in 3.1.1.
    #[track_caller]
    pub(crate) fn closed_for(&mut self, reasons: &[u8]) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let version = self.version;
            match self.closed().await {
                Some(reason) if version == V5 => {
                    assert!(reasons.contains(&reason), "{caller}: closed with {reason:02x}");
                }
                None if version != V5 => {}
                other => panic!("{caller}: version {version} closed with {other:02x?}"),
            }
        }
    }

    /// Leaves in order, and waits until the server has noticed.
    pub(crate) async fn disconnect(mut self) {
        self.send([DISCONNECT, 0]).await;
        assert_eq!(self.closed().await, None);
    }

    /// Breaks the connection without a goodbye.
    pub(crate) fn reset(self) {
        self.stream.get_ref().0.set_zero_linger().unwrap();
    }
}

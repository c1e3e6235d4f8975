//! A small MQTT 5 client, sans-IO: octets in, events out; calls in, octets out.
//!
//! One session a connection, always started clean: what must survive lives in the outbox, not in MQTT.
//! QoS 0 and 1, both ways. The server's receive maximum and maximum packet size are honoured; ours are
//! told to it. Whatever arrives malformed or out of place is an [`MqttError`], after which the connection
//! is closed; nothing panics.
//!
//! Section numbers are those of MQTT 5.0 (OASIS).

mod codec;

use muster_shared::{
    Code, continuity,
    limits::{CONTINUITY_MAX, TELEMETRY_MAX},
};

pub use self::codec::{Decoder, MqttError, PACKET_IN, Packet, Publish};
use self::codec::{Encoder, Properties};

/// Largest packet the client writes: telemetry with its topic, or an answer to a command.
pub const PACKET_OUT: usize = TELEMETRY_MAX + 320;
/// Publishes of ours that may wait for PUBACK together.
const IN_FLIGHT: usize = 4;
/// Publishes of QoS 1 the server may have open towards us: each is answered as it is read.
const RECEIVE_MAXIMUM: u16 = 4;
/// Octets of properties in CONNECT: with the longest token, and so few that their length takes one octet.
const PROPERTIES_MAX: u8 = 8 + 5 + (continuity::PROPERTY.len() + CONTINUITY_MAX) as u8;
const _: () = assert!(8 + 5 + continuity::PROPERTY.len() + CONTINUITY_MAX < 0x80);
/// Properties of a JSON document, with their length: Content Type (§3.3.2.3.9).
const JSON: &[u8] = b"\x13\x03\x00\x10application/json";
/// The server must answer CONNECT within this.
const CONNACK_MS: u64 = 15_000;
/// And a PINGREQ within this.
const PINGRESP_MS: u64 = 15_000;

/// Why the server does not take something, or us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What the reason string says, or what its reason code amounts to.
    pub code: Code,
    /// The reason code itself.
    pub reason: u8,
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The server took us.
    Accepted {
        /// The continuity token to show the next time, if it gave one that can be kept.
        continuity: Option<&'a str>,
    },
    /// The server ends it, in CONNACK or DISCONNECT.
    Closed(Refusal),
    /// Our subscription was granted, or not.
    Subscribed(Result<(), Refusal>),
    /// The publish of this packet id is settled.
    Acknowledged {
        /// As [`Client::publish`] gave it.
        id: u16,
        /// Taken, or why not.
        outcome: Result<(), Refusal>,
    },
    /// A message for us. Where `id` is there, [`Client::acknowledge`] is due.
    Message {
        /// Its topic.
        topic: &'a str,
        /// Its payload.
        payload: &'a [u8],
        /// Its packet id at QoS 1.
        id: Option<u16>,
    },
    /// Nothing to do.
    Quiet,
}

/// One session.
#[derive(Debug)]
pub struct Client {
    stage: Stage,
    keep_alive_ms: u64,
    last_sent_ms: u64,
    /// What we sent and the server has to answer, and until when.
    ping_answer_by_ms: Option<u64>,
    server: Server,
    next_id: u16,
    in_flight: [Option<u16>; IN_FLIGHT],
    subscribing: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// CONNECT is out.
    Opening {
        by_ms: u64,
    },
    Open,
    Over,
}

/// What the server can take (§3.2.2.3).
#[derive(Debug, Clone, Copy)]
struct Server {
    receive_maximum: u16,
    packet_max: u32,
    qos_max: u8,
}

impl Client {
    /// Opens a session: writes CONNECT into `out`, with the continuity token kept from the last one.
    ///
    /// # Errors
    /// [`MqttError::NoRoom`] when `out` is too small; [`MqttError::TooLong`] when the token is longer than
    /// [`CONTINUITY_MAX`] octets.
    pub fn open<'b>(
        client_id: &str,
        keep_alive_s: u16,
        token: Option<&str>,
        now_ms: u64,
        out: &'b mut [u8],
    ) -> Result<(Self, &'b [u8]), MqttError> {
        let mut packet = Encoder::new(out);
        packet.string("MQTT")?;
        // Version 5; clean start, no will, no user name (§3.1.2).
        packet.octets(&[5, 0x02])?;
        packet.u16(keep_alive_s)?;
        let property = token.map_or(0, |token| 1 + 2 + continuity::PROPERTY.len() + 2 + token.len());
        let length = u8::try_from(8 + property).ok().filter(|length| *length <= PROPERTIES_MAX);
        // Receive maximum, maximum packet size, no topic aliases.
        let [high, low] = RECEIVE_MAXIMUM.to_be_bytes();
        let [a, b, c, d] = (PACKET_IN as u32).to_be_bytes();
        packet.octets(&[length.ok_or(MqttError::TooLong)?, 0x21, high, low, 0x27, a, b, c, d])?;
        if let Some(token) = token {
            packet.octets(&[0x26])?;
            packet.string(continuity::PROPERTY)?;
            packet.string(token)?;
        }
        packet.string(client_id)?;
        let client = Self {
            stage: Stage::Opening { by_ms: now_ms + CONNACK_MS },
            keep_alive_ms: u64::from(keep_alive_s) * 1000,
            last_sent_ms: now_ms,
            ping_answer_by_ms: None,
            server: Server { receive_maximum: u16::MAX, packet_max: u32::MAX, qos_max: 2 },
            next_id: 1,
            in_flight: [None; IN_FLIGHT],
            subscribing: None,
        };
        Ok((client, packet.finish(0x10)?))
    }

    /// Subscribes to `filters` at QoS 1.
    ///
    /// # Errors
    /// [`MqttError::OutOfPlace`] while the session is not open or another subscription is under way.
    pub fn subscribe<'b>(
        &mut self,
        filters: &[&str],
        now_ms: u64,
        out: &'b mut [u8],
    ) -> Result<&'b [u8], MqttError> {
        if self.stage != Stage::Open || self.subscribing.is_some() {
            return Err(MqttError::OutOfPlace);
        }
        let id = self.fresh_id();
        let mut packet = Encoder::new(out);
        packet.u16(id)?;
        packet.octets(&[0])?;
        for filter in filters {
            packet.string(filter)?;
            // QoS 1, no local echo, retained messages as they are (§3.8.3.1).
            packet.octets(&[0x01 | 0x04])?;
        }
        let octets = packet.finish(0x82)?;
        self.subscribing = Some(id);
        self.last_sent_ms = now_ms;
        Ok(octets)
    }

    /// Whether another [`Client::publish`] is allowed now (§4.9).
    #[must_use]
    pub fn has_room(&self) -> bool {
        let open = self.in_flight.iter().flatten().count();
        self.stage == Stage::Open && open < IN_FLIGHT.min(usize::from(self.server.receive_maximum))
    }

    /// Publishes at QoS 1; the id returned comes back in [`Event::Acknowledged`].
    ///
    /// # Errors
    /// [`MqttError::OutOfPlace`] without [`Client::has_room`], [`MqttError::TooLong`] when the server takes
    /// no packet of that size.
    pub fn publish<'b>(
        &mut self,
        topic: &str,
        payload: &[u8],
        now_ms: u64,
        out: &'b mut [u8],
    ) -> Result<(u16, &'b [u8]), MqttError> {
        self.publish_as((0x32, &[0]), topic, payload, now_ms, out)
    }

    /// The same with a JSON document, for the server to keep for who subscribes later (§3.3.1.3).
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub fn publish_kept<'b>(
        &mut self,
        topic: &str,
        document: &[u8],
        now_ms: u64,
        out: &'b mut [u8],
    ) -> Result<(u16, &'b [u8]), MqttError> {
        self.publish_as((0x33, JSON), topic, document, now_ms, out)
    }

    /// Under this first octet and with these properties.
    fn publish_as<'b>(
        &mut self,
        (first, properties): (u8, &[u8]),
        topic: &str,
        payload: &[u8],
        now_ms: u64,
        out: &'b mut [u8],
    ) -> Result<(u16, &'b [u8]), MqttError> {
        if !self.has_room() {
            return Err(MqttError::OutOfPlace);
        }
        let id = self.fresh_id();
        let mut packet = Encoder::new(out);
        packet.string(topic)?;
        packet.u16(id)?;
        packet.octets(properties)?;
        packet.octets(payload)?;
        let octets = packet.finish(first)?;
        if self.server.qos_max < 1 {
            return Err(MqttError::OutOfPlace);
        }
        if octets.len() as u64 > u64::from(self.server.packet_max) {
            return Err(MqttError::TooLong);
        }
        let place = self.in_flight.iter_mut().find(|place| place.is_none()).ok_or(MqttError::OutOfPlace)?;
        *place = Some(id);
        self.last_sent_ms = now_ms;
        Ok((id, octets))
    }

    /// PUBACK for a message that came with this id.
    ///
    /// # Errors
    /// [`MqttError::NoRoom`] when `out` is too small.
    pub fn acknowledge<'b>(
        &mut self,
        id: u16,
        now_ms: u64,
        out: &'b mut [u8],
    ) -> Result<&'b [u8], MqttError> {
        let mut packet = Encoder::new(out);
        packet.u16(id)?;
        self.last_sent_ms = now_ms;
        packet.finish(0x40)
    }

    /// DISCONNECT, normally. Nothing may follow it.
    ///
    /// # Errors
    /// [`MqttError::NoRoom`] when `out` is too small.
    pub fn close<'b>(&mut self, out: &'b mut [u8]) -> Result<&'b [u8], MqttError> {
        self.stage = Stage::Over;
        Encoder::new(out).finish(0xe0)
    }

    /// When [`Client::tick`] is next due.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        match self.stage {
            Stage::Opening { by_ms } => by_ms,
            Stage::Open => {
                let ping = match self.keep_alive_ms {
                    0 => u64::MAX,
                    // Early enough for the packet to arrive within the interval (§3.1.2.10).
                    ms => self.last_sent_ms.saturating_add(ms / 4 * 3),
                };
                self.ping_answer_by_ms.unwrap_or(ping)
            }
            Stage::Over => u64::MAX,
        }
    }

    /// Lets time pass: writes a PINGREQ when one is due.
    ///
    /// # Errors
    /// [`MqttError::Silent`] when the server owes an answer for too long.
    pub fn tick<'b>(&mut self, now_ms: u64, out: &'b mut [u8]) -> Result<Option<&'b [u8]>, MqttError> {
        if now_ms < self.due_ms() {
            return Ok(None);
        }
        match self.stage {
            Stage::Open if self.ping_answer_by_ms.is_none() => {
                self.ping_answer_by_ms = Some(now_ms + PINGRESP_MS);
                self.last_sent_ms = now_ms;
                Encoder::new(out).finish(0xc0).map(Some)
            }
            _ => Err(MqttError::Silent),
        }
    }

    /// Takes one whole packet.
    ///
    /// # Errors
    /// [`MqttError`]; the connection is to be closed.
    pub fn receive<'a>(&mut self, packet: &'a [u8]) -> Result<Event<'a>, MqttError> {
        let packet = Packet::read(packet)?;
        match (self.stage, packet) {
            (Stage::Opening { .. }, Packet::ConnAck { session_present, reason, properties }) => {
                self.connack(session_present, reason, &properties)
            }
            (Stage::Open, Packet::Publish(Publish { topic, payload, id, .. })) => {
                Ok(Event::Message { topic, payload, id })
            }
            (Stage::Open, Packet::PubAck { id, reason, properties }) => {
                let place = self.in_flight.iter_mut().find(|place| **place == Some(id));
                *place.ok_or(MqttError::OutOfPlace)? = None;
                Ok(Event::Acknowledged { id, outcome: outcome(reason, &properties) })
            }
            (Stage::Open, Packet::SubAck { id, reasons, properties }) => {
                if self.subscribing.take() != Some(id) || reasons.is_empty() {
                    return Err(MqttError::OutOfPlace);
                }
                let refused = reasons.iter().find(|&&reason| reason >= 0x80);
                Ok(Event::Subscribed(outcome(refused.copied().unwrap_or(0), &properties)))
            }
            (Stage::Open, Packet::PingResp) => {
                self.ping_answer_by_ms = None;
                Ok(Event::Quiet)
            }
            (Stage::Open, Packet::Disconnect { reason, properties }) => {
                self.stage = Stage::Over;
                Ok(Event::Closed(refusal(reason, &properties)))
            }
            _ => Err(MqttError::OutOfPlace),
        }
    }

    fn connack<'a>(
        &mut self,
        session_present: bool,
        reason: u8,
        properties: &Properties<'a>,
    ) -> Result<Event<'a>, MqttError> {
        if reason >= 0x80 {
            self.stage = Stage::Over;
            return Ok(Event::Closed(refusal(reason, properties)));
        }
        // A clean start has no session to be present (§3.2.2.1.1).
        if session_present || reason != 0 {
            return Err(MqttError::Malformed);
        }
        self.server = Server {
            receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
            packet_max: properties.packet_max.unwrap_or(u32::MAX),
            qos_max: properties.qos_max.unwrap_or(2),
        };
        if let Some(seconds) = properties.server_keep_alive {
            self.keep_alive_ms = u64::from(seconds) * 1000;
        }
        self.stage = Stage::Open;
        // One that cannot be kept is not taken: the one before is shown again, which the server allows for.
        let fits = |token: &&str| (1..=CONTINUITY_MAX).contains(&token.len());
        Ok(Event::Accepted { continuity: properties.continuity.filter(fits) })
    }

    fn fresh_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains(&Some(id)) && self.subscribing != Some(id) {
                return id;
            }
        }
    }
}

fn outcome(reason: u8, properties: &Properties<'_>) -> Result<(), Refusal> {
    match reason {
        0..0x80 => Ok(()),
        // On a publish or a subscription, "not authorized" speaks of its topic (§3.4.2.1, §3.9.3).
        0x87 => Err(Refusal { code: named(properties).unwrap_or(Code::TopicNotIts), reason }),
        _ => Err(refusal(reason, properties)),
    }
}

/// The code in the reason string. One that a device does not know how to meet is as good as none.
fn named(properties: &Properties<'_>) -> Option<Code> {
    let code = properties.reason_string.and_then(Code::from_reason);
    code.filter(|code| code.entry().device.is_some())
}

/// The code in the reason string, or else what the reason code amounts to.
fn refusal(reason: u8, properties: &Properties<'_>) -> Refusal {
    let code = named(properties).unwrap_or(match reason {
        0x80 | 0x83 => Code::NotStored,
        0x81 => Code::PacketMalformed,
        0x82 => Code::PacketOutOfPlace,
        0x85 => Code::ClientIdForeign,
        0x88 | 0x89 => Code::ServerBusy,
        0x8a => Code::CertificateRevoked,
        0x8b | 0x9c | 0x9d => Code::ServerStopping,
        0x8d => Code::KeepAliveTimeout,
        0x8e => Code::SessionTakenOver,
        0x8f | 0x90 => Code::TopicNotIts,
        0x93 | 0x96 | 0x97 | 0x9f => Code::TooManyMessages,
        0x95 => Code::PacketTooLarge,
        0x98 => Code::Disconnected,
        0x00..=0x7f => Code::ConnectionLost,
        _ => Code::RefusedNoReason,
    });
    Refusal { code, reason }
}

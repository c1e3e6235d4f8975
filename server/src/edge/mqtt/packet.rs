//! What a client's packets say, for both versions: fields borrowed from the octets they came in, every
//! form the specification forbids refused.

mod connect;
mod filters;

use serde::{Deserialize, Serialize};

pub use self::{
    connect::{Connect, ConnectFault, Will},
    filters::{Filter, Filters, Options, RetainHandling},
};
use super::{
    codec::{Fault, Frame, Kind, Reader, Reason},
    property::{Place, Properties},
};
use crate::edge::roster::Protocol;

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of MQTT 5.0 §4.3")]
#[repr(u8)]
pub enum Qos {
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl Qos {
    /// Of its number, 0 to 2.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Self::of(bits).ok()
    }

    fn of(bits: u8) -> Result<Self, Fault> {
        match bits {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(Fault::malformed("QoS 3")),
        }
    }
}

/// PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where to; empty where a topic alias stands for it. Not looked into yet.
    pub topic: &'a str,
    /// How.
    pub qos: Qos,
    /// To be retained.
    pub retain: bool,
    /// 0 at QoS 0.
    pub id: u16,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
    /// What.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Of the packet that is answered.
    pub id: u16,
    /// Always success in 3.1.1.
    pub reason: Reason,
}

/// DISCONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect {
    /// Always success in 3.1.1.
    pub reason: Reason,
    /// The session expiry interval it leaves with, seconds, where it says one.
    pub expiry_s: Option<u32>,
}

/// A packet of a client that has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of MQTT 5.0 §2.1.2")]
pub enum Packet<'a> {
    Publish(Publish<'a>),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Filters<'a>),
    Unsubscribe(Filters<'a>),
    PingReq,
    Disconnect(Disconnect),
}

/// A topic name is not empty and has no wildcard [MQTT-3.3.2-2], [MQTT-4.7.3-1].
fn name(topic: &str) -> Result<(), Fault> {
    if topic.is_empty() || topic.contains(['+', '#']) {
        return Err(Fault {
            reason: Reason::TOPIC_NAME_INVALID,
            what: "topic name is empty or has a wildcard",
        });
    }
    Ok(())
}

fn properties<'a>(
    protocol: Protocol,
    reader: &mut Reader<'a>,
    place: Place,
) -> Result<Properties<'a>, Fault> {
    match protocol {
        Protocol::V3 => Ok(Properties::default()),
        Protocol::V5 => Properties::read(reader, place),
    }
}

impl<'a> Packet<'a> {
    /// Reads a packet of a client that has connected.
    ///
    /// # Errors
    /// [`Fault`]; a second CONNECT [MQTT-3.1.0-2] and a server's packet are protocol errors.
    pub fn read(frame: &Frame<'a>, protocol: Protocol) -> Result<Self, Fault> {
        if protocol == Protocol::V5 && !frame.minimal {
            return Err(Fault::malformed("remaining length is longer than it need be"));
        }
        let mut reader = Reader(frame.body);
        let packet = match frame.kind {
            Kind::Publish => return Publish::read(frame.flags, reader, protocol).map(Self::Publish),
            Kind::Subscribe => return Filters::read(reader, protocol, false).map(Self::Subscribe),
            Kind::Unsubscribe => return Filters::read(reader, protocol, true).map(Self::Unsubscribe),
            Kind::PubAck => Self::PubAck(Ack::read(frame.kind, &mut reader, protocol)?),
            Kind::PubRec => Self::PubRec(Ack::read(frame.kind, &mut reader, protocol)?),
            Kind::PubRel => Self::PubRel(Ack::read(frame.kind, &mut reader, protocol)?),
            Kind::PubComp => Self::PubComp(Ack::read(frame.kind, &mut reader, protocol)?),
            Kind::PingReq => Self::PingReq,
            Kind::Disconnect => Self::Disconnect(Disconnect::read(&mut reader, protocol)?),
            Kind::Connect => return Err(Fault::protocol("second CONNECT")),
            Kind::Auth if protocol == Protocol::V3 => {
                return Err(Fault::malformed("packet type 15 is reserved"));
            }
            // No authentication method was agreed on (MQTT 5.0 §4.12).
            Kind::Auth => return Err(Fault::protocol("AUTH without an authentication method")),
            Kind::ConnAck | Kind::SubAck | Kind::UnsubAck | Kind::PingResp => {
                return Err(Fault::protocol("packet is a server's"));
            }
        };
        reader.end()?;
        Ok(packet)
    }
}

impl<'a> Publish<'a> {
    fn read(flags: u8, mut reader: Reader<'a>, protocol: Protocol) -> Result<Self, Fault> {
        let qos = Qos::of(flags >> 1 & 0b11)?; // [MQTT-3.3.1-4]
        let retain = flags & 0b0001 != 0;
        if flags & 0b1000 != 0 && qos == Qos::AtMostOnce {
            return Err(Fault::malformed("DUP at QoS 0")); // [MQTT-3.3.1-2]
        }
        let topic = reader.string()?;
        let id = if qos == Qos::AtMostOnce { 0 } else { reader.packet_id()? };
        let properties = properties(protocol, &mut reader, Place::In(Kind::Publish))?;
        if properties.subscription_id.is_some() {
            return Err(Fault::protocol("subscription identifier in a client's PUBLISH")); // [MQTT-3.3.4-6]
        }
        match properties.topic_alias {
            // MQTT 5.0 §3.3.2.1
            None if topic.is_empty() => return Err(Fault::protocol("neither topic name nor topic alias")),
            None => name(topic)?,
            // [MQTT-3.3.2-8]
            Some(0) => {
                return Err(Fault { reason: Reason::TOPIC_ALIAS_INVALID, what: "topic alias out of range" });
            }
            Some(_) if topic.is_empty() => {}
            Some(_) => name(topic)?,
        }
        if let Some(response) = properties.response_topic {
            name(response)?; // [MQTT-3.3.2-14]
        }
        if properties.utf8 && std::str::from_utf8(reader.0).is_err() {
            let what = "payload is not the UTF-8 it claims to be";
            return Err(Fault { reason: Reason::PAYLOAD_FORMAT_INVALID, what });
        }
        Ok(Self { topic, qos, retain, id, properties, payload: reader.0 })
    }
}

impl Ack {
    fn read(kind: Kind, reader: &mut Reader<'_>, protocol: Protocol) -> Result<Self, Fault> {
        let id = reader.packet_id()?;
        if protocol == Protocol::V3 || reader.is_empty() {
            return Ok(Self { id, reason: Reason::SUCCESS });
        }
        let reason = reader.u8()?;
        let known: &[u8] = match kind {
            Kind::PubRel | Kind::PubComp => &[0x00, 0x92],
            _ => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        };
        if !known.contains(&reason) {
            return Err(Fault::protocol("reason code is not one of this packet's")); // [MQTT-3.4.2-1]
        }
        if !reader.is_empty() {
            Properties::read(reader, Place::In(kind))?;
        }
        Ok(Self { id, reason: Reason(reason) })
    }
}

impl Disconnect {
    fn read(reader: &mut Reader<'_>, protocol: Protocol) -> Result<Self, Fault> {
        let mut read = Self { reason: Reason::SUCCESS, expiry_s: None };
        if protocol == Protocol::V3 || reader.is_empty() {
            return Ok(read);
        }
        let reason = reader.u8()?;
        // What a client may say (MQTT 5.0 table 3-10).
        if !matches!(reason, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99) {
            // [MQTT-3.14.2-1]
            return Err(Fault::protocol("reason code is not one of a client's DISCONNECT"));
        }
        read.reason = Reason(reason);
        if !reader.is_empty() {
            read.expiry_s = Properties::read(reader, Place::In(Kind::Disconnect))?.session_expiry_s;
        }
        Ok(read)
    }
}

//! What a client's packets say, for both versions: fields borrowed from the octets they came in, every
//! form the specification forbids refused.

use super::{
    codec::{Fault, Frame, Kind, Reader, Reason},
    property::{Place, Properties},
};
use crate::edge::{
    limits::{CLIENT_ID_MAX, FILTERS_PER_PACKET_MAX, WILL_MAX},
    roster::Protocol,
};

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of MQTT 5.0 §4.3")]
#[repr(u8)]
pub enum Qos {
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl Qos {
    fn of(bits: u8) -> Result<Self, Fault> {
        match bits {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(Fault::malformed("QoS 3")),
        }
    }
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version asked for.
    pub protocol: Protocol,
    /// Clean Start, Clean Session in 3.1.1.
    pub clean: bool,
    /// Keep-alive, seconds; 0: none.
    pub keep_alive_s: u16,
    /// May be empty.
    pub client_id: &'a str,
    /// What is published when the session ends by itself.
    pub will: Option<Will<'a>>,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
}

/// A will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where to.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// How.
    pub qos: Qos,
    /// To be retained.
    pub retain: bool,
    /// Empty in 3.1.1.
    pub properties: Properties<'a>,
}

/// A CONNECT that is refused for its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectFault {
    /// The version to answer in; `None`: close without an answer.
    pub answer: Option<Protocol>,
    /// What is wrong.
    pub fault: Fault,
}

/// PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where to; not looked into yet.
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

/// SUBSCRIBE or UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filters<'a> {
    /// The packet identifier.
    pub id: u16,
    /// Of SUBSCRIBE in MQTT 5.
    pub subscription_id: Option<u32>,
    left: Reader<'a>,
    form: Form,
}

/// One filter and how it is asked for; UNSUBSCRIBE asks with the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter<'a> {
    /// The filter; not looked into yet.
    pub filter: &'a str,
    /// At most this QoS.
    pub qos: Qos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Subscribe(Protocol),
    Unsubscribe,
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
    /// With its reason code; always 0x00 in 3.1.1.
    Disconnect(Reason),
}

impl<'a> Connect<'a> {
    /// Reads the first packet of a connection.
    ///
    /// # Errors
    /// [`ConnectFault`]; it says in which version to answer, if at all.
    pub fn read(frame: &Frame<'a>) -> Result<Self, ConnectFault> {
        if frame.kind != Kind::Connect {
            let fault = Fault::protocol("first packet is not CONNECT"); // [MQTT-3.1.0-1]
            return Err(ConnectFault { answer: None, fault });
        }
        let mut reader = Reader(frame.body);
        let (protocol, answer) = version(&mut reader)?;
        let connect = match protocol {
            Protocol::V5 if !frame.minimal => {
                Err(Fault::malformed("remaining length is longer than it need be"))
            }
            _ => Self::read_rest(protocol, reader),
        };
        connect.map_err(|fault| ConnectFault { answer, fault })
    }

    fn read_rest(protocol: Protocol, mut reader: Reader<'a>) -> Result<Self, Fault> {
        let flags = reader.u8()?;
        if flags & 0b0000_0001 != 0 {
            return Err(Fault::malformed("reserved flag of CONNECT")); // [MQTT-3.1.2-3]
        }
        let keep_alive_s = reader.u16()?;
        let properties = properties(protocol, &mut reader, Place::In(Kind::Connect))?;
        let client_id = reader.string()?;
        if client_id.len() > CLIENT_ID_MAX {
            return Err(Fault { reason: Reason::CLIENT_IDENTIFIER_NOT_VALID, what: "client id is too long" });
        }
        let will = will(protocol, flags, &mut reader)?;
        let (user, password) = (flags & 0b1000_0000 != 0, flags & 0b0100_0000 != 0);
        if protocol == Protocol::V3 && password && !user {
            return Err(Fault::malformed("password without user name")); // 3.1.1 [MQTT-3.1.2-22]
        }
        // Identity comes from the certificate alone; these are read for their form and not kept.
        if user {
            reader.string()?;
        }
        if password {
            reader.binary()?;
        }
        reader.end()?;
        let clean = flags & 0b0000_0010 != 0;
        Ok(Self { protocol, clean, keep_alive_s, client_id, will, properties })
    }
}

/// Protocol name and level, and in which version to answer what is wrong behind them.
fn version(reader: &mut Reader<'_>) -> Result<(Protocol, Option<Protocol>), ConnectFault> {
    let mut read = || -> Result<_, Fault> { Ok((reader.string()?, reader.u8()?)) };
    let (name, level) = read().map_err(|fault| ConnectFault { answer: None, fault })?;
    let unsupported = |answer| {
        let fault = Fault {
            reason: Reason::UNSUPPORTED_PROTOCOL_VERSION,
            what: "protocol is neither MQTT 3.1.1 nor MQTT 5.0",
        };
        Err(ConnectFault { answer, fault })
    };
    match (name, level) {
        // 3.1.1 has no answer for a malformed CONNECT but to close.
        ("MQTT", 4) => Ok((Protocol::V3, None)),
        ("MQTT", 5) => Ok((Protocol::V5, Some(Protocol::V5))),
        ("MQTT", 6..) => unsupported(Some(Protocol::V5)),
        ("MQTT" | "MQIsdp", _) => unsupported(Some(Protocol::V3)),
        _ => unsupported(None),
    }
}

fn will<'a>(protocol: Protocol, flags: u8, reader: &mut Reader<'a>) -> Result<Option<Will<'a>>, Fault> {
    let qos = Qos::of(flags >> 3 & 0b11)?;
    let retain = flags & 0b0010_0000 != 0;
    if flags & 0b0000_0100 == 0 {
        // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
        return match (qos, retain) {
            (Qos::AtMostOnce, false) => Ok(None),
            _ => Err(Fault::malformed("will flags without a will")),
        };
    }
    let before = reader.0.len();
    let properties = properties(protocol, reader, Place::Will)?;
    let topic = reader.string()?;
    let payload = reader.binary()?;
    if before - reader.0.len() > WILL_MAX {
        return Err(Fault { reason: Reason::PACKET_TOO_LARGE, what: "will is larger than the limit" });
    }
    name(topic)?;
    Ok(Some(Will { topic, payload, qos, retain, properties }))
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
            Kind::Subscribe => return filters(reader, protocol, false).map(Self::Subscribe),
            Kind::Unsubscribe => return filters(reader, protocol, true).map(Self::Unsubscribe),
            Kind::PubAck => Self::PubAck(Ack::read(frame.kind, &mut reader, protocol)?),
            Kind::PubRec => Self::PubRec(Ack::read(frame.kind, &mut reader, protocol)?),
            Kind::PubRel => Self::PubRel(Ack::read(frame.kind, &mut reader, protocol)?),
            Kind::PubComp => Self::PubComp(Ack::read(frame.kind, &mut reader, protocol)?),
            Kind::PingReq => Self::PingReq,
            Kind::Disconnect => Self::Disconnect(disconnect(&mut reader, protocol)?),
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
        if properties.topic_alias.is_some() {
            // The Topic Alias Maximum of our CONNACK is 0 [MQTT-3.3.2-9].
            return Err(Fault { reason: Reason::TOPIC_ALIAS_INVALID, what: "topic alias above the maximum" });
        }
        name(topic)?;
        if let Some(response) = properties.response_topic {
            name(response)?; // [MQTT-3.3.2-14]
        }
        if properties.utf8 && std::str::from_utf8(reader.0).is_err() {
            return Err(Fault { reason: Reason(0x99), what: "payload is not the UTF-8 it claims to be" });
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

fn disconnect(reader: &mut Reader<'_>, protocol: Protocol) -> Result<Reason, Fault> {
    if protocol == Protocol::V3 || reader.is_empty() {
        return Ok(Reason::SUCCESS);
    }
    let reason = reader.u8()?;
    // What a client may say (MQTT 5.0 table 3-10).
    if !matches!(reason, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99) {
        return Err(Fault::protocol("reason code is not one of a client's DISCONNECT")); // [MQTT-3.14.2-1]
    }
    if !reader.is_empty() {
        let properties = Properties::read(reader, Place::In(Kind::Disconnect))?;
        // The session expiry of every session here is 0, and may not be raised from it (§3.14.2.2.2).
        if properties.session_expiry_s.is_some_and(|expiry| expiry != 0) {
            return Err(Fault::protocol("session expiry raised from 0"));
        }
    }
    Ok(Reason(reason))
}

fn filters<'a>(mut reader: Reader<'a>, protocol: Protocol, unsubscribe: bool) -> Result<Filters<'a>, Fault> {
    let id = reader.packet_id()?;
    let (kind, form) = match unsubscribe {
        true => (Kind::Unsubscribe, Form::Unsubscribe),
        false => (Kind::Subscribe, Form::Subscribe(protocol)),
    };
    let subscription_id = properties(protocol, &mut reader, Place::In(kind))?.subscription_id;
    if reader.is_empty() {
        return Err(Fault::protocol("no filter")); // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
    }
    let all = Filters { id, subscription_id, left: reader, form };
    let mut rest = all;
    let mut count = 0;
    while rest.step()?.is_some() {
        count += 1;
        if count > FILTERS_PER_PACKET_MAX {
            return Err(Fault { reason: Reason::QUOTA_EXCEEDED, what: "more filters than the limit" });
        }
    }
    Ok(all)
}

impl<'a> Filters<'a> {
    fn step(&mut self) -> Result<Option<Filter<'a>>, Fault> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let filter = self.left.string()?;
        let Form::Subscribe(protocol) = self.form else {
            return Ok(Some(Filter { filter, qos: Qos::AtMostOnce }));
        };
        let options = self.left.u8()?;
        let reserved = match protocol {
            Protocol::V3 => 0b1111_1100,
            Protocol::V5 => 0b1100_0000,
        };
        if options & reserved != 0 {
            return Err(Fault::malformed("reserved bits of the subscription options")); // [MQTT-3.8.3-5]
        }
        if options >> 4 & 0b11 == 3 {
            return Err(Fault::protocol("retain handling 3"));
        }
        if options & 0b100 != 0 && filter.starts_with("$share/") {
            return Err(Fault::protocol("no-local on a shared subscription")); // [MQTT-3.8.3-4]
        }
        Ok(Some(Filter { filter, qos: Qos::of(options & 0b11)? }))
    }
}

impl<'a> Iterator for Filters<'a> {
    type Item = Filter<'a>;
    /// The packet was read to its end once, so every step succeeds.
    fn next(&mut self) -> Option<Filter<'a>> {
        self.step().ok().flatten()
    }
}

//! CONNECT: what a client says of itself before anything else.

use super::{Qos, name, properties};
use crate::edge::{
    limits::CLIENT_ID_MAX,
    mqtt::{
        codec::{Fault, Frame, Kind, Reader, Reason},
        property::{Place, Properties},
    },
    roster::Protocol,
};

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

    /// How long the session is to go on without a connection, seconds. Absent is 0 (MQTT 5.0 §3.1.2.11.2); a
    /// session of 3.1.1 that is not clean goes on until one that is (3.1.1 §3.1.2.4).
    #[must_use]
    pub fn expiry_s(&self) -> u32 {
        match self.protocol {
            Protocol::V5 => self.properties.session_expiry_s.unwrap_or(0),
            Protocol::V3 if self.clean => 0,
            Protocol::V3 => u32::MAX,
        }
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

impl Will<'_> {
    /// Octets of what is kept of it.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.raw.len()
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
    let properties = properties(protocol, reader, Place::Will)?;
    let topic = reader.string()?;
    let payload = reader.binary()?;
    name(topic)?;
    if let Some(response) = properties.response_topic {
        name(response)?; // [MQTT-3.3.2-14]
    }
    if properties.utf8 && std::str::from_utf8(payload).is_err() {
        let what = "will is not the UTF-8 it claims to be";
        return Err(Fault { reason: Reason::PAYLOAD_FORMAT_INVALID, what });
    }
    Ok(Some(Will { topic, payload, qos, retain, properties }))
}

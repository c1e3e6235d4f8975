//! Packets as the server wrote them, taken apart without the server's own code.

use crate::packets::{PUBLISH, V5, p};

/// A packet from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) version: u8,
    pub(crate) first: u8,
    /// The remaining length as it was written.
    pub(crate) length: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// A PUBLISH from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    /// 0 at QoS 0, where there is none.
    pub(crate) id: u16,
    pub(crate) properties: Properties,
}

/// Properties in the order they came: identifier and value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Properties(pub(crate) Vec<(u8, Vec<u8>)>);

impl Packet {
    /// The first octet without its flags.
    pub(crate) fn kind(&self) -> u8 {
        self.first & 0xf0
    }

    /// Octets of the whole packet.
    pub(crate) fn len(&self) -> usize {
        1 + self.length.len() + self.body.len()
    }

    /// The packet identifier of an answer.
    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// The reason code of CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP or DISCONNECT; success where none is
    /// written.
    pub(crate) fn reason(&self) -> u8 {
        let at = match self.kind() {
            0x20 => 1,
            0x40..=0x70 => 2,
            0xe0 => 0,
            other => panic!("no reason code in a packet {other:02x}"),
        };
        self.body.get(at).copied().unwrap_or(0)
    }

    /// Session present, of CONNACK.
    pub(crate) fn session_present(&self) -> bool {
        self.body[0] & 1 == 1
    }

    /// Properties of any answer.
    pub(crate) fn properties(&self) -> Properties {
        if self.version != V5 {
            return Properties::default();
        }
        let at = match self.kind() {
            0x20 => 2,
            0x40..=0x70 => 3,
            0x90 | 0xb0 => 2,
            0xe0 => 1,
            other => panic!("no properties are read from a packet {other:02x}"),
        };
        match self.body.get(at..) {
            None | Some([]) => Properties::default(),
            Some(rest) => Properties::read(rest).0,
        }
    }

    /// The codes of SUBACK or UNSUBACK.
    pub(crate) fn codes(&self) -> Vec<u8> {
        let rest = &self.body[2..];
        if self.version == V5 { Properties::read(rest).1.to_vec() } else { rest.to_vec() }
    }

    /// A PUBLISH, taken apart.
    pub(crate) fn message(&self) -> Message {
        assert_eq!(self.kind(), PUBLISH, "{self:02x?}");
        let qos = self.first >> 1 & 3;
        let topic_len = usize::from(self.id());
        let (topic, mut rest) = self.body[2..].split_at(topic_len);
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let (properties, payload) =
            if self.version == V5 { Properties::read(rest) } else { (Properties::default(), rest) };
        Message {
            topic: topic.to_vec(),
            payload: payload.to_vec(),
            qos,
            dup: self.first & 8 != 0,
            retain: self.first & 1 != 0,
            id,
            properties,
        }
    }
}

impl Message {
    pub(crate) fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).unwrap()
    }

    /// What it carries, as text.
    pub(crate) fn says(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

impl Properties {
    /// Reads properties with their length; what is behind them comes along.
    pub(crate) fn read(octets: &[u8]) -> (Self, &[u8]) {
        let (len, rest) = varint(octets);
        let (mut properties, behind) = rest.split_at(len);
        let mut all = Vec::new();
        while let [id, rest @ ..] = properties {
            let len = match *id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
                0x13 | 0x21 | 0x22 | 0x23 => 2,
                0x02 | 0x11 | 0x18 | 0x27 => 4,
                0x0b => rest.len() - varint(rest).1.len(),
                0x26 => {
                    let key = field(rest);
                    key + field(&rest[key..])
                }
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => field(rest),
                other => panic!("no such property: {other:02x}"),
            };
            all.push((*id, rest[..len].to_vec()));
            properties = &rest[len..];
        }
        (Self(all), behind)
    }

    /// The value of the only property with this identifier.
    pub(crate) fn get(&self, id: u8) -> Option<&[u8]> {
        let mut all = self.0.iter().filter(|(of, _)| *of == id);
        let one = all.next();
        assert_eq!(all.next(), None, "a property twice: {self:02x?}");
        one.map(|(_, value)| value.as_slice())
    }

    /// A number of one, two or four octets.
    pub(crate) fn number(&self, id: u8) -> Option<u32> {
        self.get(id).map(|octets| octets.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet)))
    }

    /// A string or binary value without its length.
    pub(crate) fn text(&self, id: u8) -> Option<&[u8]> {
        self.get(id).map(|octets| &octets[2..])
    }

    /// Subscription identifiers, sorted.
    pub(crate) fn subscriptions(&self) -> Vec<usize> {
        let of = |(_, value): &(u8, Vec<u8>)| varint(value).0;
        let mut ids: Vec<_> = self.0.iter().filter(|(id, _)| *id == p::SUBSCRIPTION_ID).map(of).collect();
        ids.sort_unstable();
        ids
    }

    /// User properties in order: key and value.
    pub(crate) fn user(&self) -> Vec<(String, String)> {
        let all = self.0.iter().filter(|(id, _)| *id == p::USER);
        all.map(|(_, value)| {
            let key = field(value);
            let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
            (text(&value[2..key]), text(&value[key + 2..]))
        })
        .collect()
    }
}

/// Octets of a field with its length.
fn field(octets: &[u8]) -> usize {
    2 + usize::from(u16::from_be_bytes([octets[0], octets[1]]))
}

/// A variable byte integer, and what is behind it.
pub(crate) fn varint(octets: &[u8]) -> (usize, &[u8]) {
    let mut value = 0;
    for (at, octet) in octets.iter().enumerate() {
        value |= usize::from(octet & 0x7f) << (7 * at);
        if octet & 0x80 == 0 {
            return (value, &octets[at + 1..]);
        }
    }
    panic!("an unfinished number: {octets:02x?}")
}

//! Octets to packets' frames and fields, for both versions of MQTT. Reads what is whole, says what is
//! missing, refuses what is wrong with the reason code the specification has for it. No input panics.

use std::fmt;

use muster_shared::Code;

/// An MQTT 5 reason code (MQTT 5.0 §2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u8);

#[allow(missing_docs, reason = "the names are those of MQTT 5.0 §2.4")]
impl Reason {
    pub const SUCCESS: Self = Self(0x00);
    pub const DISCONNECT_WITH_WILL: Self = Self(0x04);
    pub const NO_SUBSCRIPTION_EXISTED: Self = Self(0x11);
    pub const UNSPECIFIED_ERROR: Self = Self(0x80);
    pub const MALFORMED_PACKET: Self = Self(0x81);
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    pub const UNSUPPORTED_PROTOCOL_VERSION: Self = Self(0x84);
    pub const CLIENT_IDENTIFIER_NOT_VALID: Self = Self(0x85);
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    pub const BAD_AUTHENTICATION_METHOD: Self = Self(0x8C);
    pub const TOPIC_FILTER_INVALID: Self = Self(0x8F);
    pub const TOPIC_NAME_INVALID: Self = Self(0x90);
    pub const PACKET_IDENTIFIER_IN_USE: Self = Self(0x91);
    pub const PACKET_IDENTIFIER_NOT_FOUND: Self = Self(0x92);
    pub const RECEIVE_MAXIMUM_EXCEEDED: Self = Self(0x93);
    pub const TOPIC_ALIAS_INVALID: Self = Self(0x94);
    pub const PACKET_TOO_LARGE: Self = Self(0x95);
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    pub const PAYLOAD_FORMAT_INVALID: Self = Self(0x99);
    pub const SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: Self = Self(0x9E);
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reason(0x{:02x})", self.0)
    }
}

/// What is wrong with a packet; always the end of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (reason 0x{:02x})", reason.0)]
pub struct Fault {
    /// The reason code for DISCONNECT or CONNACK.
    pub reason: Reason,
    /// What is wrong, for the log.
    pub what: &'static str,
}

impl Fault {
    /// A packet that cannot be parsed as the specification says (MQTT 5.0 §1.2).
    pub(super) const fn malformed(what: &'static str) -> Self {
        Self { reason: Reason::MALFORMED_PACKET, what }
    }

    /// A packet that can be parsed and is not allowed there (MQTT 5.0 §1.2).
    pub(super) const fn protocol(what: &'static str) -> Self {
        Self { reason: Reason::PROTOCOL_ERROR, what }
    }

    /// Our code for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self.reason {
            Reason::MALFORMED_PACKET => Code::PacketMalformed,
            Reason::PACKET_TOO_LARGE => Code::PacketTooLarge,
            Reason::UNSUPPORTED_PROTOCOL_VERSION => Code::ProtocolUnsupported,
            Reason::NOT_AUTHORIZED => Code::TopicNotIts,
            Reason::RECEIVE_MAXIMUM_EXCEEDED => Code::ReceiveMaximumExceeded,
            _ => Code::PacketOutOfPlace,
        }
    }
}

/// The type of a control packet (MQTT 5.0 §2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of MQTT 5.0 §2.1.2")]
#[repr(u8)]
pub enum Kind {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl Kind {
    fn of(first: u8) -> Result<Self, Fault> {
        Ok(match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return Err(Fault::malformed("packet type 0 is reserved")),
        })
    }

    /// The flags a fixed header must have [MQTT-2.1.3-1]; PUBLISH alone chooses.
    fn flags(self) -> Option<u8> {
        match self {
            Self::Publish => None,
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => Some(0b0010),
            _ => Some(0),
        }
    }
}

/// One whole control packet, not looked into yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: Kind,
    /// The low four bits of its first octet.
    pub flags: u8,
    /// Variable header and payload.
    pub body: &'a [u8],
    /// Octets of the whole packet.
    pub len: usize,
    /// Was the remaining length written in as few octets as possible? MQTT 5 demands it [MQTT-1.5.5-1].
    pub minimal: bool,
}

/// The packet at the start of `bytes`; `None` while it is not whole. What can be refused is refused from
/// the first octets on, before the rest has arrived: a packet of more than `max` octets, for one.
///
/// # Errors
/// [`Fault`]: the connection cannot go on.
pub fn frame(bytes: &[u8], max: usize) -> Result<Option<Frame<'_>>, Fault> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let kind = Kind::of(first)?;
    let flags = first & 0x0f;
    if kind.flags().is_some_and(|must| must != flags) {
        return Err(Fault::malformed("reserved flags of the fixed header"));
    }
    let Some((remaining, width)) = varint(rest)? else { return Ok(None) };
    let head = 1 + width;
    let len = head + remaining as usize;
    if len > max {
        return Err(Fault { reason: Reason::PACKET_TOO_LARGE, what: "packet is larger than the limit" });
    }
    let minimal = width == varint_len(remaining);
    Ok(bytes.get(head..len).map(|body| Frame { kind, flags, body, len, minimal }))
}

/// A variable byte integer (MQTT 5.0 §1.5.5) and the octets it took; `None` while it is not whole.
fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Fault> {
    let mut value = 0;
    for (at, &octet) in bytes.iter().take(4).enumerate() {
        value |= u32::from(octet & 0x7f) << (7 * at);
        if octet & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Fault::malformed("variable byte integer of five octets")) }
}

/// Octets a variable byte integer takes.
pub(super) const fn varint_len(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Reads fields off the front of a packet's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) =
            self.0.split_at_checked(len).ok_or(Fault::malformed("field is longer than its packet"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        let (&octet, rest) = self.0.split_first().ok_or(Fault::malformed("packet ends early"))?;
        self.0 = rest;
        Ok(octet)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        let (octets, rest) = self.0.split_first_chunk().ok_or(Fault::malformed("packet ends early"))?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*octets))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        let (octets, rest) = self.0.split_first_chunk().ok_or(Fault::malformed("packet ends early"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*octets))
    }

    /// A packet identifier, which is never 0 [MQTT-2.2.1-3].
    pub(super) fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(Fault::protocol("packet identifier is 0")),
            id => Ok(id),
        }
    }

    pub(super) fn varint(&mut self) -> Result<u32, Fault> {
        let (value, width) = varint(self.0)?.ok_or(Fault::malformed("packet ends early"))?;
        if width != varint_len(value) {
            return Err(Fault::malformed("variable byte integer is longer than it need be"));
        }
        self.take(width)?;
        Ok(value)
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// A UTF-8 string: well-formed, surrogates excluded [MQTT-1.5.4-1], no NUL [MQTT-1.5.4-2].
    pub(super) fn string(&mut self) -> Result<&'a str, Fault> {
        let text =
            std::str::from_utf8(self.binary()?).map_err(|_| Fault::malformed("string is not UTF-8"))?;
        if text.as_bytes().contains(&0) {
            return Err(Fault::malformed("string has a NUL"));
        }
        Ok(text)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.is_empty() { Ok(()) } else { Err(Fault::malformed("octets after the end of the packet")) }
    }
}

/// Writes fields to the end of a buffer.
pub(super) trait Write {
    fn put_varint(&mut self, value: u32);
    fn put_string(&mut self, text: &str);
}

impl Write for Vec<u8> {
    fn put_varint(&mut self, mut value: u32) {
        loop {
            let octet = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                return self.push(octet);
            }
            self.push(octet | 0x80);
        }
    }

    /// Texts written here are our own or were read as strings before: they fit 65 535 octets.
    fn put_string(&mut self, text: &str) {
        let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
        self.extend_from_slice(&(text.len() as u16).to_be_bytes());
        self.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_is_known_by_its_first_octets() {
        assert_eq!(frame(&[], 100), Ok(None));
        assert_eq!(frame(&[0xc0], 100), Ok(None));
        assert!(matches!(frame(&[0xc0, 0, 9], 100), Ok(Some(Frame { kind: Kind::PingReq, len: 2, .. }))));
        assert_eq!(frame(&[0x00], 100).map_err(|f| f.reason), Err(Reason::MALFORMED_PACKET));
        for first in [0x11, 0x21, 0x41, 0x60, 0x80, 0x82 | 1, 0xa0, 0xc1, 0xe8, 0xf1] {
            assert_eq!(
                frame(&[first], 100).map_err(|f| f.reason),
                Err(Reason::MALFORMED_PACKET),
                "{first:02x}"
            );
        }
    }

    #[test]
    fn a_packet_above_the_limit_is_refused_by_its_length_alone() {
        assert_eq!(
            frame(&[0x30, 0xff, 0xff, 0xff, 0x7f], 64 * 1024).map_err(|f| f.code()),
            Err(Code::PacketTooLarge)
        );
        assert_eq!(frame(&[0x30, 98], 100), Ok(None));
        assert_eq!(frame(&[0x30, 99], 100).map_err(|f| f.reason), Err(Reason::PACKET_TOO_LARGE));
    }

    #[test]
    fn a_length_of_five_octets_is_malformed() {
        assert_eq!(
            frame(&[0x30, 0x80, 0x80, 0x80, 0x80], usize::MAX).map_err(|f| f.reason),
            Err(Reason::MALFORMED_PACKET)
        );
        assert_eq!(frame(&[0x30, 0x80, 0x80, 0x80], usize::MAX), Ok(None));
    }

    #[test]
    fn a_length_longer_than_need_be_is_noticed() {
        assert!(matches!(frame(&[0xc0, 0x80, 0x00], 100), Ok(Some(Frame { minimal: false, len: 3, .. }))));
        assert!(Reader(&[0x80, 0x00]).varint().is_err());
    }

    #[test]
    fn strings_are_utf8_without_nul() {
        assert!(Reader(&[0, 2, b'a', 0]).string().is_err());
        assert!(Reader(&[0, 3, 0xed, 0xa0, 0x80]).string().is_err(), "a surrogate");
        assert!(Reader(&[0, 2, 0xc0, 0x80]).string().is_err(), "an overlong form");
        assert!(Reader(&[0, 5, b'a']).string().is_err());
        assert!(matches!(Reader(&[0, 3, 0xef, 0xbb, 0xbf]).string(), Ok("\u{feff}")), "[MQTT-1.5.4-3]");
    }

    proptest! {
        #[test]
        fn integers_read_back(value in 0u32..268_435_456) {
            let mut out = Vec::new();
            out.put_varint(value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn any_octets_give_a_frame_inside_them_or_none(bytes in prop::collection::vec(any::<u8>(), 0..64), max in 0usize..128) {
            if let Ok(Some(frame)) = frame(&bytes, max) {
                prop_assert!(frame.len <= bytes.len() && frame.len <= max);
                prop_assert!(bytes[..frame.len].ends_with(frame.body));
            }
        }
    }
}

//! MQTT 5 properties (MQTT 5.0 §2.2.2): read once, checked against what the packet may carry.

use super::codec::{Fault, Kind, Reader};
use crate::edge::limits::PROPERTIES_MAX;

/// The properties of one packet, checked. What the server does not use stays in the raw octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a> {
    /// As they came, without the length before them.
    pub raw: &'a [u8],
    /// Payload Format Indicator: the payload is UTF-8.
    pub utf8: bool,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// Response Topic.
    pub response_topic: Option<&'a str>,
    /// Message Expiry Interval, seconds.
    pub message_expiry_s: Option<u32>,
    /// Will Delay Interval, seconds.
    pub will_delay_s: Option<u32>,
    /// Subscription Identifier.
    pub subscription_id: Option<u32>,
    /// Session Expiry Interval, seconds.
    pub session_expiry_s: Option<u32>,
    /// Authentication Method.
    pub auth_method: Option<&'a str>,
    /// Request Problem Information.
    pub problem_info: Option<bool>,
    /// Request Response Information.
    pub response_info: bool,
    /// Receive Maximum.
    pub receive_max: Option<u16>,
    /// Topic Alias Maximum.
    pub topic_alias_max: Option<u16>,
    /// The first user property of the name [`CONTINUITY`].
    pub continuity: Option<&'a str>,
    /// Topic Alias.
    pub topic_alias: Option<u16>,
    /// Maximum Packet Size, octets.
    pub packet_max: Option<u32>,
}

/// The user property of CONNECT and CONNACK that carries the continuity token.
pub const CONTINUITY: &str = muster_shared::continuity::PROPERTY;

/// Where properties stand: a will has its own, inside CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    In(Kind),
    Will,
}

const PAYLOAD_FORMAT: u8 = 0x01;
const MESSAGE_EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;
pub(super) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(super) const SESSION_EXPIRY: u8 = 0x11;
pub(super) const ASSIGNED_CLIENT_ID: u8 = 0x12;
const AUTH_METHOD: u8 = 0x15;
const AUTH_DATA: u8 = 0x16;
const PROBLEM_INFO: u8 = 0x17;
pub(super) const WILL_DELAY: u8 = 0x18;
const RESPONSE_INFO_ASKED: u8 = 0x19;
pub(super) const RESPONSE_INFO: u8 = 0x1A;
pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(super) const REASON_STRING: u8 = 0x1F;
pub(super) const RECEIVE_MAX: u8 = 0x21;
pub(super) const TOPIC_ALIAS_MAX: u8 = 0x22;
pub(super) const TOPIC_ALIAS: u8 = 0x23;
#[cfg(test)]
const QOS_MAX: u8 = 0x24;
pub(super) const USER: u8 = 0x26;
pub(super) const PACKET_MAX: u8 = 0x27;
pub(super) const SHARED_AVAILABLE: u8 = 0x2A;

/// The identifiers a client's packet may carry (MQTT 5.0 table 2-4), as bits.
const fn allowed(place: Place) -> u64 {
    const MESSAGE: u64 =
        bits(&[PAYLOAD_FORMAT, MESSAGE_EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION_DATA, USER]);
    match place {
        Place::In(Kind::Connect) => bits(&[
            SESSION_EXPIRY,
            AUTH_METHOD,
            AUTH_DATA,
            PROBLEM_INFO,
            RESPONSE_INFO_ASKED,
            RECEIVE_MAX,
            TOPIC_ALIAS_MAX,
            USER,
            PACKET_MAX,
        ]),
        Place::Will => MESSAGE | bits(&[WILL_DELAY]),
        // A subscription identifier is the server's to send [MQTT-3.3.4-6]; it is read, and refused by name.
        Place::In(Kind::Publish) => MESSAGE | bits(&[TOPIC_ALIAS, SUBSCRIPTION_ID]),
        Place::In(Kind::PubAck | Kind::PubRec | Kind::PubRel | Kind::PubComp) => bits(&[REASON_STRING, USER]),
        Place::In(Kind::Subscribe) => bits(&[SUBSCRIPTION_ID, USER]),
        Place::In(Kind::Unsubscribe) => bits(&[USER]),
        Place::In(Kind::Disconnect) => bits(&[SESSION_EXPIRY, REASON_STRING, USER]),
        Place::In(Kind::Auth) => bits(&[AUTH_METHOD, AUTH_DATA, REASON_STRING, USER]),
        Place::In(Kind::ConnAck | Kind::SubAck | Kind::UnsubAck | Kind::PingReq | Kind::PingResp) => 0,
    }
}

const fn bits(ids: &[u8]) -> u64 {
    let mut all = 0;
    let mut at = 0;
    while at < ids.len() {
        all |= 1 << ids[at];
        at += 1;
    }
    all
}

impl<'a> Properties<'a> {
    /// Reads the properties at the front of `reader`, with the length before them.
    ///
    /// # Errors
    /// An identifier the packet may not carry or a value of another type is malformed (MQTT 5.0
    /// §2.2.2.2); one given twice, or a value that is out of its range, is a protocol error.
    pub(super) fn read(reader: &mut Reader<'a>, place: Place) -> Result<Self, Fault> {
        let len = reader.varint()?;
        let raw = reader.take(len as usize)?;
        let mut found = Self { raw, ..Self::default() };
        let mut left = Reader(raw);
        let (mut seen, mut count) = (0u64, 0);
        while !left.is_empty() {
            count += 1;
            if count > PROPERTIES_MAX {
                return Err(Fault::protocol("more properties than the limit"));
            }
            // All identifiers fit one octet, and a longer form of them is malformed.
            let id = left.u8()?;
            if id >= 64 || allowed(place) & (1 << id) == 0 {
                return Err(Fault::malformed("property is not one of this packet's"));
            }
            if id != USER && seen & (1 << id) != 0 {
                return Err(Fault::protocol("property is given twice"));
            }
            seen |= 1 << id;
            found.take(id, &mut left)?;
        }
        if seen & (1 << AUTH_DATA) != 0 && found.auth_method.is_none() {
            return Err(Fault::protocol("authentication data without a method"));
        }
        Ok(found)
    }

    fn take(&mut self, id: u8, from: &mut Reader<'a>) -> Result<(), Fault> {
        match id {
            PAYLOAD_FORMAT => self.utf8 = bool(from)?,
            MESSAGE_EXPIRY => self.message_expiry_s = Some(from.u32()?),
            WILL_DELAY => self.will_delay_s = Some(from.u32()?),
            CONTENT_TYPE => self.content_type = Some(from.string()?),
            RESPONSE_TOPIC => self.response_topic = Some(from.string()?),
            CORRELATION_DATA | AUTH_DATA => {
                from.binary()?;
            }
            SUBSCRIPTION_ID => match from.varint()? {
                0 => return Err(Fault::protocol("subscription identifier is 0")),
                id => self.subscription_id = Some(id),
            },
            SESSION_EXPIRY => self.session_expiry_s = Some(from.u32()?),
            AUTH_METHOD => self.auth_method = Some(from.string()?),
            PROBLEM_INFO => self.problem_info = Some(bool(from)?),
            RESPONSE_INFO_ASKED => self.response_info = bool(from)?,
            REASON_STRING => {
                from.string()?;
            }
            RECEIVE_MAX => match from.u16()? {
                0 => return Err(Fault::protocol("receive maximum is 0")),
                max => self.receive_max = Some(max),
            },
            TOPIC_ALIAS_MAX => self.topic_alias_max = Some(from.u16()?),
            TOPIC_ALIAS => self.topic_alias = Some(from.u16()?),
            USER => {
                let (name, value) = (from.string()?, from.string()?);
                if name == CONTINUITY {
                    self.continuity.get_or_insert(value);
                }
            }
            PACKET_MAX => match from.u32()? {
                0 => return Err(Fault::protocol("maximum packet size is 0")),
                max => self.packet_max = Some(max),
            },
            _ => return Err(Fault::malformed("property is not one of this packet's")),
        }
        Ok(())
    }
}

/// The properties of a message as they came, one by one: identifier, and all octets with it. Ends at the
/// first that cannot be read; none that was read once before is such.
struct Each<'a>(Reader<'a>);

impl<'a> Iterator for Each<'a> {
    type Item = (u8, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let whole = self.0.0;
        let id = self.0.u8().ok()?;
        Properties::default().take(id, &mut self.0).ok()?;
        Some((id, &whole[..whole.len() - self.0.0.len()]))
    }
}

/// A message's properties as they came, but for `unwanted`.
pub(super) fn without(raw: &[u8], unwanted: u8) -> Vec<u8> {
    Each(Reader(raw)).filter(|(id, _)| *id != unwanted).flat_map(|(_, octets)| octets).copied().collect()
}

/// The message expiry interval among a message's properties, seconds.
pub(super) fn expiry_s(raw: &[u8]) -> Option<u32> {
    let (_, octets) = Each(Reader(raw)).find(|(id, _)| *id == MESSAGE_EXPIRY)?;
    octets[1..].first_chunk().map(|octets| u32::from_be_bytes(*octets))
}

/// Writes a message's properties for one who subscribed to it: all of them, unaltered and in order
/// [MQTT-3.3.2-4], [MQTT-3.3.2-17], [MQTT-3.3.2-18]; the expiry less what it waited [MQTT-3.3.2-6].
pub(super) fn write_aged(out: &mut Vec<u8>, raw: &[u8], waited_s: u32) {
    let Some(expiry_s) = expiry_s(raw) else { return out.extend_from_slice(raw) };
    for (id, octets) in Each(Reader(raw)) {
        if id == MESSAGE_EXPIRY {
            out.push(MESSAGE_EXPIRY);
            out.extend_from_slice(&expiry_s.saturating_sub(waited_s).to_be_bytes());
        } else {
            out.extend_from_slice(octets);
        }
    }
}

fn bool(from: &mut Reader<'_>) -> Result<bool, Fault> {
    match from.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fault::protocol("property is neither 0 nor 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::mqtt::codec::Reason;

    fn read(place: Place, bytes: &[u8]) -> Result<Properties<'_>, Reason> {
        Properties::read(&mut Reader(bytes), place).map_err(|fault| fault.reason)
    }

    #[test]
    fn each_packet_has_its_own_properties() {
        let publish = Place::In(Kind::Publish);
        assert_eq!(read(publish, &[3, TOPIC_ALIAS, 0, 5]).map(|p| p.topic_alias), Ok(Some(5)));
        assert_eq!(read(Place::Will, &[3, TOPIC_ALIAS, 0, 5]), Err(Reason::MALFORMED_PACKET));
        assert_eq!(read(publish, &[5, WILL_DELAY, 0, 0, 0, 5]), Err(Reason::MALFORMED_PACKET));
        assert!(read(Place::Will, &[5, WILL_DELAY, 0, 0, 0, 5]).is_ok());
        assert_eq!(read(publish, &[2, 0x7f, 0]), Err(Reason::MALFORMED_PACKET));
        assert_eq!(read(publish, &[3, 0xff, 0xff, 0]), Err(Reason::MALFORMED_PACKET));
        assert_eq!(
            read(Place::In(Kind::Connect), &[2, QOS_MAX, 1]),
            Err(Reason::MALFORMED_PACKET),
            "a server's"
        );
    }

    #[test]
    fn once_means_once_but_for_user_properties() {
        let connect = Place::In(Kind::Connect);
        assert_eq!(read(connect, &[4, PROBLEM_INFO, 1, PROBLEM_INFO, 1]), Err(Reason::PROTOCOL_ERROR));
        assert!(read(connect, &[10, USER, 0, 0, 0, 0, USER, 0, 0, 0, 0]).is_ok());
    }

    #[test]
    fn values_out_of_range_are_protocol_errors() {
        let connect = Place::In(Kind::Connect);
        for bad in [
            &[3, RECEIVE_MAX, 0, 0][..],
            &[5, PACKET_MAX, 0, 0, 0, 0],
            &[2, PROBLEM_INFO, 2],
            &[2, RESPONSE_INFO_ASKED, 9],
            &[4, AUTH_DATA, 0, 1, 7],
        ] {
            assert_eq!(read(connect, bad), Err(Reason::PROTOCOL_ERROR), "{bad:?}");
        }
        assert_eq!(read(Place::In(Kind::Subscribe), &[2, SUBSCRIPTION_ID, 0]), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(read(connect, &[3, RECEIVE_MAX, 0]), Err(Reason::MALFORMED_PACKET), "cut short");
    }

    #[test]
    fn a_messages_properties_are_passed_on_but_for_its_age() {
        let user = [&[USER, 0, 1][..], b"k", &[0, 1], b"v"].concat();
        let raw = [&[TOPIC_ALIAS, 0, 5][..], &user, &[MESSAGE_EXPIRY, 0, 0, 1, 0], &user].concat();
        assert_eq!(without(&raw, TOPIC_ALIAS), raw[3..]);
        assert_eq!(expiry_s(&raw), Some(256));
        let mut out = Vec::new();
        write_aged(&mut out, &raw[3..], 6);
        assert_eq!(out, [&user[..], &[MESSAGE_EXPIRY, 0, 0, 0, 250], &user].concat());
        out.clear();
        write_aged(&mut out, &user, 6);
        assert_eq!(out, user);
    }

    #[test]
    fn the_first_continuity_token_counts() {
        let user = |name: &str, value: &str| {
            let mut out = vec![USER];
            super::super::codec::Write::put_string(&mut out, name);
            super::super::codec::Write::put_string(&mut out, value);
            out
        };
        let raw = [user("x", "0"), user(CONTINUITY, "a"), user(CONTINUITY, "b")].concat();
        let whole = [&[raw.len() as u8][..], &raw].concat();
        assert_eq!(read(Place::In(Kind::Connect), &whole).map(|p| p.continuity), Ok(Some("a")));
    }

    #[test]
    fn a_flood_of_user_properties_is_refused() {
        let one = [USER, 0, 0, 0, 0];
        let mut flood = Vec::new();
        super::super::codec::Write::put_varint(&mut flood, (one.len() * (PROPERTIES_MAX + 1)) as u32);
        for _ in 0..=PROPERTIES_MAX {
            flood.extend_from_slice(&one);
        }
        assert_eq!(read(Place::In(Kind::Publish), &flood), Err(Reason::PROTOCOL_ERROR));
    }
}

//! One commit's messages, as a row holds them: writer and reader.
//!
//! ```text
//! body    = version (1) ‖ record…
//! record  = tenant ‖ device_id ‖ flags ‖ received_ms ‖ [install (8) ‖ count ‖ seq] ‖ topic ‖ properties ‖ payload
//! flags   = qos (bits 0-1) ‖ named (bit 2) ‖ topic is below "tenant/device_id/" (bit 3)
//! ```
//!
//! Texts and octets have their length before them; lengths and numbers are LEB128. The device is named by
//! tenant and device id: what the registry or this process count it by may change, its name does not.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use muster_shared::{DeviceId, Tenant, telemetry::Boot};

use super::{Message, Position, StoredMessage};
use crate::registry::DeviceName;

const VERSION: u8 = 1;
const QOS: u8 = 0b0011;
const NAMED: u8 = 0b0100;
const BELOW: u8 = 0b1000;

/// Why a segment is not what a writer wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Its checksum is another.
    #[error("segment at {first} does not match its checksum")]
    Checksum {
        /// Its first position.
        first: u64,
    },
    /// A version this reader does not know.
    #[error("segment at {first} is of version {version}, this reader knows {VERSION}")]
    Version {
        /// Its first position.
        first: u64,
        /// The version found.
        version: u8,
    },
    /// Not the format.
    #[error("segment at {first} is malformed at octet {at}")]
    Malformed {
        /// Its first position.
        first: u64,
        /// Where reading ended.
        at: usize,
    },
}

/// Over a segment's place and octets, so that a row that was moved is found out too.
pub(super) fn checksum(first: Position, count: u32, body: &[u8]) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    hash.update(&first.0.to_be_bytes());
    hash.update(&count.to_be_bytes());
    hash.update(body);
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 octets")
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn octets(out: &mut Vec<u8>, value: &[u8]) {
    number(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// The part of a device's topic below its own prefix.
fn below<'t>(name: &DeviceName, topic: &'t [u8]) -> Option<&'t [u8]> {
    let rest = topic.strip_prefix(name.tenant.as_str().as_bytes())?.strip_prefix(b"/")?;
    rest.strip_prefix(name.device_id.as_str().as_bytes())?.strip_prefix(b"/")
}

/// Begins a body.
pub(super) fn begin() -> Vec<u8> {
    vec![VERSION]
}

/// Adds a message to a body.
pub(super) fn push(out: &mut Vec<u8>, name: &DeviceName, message: &Message) {
    octets(out, name.tenant.as_str().as_bytes());
    octets(out, name.device_id.as_str().as_bytes());
    let rest = below(name, &message.topic);
    let named = if message.name.is_some() { NAMED } else { 0 };
    let prefixed = if rest.is_some() { BELOW } else { 0 };
    out.push((message.qos & QOS) | named | prefixed);
    number(out, message.received_ms);
    if let Some((boot, seq)) = message.name {
        out.extend_from_slice(&boot.install.to_le_bytes());
        number(out, u64::from(boot.count));
        number(out, seq);
    }
    octets(out, rest.unwrap_or(&message.topic));
    octets(out, &message.properties);
    octets(out, &message.payload);
}

/// Most octets [`push`] adds beside topic, properties and payload.
pub(super) const OVERHEAD: usize = 160;

/// Checks a row and reads its messages.
pub(super) fn read_checked(
    first: Position,
    count: u32,
    sum: &[u8],
    body: &Bytes,
) -> Result<Vec<(Position, StoredMessage)>, SegmentError> {
    if checksum(first, count, body) != sum {
        return Err(SegmentError::Checksum { first: first.0 });
    }
    read(first, count, body)
}

/// Reads a body's messages.
pub(super) fn read(
    first: Position,
    count: u32,
    body: &Bytes,
) -> Result<Vec<(Position, StoredMessage)>, SegmentError> {
    let mut from = From { body, at: 0 };
    let malformed = |from: &From<'_>| SegmentError::Malformed { first: first.0, at: from.at };
    match from.octet() {
        Some(VERSION) => {}
        Some(version) => return Err(SegmentError::Version { first: first.0, version }),
        None => return Err(malformed(&from)),
    }
    let mut out = Vec::new();
    for n in 0..u64::from(count) {
        let message = from.message().ok_or_else(|| malformed(&from))?;
        out.push((Position(first.0 + n), message));
    }
    if from.at != body.len() {
        return Err(malformed(&from));
    }
    Ok(out)
}

/// Where reading stands.
struct From<'b> {
    body: &'b Bytes,
    at: usize,
}

impl From<'_> {
    fn octet(&mut self) -> Option<u8> {
        let octet = *self.body.get(self.at)?;
        self.at += 1;
        Some(octet)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let octet = self.octet()?;
            let bits = u64::from(octet & 0x7f);
            // The tenth octet has room for one bit.
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if octet & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<Bytes> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.body.len())?;
        let taken = self.body.slice(self.at..end);
        self.at = end;
        Some(taken)
    }

    fn octets(&mut self) -> Option<Bytes> {
        let len = usize::try_from(self.number()?).ok()?;
        self.take(len)
    }

    fn message(&mut self) -> Option<StoredMessage> {
        let tenant = Tenant::new(std::str::from_utf8(&self.octets()?).ok()?).ok()?;
        let device_id = DeviceId::new(std::str::from_utf8(&self.octets()?).ok()?).ok()?;
        let flags = self.octet()?;
        if flags & !(QOS | NAMED | BELOW) != 0 {
            return None;
        }
        let received_ms = self.number()?;
        let name = if flags & NAMED == 0 {
            None
        } else {
            let install = u64::from_le_bytes(self.take(8)?.as_ref().try_into().ok()?);
            let count = u32::try_from(self.number()?).ok()?;
            Some((Boot { install, count }, self.number()?))
        };
        let topic = self.octets()?;
        let topic = if flags & BELOW == 0 {
            topic
        } else {
            let prefix = format!("{tenant}/{device_id}/");
            Bytes::from([prefix.as_bytes(), &topic].concat())
        };
        let properties = self.octets()?;
        let payload = self.octets()?;
        let qos = flags & QOS;
        Some(StoredMessage { tenant, device_id, topic, payload, qos, name, properties, received_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::DeviceKey;
    use muster_shared::CertificateId;
    use proptest::prelude::*;

    fn name() -> DeviceName {
        DeviceName {
            tenant: "acme".parse().unwrap(),
            device_id: "MU-1".parse().unwrap(),
            serial: "MU-1".parse().unwrap(),
        }
    }

    fn message(topic: &[u8], payload: &[u8], named: Option<(Boot, u64)>, qos: u8, at: u64) -> Message {
        Message {
            device: DeviceKey(0),
            certificate: CertificateId([0; 32]),
            topic: Bytes::copy_from_slice(topic),
            payload: Bytes::copy_from_slice(payload),
            qos,
            name: named,
            properties: Bytes::from_static(b"\x03\x00\x01a"),
            received_ms: at,
        }
    }

    fn write(messages: &[Message]) -> Bytes {
        let mut body = begin();
        for message in messages {
            push(&mut body, &name(), message);
        }
        body.into()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            rows in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..80), prop::collection::vec(any::<u8>(), 0..300),
                 any::<Option<(u64, u32, u64)>>(), 0_u8..3, any::<u64>(), any::<bool>()), 0..20),
            first in 1_u64..u64::MAX / 2,
        ) {
            let messages: Vec<_> = rows.iter().map(|(topic, payload, named, qos, at, own)| {
                let topic = if *own { [b"acme/MU-1/".as_slice(), topic].concat() } else { topic.clone() };
                let named = named.map(|(install, count, seq)| (Boot { install, count }, seq));
                message(&topic, payload, named, *qos, *at)
            }).collect();
            let body = write(&messages);
            let read = read(Position(first), messages.len() as u32, &body).unwrap();
            prop_assert_eq!(read.len(), messages.len());
            for (n, ((position, got), sent)) in read.iter().zip(&messages).enumerate() {
                prop_assert_eq!(position.0, first + n as u64);
                prop_assert_eq!(&got.topic, &sent.topic);
                prop_assert_eq!(&got.payload, &sent.payload);
                prop_assert_eq!(&got.properties, &sent.properties);
                prop_assert_eq!((got.name, got.qos, got.received_ms), (sent.name, sent.qos, sent.received_ms));
                prop_assert_eq!((got.tenant.as_str(), got.device_id.as_str()), ("acme", "MU-1"));
            }
        }

        #[test]
        fn any_octets_are_read_or_refused(octets in prop::collection::vec(any::<u8>(), 0..200), count in 0_u32..9) {
            let mut body = vec![VERSION];
            body.extend(octets);
            let _ = read(Position(1), count, &body.into());
        }
    }

    #[test]
    fn a_message_cut_short_or_grown_is_malformed() {
        let body = write(&[message(b"acme/MU-1/telemetry/env", b"payload", None, 1, 7)]);
        for len in 0..body.len() {
            assert!(read(Position(1), 1, &body.slice(..len)).is_err(), "{len}");
        }
        let grown = Bytes::from([&body[..], b"x"].concat());
        assert_eq!(read(Position(1), 1, &grown), Err(SegmentError::Malformed { first: 1, at: body.len() }));
        assert!(read(Position(1), 2, &body).is_err(), "one message is not two");
    }

    #[test]
    fn the_checksum_covers_every_octet_and_the_place() {
        let body = write(&[message(b"t", b"p", None, 0, 1)]);
        let sum = checksum(Position(5), 1, &body);
        assert!(read_checked(Position(5), 1, &sum, &body).is_ok());
        assert_eq!(
            read_checked(Position(6), 1, &sum, &body),
            Err(SegmentError::Checksum { first: 6 }),
            "moved"
        );
        for at in 0..body.len() {
            let mut other = body.to_vec();
            other[at] ^= 1;
            assert!(read_checked(Position(5), 1, &sum, &other.into()).is_err(), "octet {at}");
        }
    }

    #[test]
    fn the_format_of_version_1_does_not_change() {
        let boot = Boot { install: 0x0102_0304_0506_0708, count: 300 };
        let body = write(&[message(b"acme/MU-1/telemetry/env", b"hi", Some((boot, 9)), 1, 1000)]);
        let expected = [
            b"\x01\x04acme\x04MU-1\x0d\xe8\x07".as_slice(),
            b"\x08\x07\x06\x05\x04\x03\x02\x01\xac\x02\x09",
            b"\x0dtelemetry/env\x04\x03\x00\x01a\x02hi",
        ]
        .concat();
        assert_eq!(body, expected);
    }

    #[test]
    fn the_overhead_is_bounded() {
        let long = "x".repeat(48);
        let name = DeviceName {
            tenant: long.parse().unwrap(),
            device_id: long.parse().unwrap(),
            serial: long.parse().unwrap(),
        };
        let boot = Boot { install: u64::MAX, count: u32::MAX };
        let mut message = message(b"", b"", Some((boot, u64::MAX)), 2, u64::MAX);
        message.properties = Bytes::new();
        let mut out = Vec::new();
        push(&mut out, &name, &message);
        // Lengths of up to 64 KiB take two octets more each than the empty ones here.
        assert!(out.len() + 3 * 2 <= OVERHEAD, "{}", out.len());
    }
}

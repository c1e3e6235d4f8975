//! One commit's messages, as a row holds them: writer and reader.
//!
//! ```text
//! body      = version (2) ‖ record…
//! record    = flags ‖ publisher ‖ received_ms ‖ [install (8) ‖ count ‖ seq] ‖ topic ‖ properties ‖ payload
//! publisher = tenant ‖ device_id  |  tenant, empty for a fleet-wide service ‖ name ‖ client_id
//! flags     = qos (bits 0-1) ‖ named (bit 2) ‖ topic is below "tenant/device_id/" (bit 3)
//!             ‖ retain (bit 4) ‖ publisher: 0 a device, 1 a service, 2 the server (bits 5-6)
//! ```
//!
//! Texts and octets have their length before them; lengths and numbers are LEB128. A device is named by
//! tenant and device id: what the registry or this process count it by may change, its name does not.
//!
//! Version 1, which is read and not written any more, knew only devices: its record is `tenant ‖ device_id ‖
//! flags ‖ received_ms ‖ …`, with bits 0 to 3 of the flags.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use muster_shared::{DeviceId, Tenant, telemetry::Boot};

use super::{Message, Position, Publisher, StoredMessage, StoredPublisher};
use crate::registry::{DeviceKey, DeviceName};

const VERSION: u8 = 2;
const DEVICES_ONLY: u8 = 1;
const QOS: u8 = 0b0000_0011;
const NAMED: u8 = 0b0000_0100;
const BELOW: u8 = 0b0000_1000;
const RETAIN: u8 = 0b0001_0000;
const BY: u8 = 0b0110_0000;
const BY_SERVICE: u8 = 0b0010_0000;
const BY_SERVER: u8 = 0b0100_0000;

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
    #[error("segment at {first} is of version {version}, this reader knows {DEVICES_ONLY} to {VERSION}")]
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

/// Adds a message to a body. `name` says what a device is called.
pub(super) fn push(out: &mut Vec<u8>, message: &Message, name: impl Fn(DeviceKey) -> Arc<DeviceName>) {
    let (by, about) = match &message.publisher {
        Publisher::Device { device, .. } => (0, Some(name(*device))),
        Publisher::Server { device } => (BY_SERVER, Some(name(*device))),
        Publisher::Service { .. } => (BY_SERVICE, None),
    };
    let rest = about.as_ref().and_then(|name| below(name, &message.topic));
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let (named, retain) = (flag(message.name.is_some(), NAMED), flag(message.retain, RETAIN));
    out.push((message.qos & QOS) | named | flag(rest.is_some(), BELOW) | retain | by);
    if let Some(name) = &about {
        octets(out, name.tenant.as_str().as_bytes());
        octets(out, name.device_id.as_str().as_bytes());
    } else if let Publisher::Service { tenant, name, client_id, .. } = &message.publisher {
        octets(out, tenant.as_ref().map_or(b"", |tenant| tenant.as_str().as_bytes()));
        octets(out, name.as_bytes());
        octets(out, client_id.as_bytes());
    }
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

/// A body's version, and the records behind it.
pub(super) fn split(body: &[u8]) -> (Option<u8>, &[u8]) {
    match body.split_first() {
        Some((version, records)) => (Some(*version), records),
        None => (None, &[]),
    }
}

/// Most octets [`push`] adds beside topic, properties, payload, and the name and client id of a service.
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
    let version = match from.octet() {
        Some(version @ DEVICES_ONLY..=VERSION) => version,
        Some(version) => return Err(SegmentError::Version { first: first.0, version }),
        None => return Err(malformed(&from)),
    };
    let mut out = Vec::new();
    for n in 0..u64::from(count) {
        let message = from.message(version).ok_or_else(|| malformed(&from))?;
        out.push((Position(first.0 + n), message));
    }
    if from.at != body.len() {
        return Err(malformed(&from));
    }
    Ok(out)
}

/// Reads a body of one message.
pub(super) fn read_one(position: Position, body: &Bytes) -> Result<StoredMessage, SegmentError> {
    let malformed = || SegmentError::Malformed { first: position.0, at: 0 };
    Ok(read(position, 1, body)?.pop().ok_or_else(malformed)?.1)
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

    fn text<T>(&mut self, take: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        take(std::str::from_utf8(&self.octets()?).ok()?)
    }

    fn device(&mut self) -> Option<(Tenant, DeviceId)> {
        let tenant = self.text(|text| Tenant::new(text).ok())?;
        Some((tenant, self.text(|text| DeviceId::new(text).ok())?))
    }

    fn service(&mut self) -> Option<StoredPublisher> {
        let tenant = self.text(|text| match text {
            "" => Some(None),
            text => Tenant::new(text).ok().map(Some),
        })?;
        let name = self.text(|text| Some(text.into()))?;
        let client_id = self.text(|text| Some(text.into()))?;
        Some(StoredPublisher::Service { tenant, name, client_id })
    }

    /// Who published it, and the flags, which stand before or behind it.
    fn publisher(&mut self, version: u8) -> Option<(StoredPublisher, u8)> {
        if version == DEVICES_ONLY {
            let (tenant, device_id) = self.device()?;
            let flags = self.octet().filter(|flags| flags & !(QOS | NAMED | BELOW) == 0)?;
            return Some((StoredPublisher::Device { tenant, device_id }, flags));
        }
        let flags = self.octet().filter(|flags| flags & !(QOS | NAMED | BELOW | RETAIN | BY) == 0)?;
        let publisher = match flags & BY {
            0 => {
                let (tenant, device_id) = self.device()?;
                StoredPublisher::Device { tenant, device_id }
            }
            BY_SERVICE if flags & BELOW == 0 => self.service()?,
            BY_SERVER => {
                let (tenant, device_id) = self.device()?;
                StoredPublisher::Server { tenant, device_id }
            }
            _ => return None,
        };
        Some((publisher, flags))
    }

    fn name(&mut self) -> Option<(Boot, u64)> {
        let install = u64::from_le_bytes(self.take(8)?.as_ref().try_into().ok()?);
        let count = u32::try_from(self.number()?).ok()?;
        Some((Boot { install, count }, self.number()?))
    }

    fn message(&mut self, version: u8) -> Option<StoredMessage> {
        let (publisher, flags) = self.publisher(version)?;
        let received_ms = self.number()?;
        let name = if flags & NAMED == 0 { None } else { Some(self.name()?) };
        let mut topic = self.octets()?;
        if flags & BELOW != 0
            && let StoredPublisher::Device { tenant, device_id }
            | StoredPublisher::Server { tenant, device_id } = &publisher
        {
            let levels: [&[u8]; 5] =
                [tenant.as_str().as_bytes(), b"/", device_id.as_str().as_bytes(), b"/", &topic];
            topic = levels.concat().into();
        }
        let properties = self.octets()?;
        let payload = self.octets()?;
        let (qos, retain) = (flags & QOS, flags & RETAIN != 0);
        Some(StoredMessage { publisher, topic, payload, qos, retain, name, properties, received_ms })
    }
}

#[cfg(test)]
mod tests;

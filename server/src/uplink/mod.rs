//! The uplink log: what PUBACK waits for.
//!
//! Every message a device was told is accepted is in it, in one order, from the moment the device is told.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use muster_shared::{CertificateId, Code, DeviceId, Tenant, telemetry::Boot};

use crate::registry::DeviceKey;

/// Where a message stands in this node's log: dense, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// A message to store.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who sent it.
    pub device: DeviceKey,
    /// With which certificate: its verdict is read again at the commit.
    pub certificate: CertificateId,
    /// On which topic; the device's own, checked.
    pub topic: Bytes,
    /// What it says.
    pub payload: Bytes,
    /// The publisher's QoS.
    pub qos: u8,
    /// What a repeated one is recognised by; `None` is stored each time it comes.
    pub name: Option<(Boot, u64)>,
    /// The MQTT 5 properties to keep, as they came; may be empty.
    pub properties: Bytes,
    /// When it was received, Unix milliseconds.
    pub received_ms: u64,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk.
    Stored(Position),
    /// It was on disk already.
    Duplicate(Position),
    /// The device may not talk any more.
    Refused(Code),
    /// It could not be stored; it must not be acknowledged.
    Failed,
}

/// Resolves when the message's fate is known. Dropping it does not take the message back.
pub struct Ticket {
    _private: (),
}

impl Future for Ticket {
    type Output = Outcome;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Outcome> {
        Poll::Ready(Outcome::Failed)
    }
}

/// The one writer of this node's log. Cheap to clone; every shard has one.
#[derive(Clone)]
pub struct Writer {
    _private: (),
}

impl Writer {
    /// Hands a message over; the ticket says what became of it. Never waits.
    pub fn append(&self, message: Message) -> Ticket {
        let _ = message;
        Ticket { _private: () }
    }

    /// Waits until every batch begun before this call has ended. After it nothing is accepted that the
    /// verdicts refused before it.
    pub async fn barrier(&self) {}

    /// Whether messages can be stored now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        false
    }

    /// Stores what was handed over, then stops. Later messages fail.
    pub async fn close(self) {}
}

/// A message as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Whose fleet.
    pub tenant: Tenant,
    /// Whose.
    pub device_id: DeviceId,
    /// On which topic.
    pub topic: Bytes,
    /// What it says.
    pub payload: Bytes,
    /// The publisher's QoS.
    pub qos: u8,
    /// What a repeated one is recognised by.
    pub name: Option<(Boot, u64)>,
    /// Its MQTT 5 properties, as they came.
    pub properties: Bytes,
    /// When it was received, Unix milliseconds.
    pub received_ms: u64,
}

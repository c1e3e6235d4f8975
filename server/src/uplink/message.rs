//! What is handed to the log, what became of it, and what is read back.

use std::sync::Arc;

use bytes::Bytes;
use muster_shared::{
    CertificateId, Code, DeviceId, Tenant,
    telemetry::Boot,
    topic::{Direction, Topic},
};

use super::{Change, SegmentError, expiry, segment};
use crate::registry::{DeviceKey, DeviceName, KeyId, now_ms};

/// Where a message stands in this node's log: dense, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// Who hands a message over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publisher {
    /// A device.
    Device {
        /// Which.
        device: DeviceKey,
        /// With which certificate: its verdict is read again at the commit.
        certificate: CertificateId,
    },
    /// A service.
    Service {
        /// Its tenant; `None` is fleet-wide.
        tenant: Option<Tenant>,
        /// Its name in the configuration.
        name: Arc<str>,
        /// The client id of its session.
        client_id: Arc<str>,
        /// With which certificate: whether that was withdrawn or has ended is asked again at the commit.
        /// `None`: with none that is known any more.
        shown: Option<Arc<Shown>>,
    },
    /// The server, about a device, to it or in its place: its presence, what the fleet wants of it, or a will
    /// that was held back. The presence is stored whatever the device's state; anything else only while the
    /// device may talk.
    Server {
        /// Which device.
        device: DeviceKey,
    },
}

/// What a service has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Its certificate.
    pub certificate: CertificateId,
    /// Key identifier of the CA that issued it.
    pub issuer_key_id: KeyId,
    /// Its last good second, Unix seconds.
    pub not_after_s: i64,
}

/// A message to store.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who sent it.
    pub publisher: Publisher,
    /// On which topic; checked, and the publisher's to publish on.
    pub topic: Bytes,
    /// What it says.
    pub payload: Bytes,
    /// The publisher's QoS.
    pub qos: u8,
    /// Whether it is to be kept for who subscribes later; an empty one removes what was kept (MQTT 5.0
    /// §3.3.1.3).
    pub retain: bool,
    /// What a repeated one of a device is recognised by; `None` is stored each time it comes.
    pub name: Option<(Boot, u64)>,
    /// The MQTT 5 properties to keep, as they came; may be empty.
    pub properties: Bytes,
    /// When it was received, Unix milliseconds.
    pub received_ms: u64,
    /// What becomes durable in the same commit: the packet id of a QoS 2 message, in its session's state. Of
    /// a message that is refused, nothing does.
    pub state: Option<Box<Change>>,
}

impl Message {
    /// One of the server's, about this device or to it, received now: at QoS 1, without properties, not retained.
    #[must_use]
    pub fn by_server(device: DeviceKey, topic: String, payload: Bytes) -> Self {
        Self {
            publisher: Publisher::Server { device },
            topic: topic.into(),
            payload,
            qos: 1,
            retain: false,
            name: None,
            properties: Bytes::new(),
            received_ms: now_ms(),
            state: None,
        }
    }

    /// Whether it is on a topic on which the fleet, and nobody else, speaks to one device.
    #[must_use]
    pub fn is_to_device(&self) -> bool {
        let parsed = std::str::from_utf8(&self.topic).ok().and_then(|topic| Topic::parse(topic).ok());
        matches!(parsed, Some(Topic::Device { kind, .. }) if kind.direction() == Direction::Downlink)
    }
}

/// What became of a message, or of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk. A change stands behind the message at this position.
    Stored(Position),
    /// It is on disk since before, at this position or an earlier one.
    Duplicate(Position),
    /// The publisher may not talk any more, or has no room for it.
    Refused(Code),
    /// It could not be stored; it must not be acknowledged.
    Failed,
}

/// Who a stored message is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPublisher {
    /// A device.
    Device {
        /// Whose fleet.
        tenant: Tenant,
        /// Its name.
        device_id: DeviceId,
    },
    /// A service.
    Service {
        /// Its tenant; `None` is fleet-wide.
        tenant: Option<Tenant>,
        /// Its name in the configuration.
        name: Box<str>,
        /// The client id of its session.
        client_id: Box<str>,
    },
    /// The server, about a device or in its place.
    Server {
        /// The device's fleet.
        tenant: Tenant,
        /// The device's name.
        device_id: DeviceId,
    },
}

/// A message as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Who sent it.
    pub publisher: StoredPublisher,
    /// On which topic.
    pub topic: Bytes,
    /// What it says.
    pub payload: Bytes,
    /// The publisher's QoS.
    pub qos: u8,
    /// Whether it came to be retained.
    pub retain: bool,
    /// What a repeated one is recognised by.
    pub name: Option<(Boot, u64)>,
    /// Its MQTT 5 properties, as they came.
    pub properties: Bytes,
    /// When it was received, Unix milliseconds.
    pub received_ms: u64,
}

impl StoredMessage {
    /// The device that sent it; `None` when a service or the server did.
    #[must_use]
    pub fn device(&self) -> Option<(&Tenant, &DeviceId)> {
        match &self.publisher {
            StoredPublisher::Device { tenant, device_id } => Some((tenant, device_id)),
            StoredPublisher::Service { .. } | StoredPublisher::Server { .. } => None,
        }
    }

    /// What its payload is, in its publisher's words (MQTT 5.0 §3.3.2.3.9); `None`: it did not say.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        expiry::content_type(&self.properties)
    }

    /// Did the device of this name send it?
    #[must_use]
    pub fn is_from(&self, name: &DeviceName) -> bool {
        self.device() == Some((&name.tenant, &name.device_id))
    }
}

/// What one commit added: the fresh tail of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fresh {
    /// Which node's log.
    pub node: u64,
    /// Position of its first message.
    pub first: Position,
    /// How many messages, at least one.
    pub count: u32,
    /// The messages, as the log holds them.
    pub body: Bytes,
}

impl Fresh {
    /// Position of its last message.
    #[must_use]
    pub fn last(&self) -> Position {
        Position(self.first.0 + u64::from(self.count) - 1)
    }

    /// Whether `next` comes right behind it and is written as it is: then the records of both in one body
    /// read as one commit.
    #[must_use]
    pub fn is_continued_by(&self, next: &Self) -> bool {
        next.node == self.node
            && next.first.0 == self.last().0 + 1
            && segment::split(&self.body).0 == segment::split(&next.body).0
    }

    /// The body without its version.
    #[must_use]
    pub fn records(&self) -> &[u8] {
        segment::split(&self.body).1
    }

    /// The messages.
    ///
    /// # Errors
    /// [`SegmentError`] when they are not what a writer wrote.
    pub fn messages(&self) -> Result<Vec<(Position, StoredMessage)>, SegmentError> {
        segment::read(self.first, self.count, &self.body)
    }
}

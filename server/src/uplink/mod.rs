//! The uplink log: what PUBACK waits for.
//!
//! ```text
//! shard ─append─► queue ─► batch: verdict again ─ duplicate? ─► one segment row ─ COMMIT, fsync ─► tickets
//!                            ▲                                                        │
//!                 barrier ───┘ waits for batches begun before it                      └─► the fresh tail
//! ```
//!
//! Every message a device was told is accepted is in the log, in one order, from before the device is told.
//! The log is a file of its own with one writer, on a thread of its own; a commit is one row, however many
//! messages it holds.
//!
//! # Invariants
//!
//! - A ticket says `Stored` only after the commit that holds its message has returned from fsync.
//! - A message's verdict is read after its batch has begun. So once a verdict has flipped and a
//!   [`Writer::barrier`] begun after that has returned, nothing the verdict refuses is accepted.
//! - Positions are dense, from 1, in commit order.
//! - A write that failed is never repeated on the same connection: what waits fails, nothing is
//!   acknowledged, the file is opened anew and read back before anything else is accepted.
//! - A duplicate is recognised within the last [`WINDOW`] messages of a start of a device, for its last two
//!   starts; beyond that, and without a name, a message is stored each time it comes.
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | `writer` | the queue, the thread, tickets, the barrier |
//! | `batch` | pure: which messages of a batch are stored, and where |
//! | `dedup` | pure: the windows duplicates are found by |
//! | `segment` | the format of a row: writer and reader together |
//! | [`reader`] | reading from a cursor |
//! | `sqlite` | the file |

use bytes::Bytes;
use muster_shared::{CertificateId, Code, DeviceId, Tenant, telemetry::Boot};

use crate::registry::DeviceKey;

mod batch;
mod dedup;
pub mod reader;
mod segment;
mod sqlite;
mod writer;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use dedup::WINDOW;
pub use reader::{Cursor, ReadError, Reader};
pub use segment::SegmentError;
pub use writer::{OpenError, Tail, Ticket, Writer};

/// The log's file in the data directory.
pub const FILE: &str = "uplink.sqlite";

/// Where a message stands in this node's log: dense, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
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
    /// It is on disk since before, at this position or an earlier one.
    Duplicate(Position),
    /// The device may not talk any more.
    Refused(Code),
    /// It could not be stored; it must not be acknowledged.
    Failed,
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

    /// The messages.
    ///
    /// # Errors
    /// [`SegmentError`] when they are not what a writer wrote.
    pub fn messages(&self) -> Result<Vec<(Position, StoredMessage)>, SegmentError> {
        segment::read(self.first, self.count, &self.body)
    }
}

//! The uplink log: what PUBACK waits for.
//!
//! ```text
//! shard ─append─► queue ─► batch: verdict again ─ duplicate? ─► one segment row ─ COMMIT, fsync ─► tickets
//!                            ▲                                                        │
//!                 barrier ───┘ waits for batches begun before it                      └─► the fresh tail
//! ```
//!
//! Every message a publisher was told is accepted is in the log, in one order, from before the publisher is
//! told. The log is a file of its own with one writer, on a thread of its own; a commit is one row, however
//! many messages it holds.
//!
//! What outlives a connection goes the same way: the state of sessions, the queues of devices and what is
//! retained change in the order of the messages and in their commits. A batch that changes none of it is the
//! one row.
//!
//! # Invariants
//!
//! - A ticket says `Stored` only after the commit that holds its message has returned from fsync.
//! - A message's verdict is read after its batch has begun. So once a verdict has flipped and a
//!   [`Writer::barrier`] begun after that has returned, nothing the verdict refuses is accepted.
//! - Positions are dense, from 1, in commit order.
//! - A message, its place in queues, what it retains and the state that came with it are on disk together or
//!   not at all; what is shown as retained, and handed to sessions, is on disk.
//! - A write that failed is never repeated on the same connection: what waits fails, nothing is
//!   acknowledged, the file is opened anew and read back before anything else is accepted.
//! - Old segments go whole, oldest first, a few at a time between batches; the newest never does. A reader
//!   whose next message went is told so.
//! - A duplicate is recognised within the last [`WINDOW`] messages of a start of a device, for its last two
//!   starts; beyond that, and without a name, a message is stored each time it comes.
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | `message`, `session` | what is handed over and read back: messages; what outlives a connection |
//! | `writer` | the queue, tickets, the barrier; the thread |
//! | `batch` | pure: what becomes of a batch's messages and changes |
//! | `dedup` | pure: the windows duplicates are found by |
//! | `queues` | pure: what waits for each saved session, and the drop policy |
//! | `owners` | pure: who has how much retained, and what ends when |
//! | `retained` | what is retained, for who subscribes |
//! | `delta`, `bounds`, `expiry` | a commit's net changes; how much may be kept; what properties say |
//! | `segment` | the format of a row: writer and reader together |
//! | [`reader`] | reading from a cursor; one session |
//! | [`history`] | what sensors said over the last days, for charts: a reader of the log |
//! | `sqlite`, [`snapshot`] | the file; a copy of it |

mod batch;
mod bounds;
mod dedup;
mod delta;
mod expiry;
pub mod history;
mod message;
mod owners;
mod queues;
pub mod reader;
mod retained;
mod segment;
mod session;
pub mod snapshot;
mod sqlite;
mod writer;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use bounds::{Bound, Bounds};
pub use dedup::WINDOW;
pub use history::History;
pub use message::{Fresh, Message, Outcome, Position, Publisher, Shown, StoredMessage, StoredPublisher};
pub use reader::{Cursor, ReadError, Reader};
pub use retained::{Retained, RetainedMessage};
pub use segment::SegmentError;
pub use session::{Addressed, Change, Downlinks, SavedSession, SessionKey, SessionKeyError};
pub use writer::{Answers, Keep, Kept, OpenError, Tail, Ticket, Writer};

/// The log's file in the data directory.
pub const FILE: &str = "uplink.sqlite";

//! What outlives a connection: a session's state, and the queue of a device.
//!
//! A session's state is opaque here: who serves the session writes and reads it. A queue holds the messages
//! of a device's session that it has not yet taken; what services have not taken is the log behind their
//! cursor.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use muster_shared::{DeviceId, Tenant};

use super::{Message, Position, StoredMessage};

/// Whose session. As text `d/acme/MU-1` and `s/name/client id`: a service's name has no `/`, its client id may.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionKey {
    /// A device's: it has one.
    Device {
        /// Whose fleet.
        tenant: Tenant,
        /// Its name.
        device_id: DeviceId,
    },
    /// A service's: it has one for each client id.
    Service {
        /// The service's name in the configuration.
        name: Arc<str>,
        /// The client id.
        client_id: Arc<str>,
    },
}

/// A text is not a session's key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a session's key")]
pub struct SessionKeyError(String);

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { tenant, device_id } => write!(f, "d/{tenant}/{device_id}"),
            Self::Service { name, client_id } => write!(f, "s/{name}/{client_id}"),
        }
    }
}

impl FromStr for SessionKey {
    type Err = SessionKeyError;
    fn from_str(text: &str) -> Result<Self, SessionKeyError> {
        let error = || SessionKeyError(text.to_owned());
        let mut parts = text.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("d"), Some(tenant), Some(id)) => Ok(Self::Device {
                tenant: tenant.parse().map_err(|_| error())?,
                device_id: id.parse().map_err(|_| error())?,
            }),
            (Some("s"), Some(name), Some(id)) if !name.is_empty() => {
                Ok(Self::Service { name: name.into(), client_id: id.into() })
            }
            _ => Err(error()),
        }
    }
}

/// A change of what outlives a connection. It takes its place among the messages: what was handed over
/// before it is committed before it or with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The session's state is now this; a session that was not there begins, with an empty queue. Refused
    /// when its service has too many.
    Session {
        /// Whose.
        key: SessionKey,
        /// Its state, whole.
        state: Bytes,
        /// Messages that leave its queue in the same commit.
        done: Vec<Position>,
    },
    /// The session has ended: its state and its queue go.
    Forget {
        /// Whose.
        key: SessionKey,
    },
    /// These messages leave the session's queue.
    Dequeue {
        /// Whose.
        key: SessionKey,
        /// Which; one that is not there changes nothing.
        positions: Vec<Position>,
    },
    /// Nothing of the device stays: its session, its queue, and what is retained on its topics, whoever sent
    /// it; but for its presence, which is what the server says of it.
    Purge {
        /// Whose fleet.
        tenant: Tenant,
        /// Its name.
        device_id: DeviceId,
    },
}

/// A session as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedSession {
    /// Whose.
    pub key: SessionKey,
    /// Its state.
    pub state: Bytes,
    /// When the state was saved last, Unix milliseconds.
    pub saved_ms: u64,
    /// The messages that wait for it, in order; always empty for a service.
    pub queue: Vec<(Position, Arc<StoredMessage>)>,
}

/// Where messages are pushed to once they are stored. Both functions are called on the writer's thread,
/// between two commits, and hold up every acknowledgement: they must not wait.
pub trait Downlinks: Send + Sync {
    /// Whether anybody is to be handed this message by [`Downlinks::committed`]; and to `out`, the sessions
    /// whose queue is to hold it. Asked for every message that will be stored, so it must say no at a glance.
    ///
    /// A session that is not saved gets no queue: whoever serves it holds the message.
    fn targets(&self, message: &Message, out: &mut Vec<SessionKey>) -> bool;

    /// These are on disk, in order; who published them has not been told yet.
    fn committed(&self, messages: &[Addressed]);
}

/// Nobody is pushed to.
impl Downlinks for () {
    fn targets(&self, _: &Message, _: &mut Vec<SessionKey>) -> bool {
        false
    }

    fn committed(&self, _: &[Addressed]) {}
}

/// A stored message that somebody is to be handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    /// Where it stands.
    pub position: Position,
    /// The message.
    pub message: Arc<StoredMessage>,
    /// The sessions whose queue holds it; a change behind it may have taken it out again.
    pub queued: Vec<SessionKey>,
    /// The sessions whose queue had no room for it.
    pub missed: Vec<SessionKey>,
    /// What left a queue to make room for it: messages whose time was over, then the oldest of QoS 0.
    pub dropped: Vec<(SessionKey, Position)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_as_text() {
        for text in ["d/acme/MU-1", "s/ingest/", "s/ingest/a/b c/ü"] {
            let key: SessionKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in
            ["", "d", "d/acme", "d/acme/", "d/acme/a b", "d/~all/x", "d/acme/MU-1/x", "s/x", "s//x", "x/a/b"]
        {
            assert!(text.parse::<SessionKey>().is_err(), "{text:?}");
        }
    }
}

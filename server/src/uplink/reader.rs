//! Reading the log from a cursor.
//!
//! A cursor says, for each node, up to where its log was read; it is opaque to who keeps it. A log that was
//! made anew is another node's: it is read from its beginning, and nothing in it is skipped.

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{
    Position, SavedSession, SegmentError, SessionKey, StoredMessage, segment,
    sqlite::{StoreError, last, place, readers, segments, session},
};
use crate::registry::sqlite::Pool;

/// Up to where a reader has read, node by node. The default is before everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor(BTreeMap<u64, Position>);

/// A text is not a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cursor")]
pub struct CursorError(String);

/// Why the log cannot be read from a cursor.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What comes next was removed when its time was over.
    #[error("position {asked} is gone, the oldest kept is {oldest}")]
    Gone {
        /// The position that comes next for the cursor.
        asked: u64,
        /// The oldest there is.
        oldest: u64,
    },
    /// The cursor is ahead of the log: the log was set back, by a restored copy for one.
    #[error("position {asked} was read, the log ends at {last}")]
    Ahead {
        /// The cursor's position.
        asked: u64,
        /// The log's last.
        last: u64,
    },
    /// Positions are missing in the middle.
    #[error("positions {from} to {to} are missing")]
    Missing {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// A segment is not what was written.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The database said no.
    #[error("the uplink log cannot be read")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<sqlx::Error> for ReadError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Segment(error) => Self::Segment(error),
            error => Self::Database(Box::new(error)),
        }
    }
}

/// First letter of a cursor's text: its format.
const FORMAT: char = 'a';
/// Octets of a node and a position.
const ENTRY: usize = 16;

impl Cursor {
    /// The last position read of a node; 0 when none was.
    #[must_use]
    pub fn position(&self, node: u64) -> Position {
        self.0.get(&node).copied().unwrap_or_default()
    }

    /// The cursor after this position was read too.
    #[must_use]
    pub fn after(mut self, node: u64, position: Position) -> Self {
        self.0.insert(node, position);
        self
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = Vec::with_capacity(self.0.len() * ENTRY);
        for (node, position) in &self.0 {
            octets.extend_from_slice(&node.to_be_bytes());
            octets.extend_from_slice(&position.0.to_be_bytes());
        }
        write!(f, "{FORMAT}{}", URL_SAFE_NO_PAD.encode(octets))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;
    fn from_str(text: &str) -> Result<Self, CursorError> {
        let error = || CursorError(text.to_owned());
        let octets = text.strip_prefix(FORMAT).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let octets = octets.filter(|octets| octets.len() % ENTRY == 0).ok_or_else(error)?;
        let number = |octets: &[u8]| u64::from_be_bytes(octets.try_into().expect("eight octets of sixteen"));
        let entries = octets.chunks_exact(ENTRY).map(|entry| {
            let (node, position) = entry.split_at(ENTRY / 2);
            (number(node), Position(number(position)))
        });
        let cursor = Self(entries.collect());
        // One text a cursor: entries in order, none twice.
        if cursor.to_string() == text { Ok(cursor) } else { Err(error()) }
    }
}

/// What was read, and the cursor after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The messages, in order; empty at the log's end.
    pub messages: Vec<(Position, StoredMessage)>,
    /// Where to go on.
    pub next: Cursor,
}

/// Reads this node's log. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pool: Pool,
    node: u64,
}

impl Reader {
    /// Opens the log a [`super::Writer`] has made in `data_dir`, to read it.
    ///
    /// # Errors
    /// [`ReadError::Database`] when it is not there.
    pub async fn open(data_dir: &Path) -> Result<Self, ReadError> {
        let pool = readers(data_dir).await?;
        let (node,): (i64,) = sqlx::query_as("SELECT node FROM log WHERE one = 1").fetch_one(&pool).await?;
        Ok(Self { pool, node: node.cast_unsigned() })
    }

    /// Which node's log this is.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.node
    }

    /// The cursor at the log's end: from there on only what is new is read.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn end(&self) -> Result<Cursor, ReadError> {
        let mut connection = self.pool.acquire().await?;
        Ok(Cursor::default().after(self.node, last(&mut connection).await?))
    }

    /// Reads up to `max` messages after `from`, in order and without a gap. Fewer than `max` does not mean
    /// the end; none does.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, from: &Cursor, max: usize) -> Result<Read, ReadError> {
        let done = from.position(self.node);
        let mut expected = Position(done.0 + 1);
        let mut messages = Vec::new();
        let mut snapshot = self.pool.begin().await?;
        let mut rows = segments(&mut snapshot, expected);
        let mut any = false;
        while messages.len() < max {
            let Some((first, count, sum, body)) = rows.try_next().await? else { break };
            let (first, count) = place(first, count);
            if first > expected {
                let (from, to) = (expected.0, first.0 - 1);
                return Err(if any {
                    ReadError::Missing { from, to }
                } else {
                    ReadError::Gone { asked: from, oldest: first.0 }
                });
            }
            any = true;
            for (position, message) in segment::read_checked(first, count, &sum, &Bytes::from(body))? {
                if position >= expected && messages.len() < max {
                    messages.push((position, message));
                }
            }
            expected = Position(first.0 + u64::from(count));
        }
        drop(rows);
        let last = last(&mut snapshot).await?;
        if done > last {
            return Err(ReadError::Ahead { asked: done.0, last: last.0 });
        }
        let next = match messages.last() {
            Some((position, _)) => from.clone().after(self.node, *position),
            None => from.clone(),
        };
        Ok(Read { messages, next })
    }

    /// A session as the file has it, with its queue; `None` when there is none. What a ticket said is stored
    /// is in it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn session(&self, key: &SessionKey) -> Result<Option<SavedSession>, ReadError> {
        // State and queue are of one commit.
        let mut snapshot = self.pool.begin().await?;
        Ok(session(&mut snapshot, key).await?)
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_as_text() {
        for cursor in [
            Cursor::default(),
            Cursor::default().after(7, Position(1)),
            Cursor::default().after(u64::MAX, Position(u64::MAX)).after(0, Position(3)),
        ] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let two = Cursor::default().after(1, Position(1)).after(2, Position(2)).to_string();
        let octets = URL_SAFE_NO_PAD.decode(&two[1..]).unwrap();
        let swapped = format!("a{}", URL_SAFE_NO_PAD.encode([&octets[16..], &octets[..16]].concat()));
        let twice = format!("a{}", URL_SAFE_NO_PAD.encode([&octets[..16], &octets[..16]].concat()));
        for text in ["", "7", "b", "aAAAA", "a=", &two[..two.len() - 1], &swapped, &twice, "a AAAA"] {
            assert!(text.parse::<Cursor>().is_err(), "{text:?}");
        }
    }
}

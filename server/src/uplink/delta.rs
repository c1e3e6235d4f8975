//! What a batch changes beside the log: net, so that what comes and goes within a batch costs nothing. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Position, retained::Entry};

/// A session's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Its key as text.
    pub(super) key: String,
    /// Its state.
    pub(super) state: Bytes,
}

/// Net changes of one commit. Everything is in an order of its own, so that the statements are the same for
/// the same batch.
#[derive(Debug, Default)]
pub(super) struct Delta {
    /// By number: saved, or gone.
    pub(super) sessions: BTreeMap<i64, Option<Row>>,
    /// Session and message that enter a queue.
    pub(super) queued: BTreeSet<(i64, Position)>,
    /// Session and message that leave one.
    pub(super) unqueued: BTreeSet<(i64, Position)>,
    /// Messages some queue begins to hold, as bodies of one record.
    pub(super) held: BTreeMap<Position, Bytes>,
    /// Messages no queue holds any more.
    pub(super) released: BTreeSet<Position>,
    /// By topic: what is retained now, or nothing.
    pub(super) retained: BTreeMap<Box<str>, Option<Entry>>,
}

impl Delta {
    /// Nothing changes: the log's row is the whole commit.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.queued.is_empty()
            && self.unqueued.is_empty()
            && self.held.is_empty()
            && self.released.is_empty()
            && self.retained.is_empty()
    }

    /// A message enters a session's queue.
    pub(super) fn queue(&mut self, session: i64, position: Position) {
        self.queued.insert((session, position));
    }

    /// A message leaves a session's queue.
    pub(super) fn unqueue(&mut self, session: i64, position: Position) {
        if !self.queued.remove(&(session, position)) {
            self.unqueued.insert((session, position));
        }
    }

    /// No queue holds the message any more.
    pub(super) fn release(&mut self, position: Position) {
        if self.held.remove(&position).is_none() {
            self.released.insert(position);
        }
    }
}

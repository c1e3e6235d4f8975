//! Retained messages: the newest of each topic whose publisher asked for it, for who subscribes later.
//!
//! Held in memory, as the log's records, in the order of their topics; what is on disk is in here from
//! before its publisher is told, and nothing else is. A message whose time is over is not shown, and leaves
//! the file with the next commit.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use bytes::Bytes;
use muster_shared::topic::matches;
use parking_lot::RwLock;

use super::{Position, StoredMessage, segment};

/// The retained messages of this node. Read on any thread.
#[derive(Debug, Default)]
pub struct Retained(RwLock<BTreeMap<Box<str>, Entry>>);

/// A retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedMessage {
    /// Where it stands in the log.
    pub position: Position,
    /// The message.
    pub message: StoredMessage,
    /// When its time is over, Unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// As it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: Position,
    /// A body of one record.
    pub(super) body: Bytes,
    pub(super) expires_ms: Option<u64>,
    /// Whose bound it counts against; nobody's when the server published it.
    pub(super) owner: Option<Arc<str>>,
}

impl Entry {
    fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }
}

impl Retained {
    /// The messages whose topics match `filter` (without a `$share` prefix), in the order of their topics:
    /// those after the topic `after`, and at most `max` of them. Fewer than `max` says that there are no more.
    /// What is over at `now_ms`, Unix milliseconds, is left out.
    #[must_use]
    pub fn matching(
        &self,
        filter: &str,
        after: Option<&str>,
        max: usize,
        now_ms: u64,
    ) -> Vec<RetainedMessage> {
        let found = self.find(filter, after, max, now_ms);
        let read = |entry: Entry| {
            let message = segment::read_one(entry.position, &entry.body);
            let message = message.expect("what was read back when it was stored is read back again");
            RetainedMessage { position: entry.position, message, expires_ms: entry.expires_ms }
        };
        found.into_iter().map(read).collect()
    }

    /// The message at this position of the log, if it is still retained. Looks at all of them: for the few
    /// that the log itself has no more.
    #[must_use]
    pub fn at(&self, position: Position) -> Option<StoredMessage> {
        let topics = self.0.read();
        let entry = topics.values().find(|entry| entry.position == position)?;
        segment::read_one(entry.position, &entry.body).ok()
    }

    /// How many there are, those whose time is over and that have not gone yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    fn find(&self, filter: &str, after: Option<&str>, max: usize, now_ms: u64) -> Vec<Entry> {
        let topics = self.0.read();
        let mut found = Vec::new();
        // Where to look next: a topic, and whether it is one to look at itself.
        let mut next = match after {
            Some(after) => (after.to_owned(), false),
            None => (filter.split(['+', '#']).next().unwrap_or("").trim_end_matches('/').to_owned(), true),
        };
        while found.len() < max {
            let from = if next.1 { Included(&*next.0) } else { Excluded(&*next.0) };
            let mut range = topics.range::<str, _>((from, Unbounded));
            let leap = loop {
                let Some((topic, entry)) = range.next() else { return found };
                if matches(filter, topic) {
                    if !entry.is_over(now_ms) {
                        found.push(entry.clone());
                    }
                    if found.len() == max {
                        return found;
                    }
                } else if let Some(leap) = leap(filter, topic) {
                    break leap;
                }
            };
            match leap {
                Leap::To(topic) => next = (topic, true),
                Leap::End => return found,
            }
        }
        found
    }

    /// What is retained on a topic.
    pub(super) fn get(&self, topic: &str) -> Option<Entry> {
        self.0.read().get(topic).cloned()
    }

    /// The topics that begin with `prefix`.
    pub(super) fn below(&self, prefix: &str) -> Vec<Box<str>> {
        let topics = self.0.read();
        let from = topics.range::<str, _>((Included(prefix), Unbounded));
        from.map(|(topic, _)| topic).take_while(|topic| topic.starts_with(prefix)).cloned().collect()
    }

    /// Shows what was committed.
    pub(super) fn apply(&self, changes: BTreeMap<Box<str>, Option<Entry>>) {
        if changes.is_empty() {
            return;
        }
        let mut topics = self.0.write();
        for (topic, entry) in changes {
            match entry {
                Some(entry) => topics.insert(topic, entry),
                None => topics.remove(&topic),
            };
        }
    }

    /// Shows what was read from the file, and nothing else.
    pub(super) fn replace(&self, all: BTreeMap<Box<str>, Entry>) {
        *self.0.write() = all;
    }
}

/// Where the next topic that may match is.
enum Leap {
    /// Not before this one.
    To(String),
    /// Nowhere.
    End,
}

/// How far the search may leap from a topic that does not match: past all that shares the levels in which it
/// already differs. `None`: no further than to the next topic.
fn leap(filter: &str, topic: &str) -> Option<Leap> {
    let mut at = 0;
    let mut levels = filter.split('/').peekable();
    while let Some(wanted) = levels.next() {
        let level = topic[at..].split('/').next().unwrap_or("");
        if wanted != "+" && wanted != level {
            if wanted == "#" {
                return None;
            }
            let before = &topic[..at];
            let (itself, deeper) = match levels.peek() {
                None => (true, false),
                // `a/#` matches `a` too [MQTT-4.7.1-2].
                Some(next) => (*next == "#", true),
            };
            let at_it = itself.then(|| format!("{before}{wanted}"));
            let below = deeper.then(|| format!("{before}{wanted}/"));
            // Not always in this order: `a-b` stands between `a` and `a/b`.
            let target = [at_it, below].into_iter().flatten().find(|target| target.as_str() > topic);
            return Some(target.map_or_else(|| past(before), Leap::To));
        }
        at += level.len() + 1;
        if at > topic.len() {
            // The topic ends before the filter does.
            return None;
        }
    }
    // The filter ends before the topic does.
    Some(past(&topic[..at]))
}

/// The first place after everything that begins with `before`, which ends with `/` or is empty.
fn past(before: &str) -> Leap {
    match before.strip_suffix('/') {
        // '0' is the character after '/'.
        Some(levels) => Leap::To(format!("{levels}0")),
        None => Leap::End,
    }
}

#[cfg(test)]
mod tests;

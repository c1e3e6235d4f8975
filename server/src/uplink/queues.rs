//! The sessions that are saved, and what waits for each of them. Pure.
//!
//! # Invariants
//!
//! - A queue belongs to a saved session, and goes with it.
//! - A message is held once, however many queues it waits in, and no longer than one of them.
//! - A queue is bounded in messages and octets. A full one lets go of messages whose time is over, then of
//!   its oldest ones of QoS 0; when that is not enough the new message is the one that is not taken.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use muster_shared::{DeviceId, Tenant};

use super::{
    Position, SessionKey,
    bounds::Bound,
    delta::{Delta, Row},
};

/// A message that waits in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: Position,
    /// Octets it is held in.
    pub(super) size: usize,
    pub(super) qos: u8,
    /// When its time is over, Unix milliseconds.
    pub(super) expires_ms: Option<u64>,
}

impl Entry {
    fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }
}

/// One session.
#[derive(Debug)]
struct Queue {
    /// Its number in the file.
    id: i64,
    /// In the order of their positions.
    entries: VecDeque<Entry>,
    size: usize,
}

/// Every saved session.
#[derive(Debug, Default)]
pub(super) struct Queues {
    sessions: HashMap<SessionKey, Queue>,
    /// How many sessions each service has.
    services: HashMap<Arc<str>, usize>,
    /// How many queues a held message waits in.
    holders: HashMap<Position, usize>,
    /// The number last given to a session.
    last_id: i64,
}

/// What a queue did with a message it was offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It holds it, and let these go for it.
    Taken(Vec<Position>),
    /// It has no room.
    Full,
    /// There is no such session.
    Unknown,
}

impl Queue {
    /// Whether there is room for `size` octets more.
    fn fits(&self, size: usize, bound: Bound) -> bool {
        self.entries.len() < bound.messages && self.size + size <= bound.bytes
    }

    /// Whether there is room for `size` octets more once everything that may be dropped is.
    fn could_fit(&self, size: usize, now_ms: u64, bound: Bound) -> bool {
        if self.fits(size, bound) {
            return true;
        }
        let staying = self.entries.iter().filter(|entry| entry.qos > 0 && !entry.is_over(now_ms));
        let (messages, octets) = staying.fold((0, 0), |(n, sum), entry| (n + 1, sum + entry.size));
        messages < bound.messages && octets + size <= bound.bytes
    }

    /// Takes out what `may_go`, oldest first, until `size` octets more have room.
    fn drop_until(
        &mut self,
        size: usize,
        bound: Bound,
        may_go: impl Fn(&Entry) -> bool,
        out: &mut Vec<Position>,
    ) {
        let (mut messages, mut octets) = (self.entries.len(), self.size);
        self.entries.retain(|entry| {
            let fits = messages < bound.messages && octets + size <= bound.bytes;
            if fits || !may_go(entry) {
                return true;
            }
            messages -= 1;
            octets -= entry.size;
            out.push(entry.position);
            false
        });
        self.size = octets;
    }
}

impl Queues {
    /// A session that was read from the file.
    pub(super) fn load(&mut self, id: i64, key: SessionKey) {
        self.last_id = self.last_id.max(id);
        if let SessionKey::Service { name, .. } = &key {
            *self.services.entry(name.clone()).or_default() += 1;
        }
        self.sessions.insert(key, Queue { id, entries: VecDeque::new(), size: 0 });
    }

    /// A queued message that was read from the file, in the order of positions.
    pub(super) fn load_entry(&mut self, key: &SessionKey, entry: Entry) {
        if let Some(queue) = self.sessions.get_mut(key) {
            queue.size += entry.size;
            queue.entries.push_back(entry);
            *self.holders.entry(entry.position).or_default() += 1;
        }
    }

    /// Whether the session may be saved: it is there, or a device's, which has no second one, or its service
    /// has fewer than `most`.
    pub(super) fn has_place(&self, key: &SessionKey, most: usize) -> bool {
        match key {
            SessionKey::Device { .. } => true,
            SessionKey::Service { name, .. } => {
                self.sessions.contains_key(key) || self.services.get(name).is_none_or(|count| *count < most)
            }
        }
    }

    /// The session's state is now this.
    pub(super) fn save(&mut self, key: &SessionKey, state: Bytes, delta: &mut Delta) {
        let id = match self.sessions.get(key) {
            Some(queue) => queue.id,
            None => {
                self.last_id += 1;
                self.load(self.last_id, key.clone());
                self.last_id
            }
        };
        delta.sessions.insert(id, Some(Row { key: key.to_string(), state }));
    }

    /// The session and its queue go.
    pub(super) fn forget(&mut self, key: &SessionKey, delta: &mut Delta) {
        let Some(queue) = self.sessions.remove(key) else { return };
        if let SessionKey::Service { name, .. } = key
            && let Some(count) = self.services.get_mut(name)
        {
            *count -= 1;
        }
        delta.sessions.insert(queue.id, None);
        for entry in &queue.entries {
            let_go(&mut self.holders, queue.id, entry.position, delta);
        }
    }

    /// The device's session and its queue go.
    pub(super) fn purge(&mut self, tenant: &Tenant, device_id: &DeviceId, delta: &mut Delta) {
        let key = SessionKey::Device { tenant: tenant.clone(), device_id: device_id.clone() };
        self.forget(&key, delta);
    }

    /// These leave the session's queue.
    pub(super) fn dequeue(&mut self, key: &SessionKey, positions: &[Position], delta: &mut Delta) {
        let Some(queue) = self.sessions.get_mut(key) else { return };
        for position in positions {
            // In order of position, and mostly the first ones.
            let Ok(at) = queue.entries.binary_search_by_key(position, |entry| entry.position) else {
                continue;
            };
            let Some(entry) = queue.entries.remove(at) else { continue };
            queue.size -= entry.size;
            let_go(&mut self.holders, queue.id, *position, delta);
        }
    }

    /// Whether the queue could take it; `true` where there is no session, since then nothing waits.
    pub(super) fn has_room(&self, key: &SessionKey, size: usize, now_ms: u64, bound: Bound) -> bool {
        self.sessions.get(key).is_none_or(|queue| queue.could_fit(size, now_ms, bound))
    }

    /// Puts a message, newer than all others, into the session's queue if it has room.
    pub(super) fn offer(
        &mut self,
        key: &SessionKey,
        entry: Entry,
        now_ms: u64,
        bound: Bound,
        delta: &mut Delta,
    ) -> Offer {
        let Some(queue) = self.sessions.get_mut(key) else { return Offer::Unknown };
        if queue.entries.back().is_some_and(|last| last.position == entry.position) {
            return Offer::Taken(Vec::new());
        }
        if !queue.could_fit(entry.size, now_ms, bound) {
            return Offer::Full;
        }
        let mut dropped = Vec::new();
        if !queue.fits(entry.size, bound) {
            queue.drop_until(entry.size, bound, |entry| entry.is_over(now_ms), &mut dropped);
            queue.drop_until(entry.size, bound, |entry| entry.qos == 0, &mut dropped);
        }
        queue.entries.push_back(entry);
        queue.size += entry.size;
        let id = queue.id;
        delta.queue(id, entry.position);
        *self.holders.entry(entry.position).or_default() += 1;
        for position in &dropped {
            let_go(&mut self.holders, id, *position, delta);
        }
        Offer::Taken(dropped)
    }
}

/// A message left one queue.
fn let_go(holders: &mut HashMap<Position, usize>, id: i64, position: Position, delta: &mut Delta) {
    delta.unqueue(id, position);
    let Some(count) = holders.get_mut(&position) else { return };
    *count -= 1;
    if *count == 0 {
        holders.remove(&position);
        delta.release(position);
    }
}

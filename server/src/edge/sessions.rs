//! Durable sessions: what is kept of a client whose session outlives its connection.
//!
//! A session with an expiry interval is here from CONNECT until it expires, is cleaned or is purged. While its
//! client is connected the connection works with it; while it is away its device's messages gather here. What
//! is kept is in the uplink log's file too, written by the same commits: the state as one small blob, the
//! queue as rows. So after a restart everything is as it was acknowledged.
//!
//! # Invariants
//!
//! - A message that was acknowledged to its publisher and that a durable session of a device wants at QoS 1
//!   or 2 is in that session's queue, on disk, or was acknowledged by the device.
//! - A queue is bounded, by the log: what finds no room in it is dropped and counted, so that what a device is
//!   still to be told stays in order.
//! - A service has no queue here: the log is its queue, its session a cursor into it.
//! - A delayed will is sent once, or never: not when its client comes back in time (MQTT 5.0 §3.1.3.2.2), and
//!   not when its client could not publish it any more, whatever came between, a restart included.

mod downlinks;
mod saved;

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tracing::{error, warn};

use self::saved::{Saved, SavedError, Will};
use super::{
    connection::shares,
    feed::{GroupKey, Groups},
    mqtt::session::Kept,
    principal::Principal,
    roster::{Owner, Roster, ServiceClient},
    trust::Trust,
};
use crate::{
    registry::{DeviceKey, Facts, Verdicts, commands::Fate, now_ms},
    uplink::{Change, Message, Position, Publisher, SavedSession, SessionKey, StoredMessage, Ticket, Writer},
};

/// The durable sessions of this node.
pub struct Sessions {
    inner: Mutex<Inner>,
    roster: Arc<Roster>,
    verdicts: Arc<Verdicts>,
    begun: OnceLock<Begun>,
    /// Whom it is told what became of commands that waited.
    facts: OnceLock<Facts>,
    dropped: AtomicU64,
}

/// What there is once the log is open.
struct Begun {
    writer: Writer,
    groups: Arc<Groups>,
}

#[derive(Default)]
struct Inner {
    held: HashMap<Owner, Held>,
    /// When something is due of an owner that is away, Unix milliseconds.
    due: BTreeSet<(u64, Owner)>,
}

/// One session.
struct Held {
    kept: Kept,
    /// How far a service has read the log: what it has not taken of that is in flight.
    seen: Position,
    /// `None` while its client is connected.
    away: Option<Away>,
    /// As the log has it.
    queue: VecDeque<(Position, Arc<StoredMessage>)>,
}

/// What is due of a session whose client is away.
struct Away {
    since_ms: u64,
    will: Option<(u64, Message)>,
}

/// What a client comes back to.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) kept: Kept,
    pub(super) seen: Position,
}

impl Sessions {
    /// None yet. [`Sessions::begin`] follows when the log is open.
    #[must_use]
    pub fn new(roster: Arc<Roster>, verdicts: Arc<Verdicts>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            roster,
            verdicts,
            begun: OnceLock::new(),
            facts: OnceLock::new(),
            dropped: AtomicU64::new(0),
        })
    }

    /// Takes in what the log has kept. Sessions that were live when the server ended are away since then.
    ///
    /// # Panics
    /// When called twice.
    pub fn begin(&self, writer: Writer, groups: Arc<Groups>, saved: Vec<SavedSession>) {
        let now_ms = now_ms();
        let mut memberships = Vec::new();
        let mut inner = self.inner.lock();
        for one in saved.iter().filter(|one| GroupKey::of_saved(one).is_none()) {
            let read = Held::read(one, &self.verdicts, now_ms);
            // A device that is not in the registry any more has no session, and one that was to end with its
            // connection has ended.
            let ended = matches!(&read, Ok(held) if held.kept.expiry_s == 0);
            let (Some(owner), Ok(held), false) = (owner(&self.verdicts, &one.key), &read, ended) else {
                if let Err(error) = read {
                    error!(key = %one.key, %error, "a kept session cannot be read and is dropped");
                }
                drop(writer.change(Change::Forget { key: one.key.clone() }));
                continue;
            };
            if let Owner::Service(client) = &owner {
                let shared = held.kept.subscriptions().filter_map(|subscription| {
                    let key = shares::key(client, subscription)?;
                    Some((key, client.client_id.clone(), Position(subscription.since())))
                });
                memberships.extend(shared);
            }
            inner.held.extend(read.ok().map(|held| (owner.clone(), held)));
            inner.note_due(&owner);
        }
        groups.restore(saved.iter().filter_map(GroupKey::of_saved), memberships);
        drop(inner);
        assert!(self.begun.set(Begun { writer, groups }).is_ok(), "sessions begin once");
    }

    fn begun(&self) -> &Begun {
        self.begun.get().expect("the edge starts after the sessions have begun")
    }

    fn writer(&self) -> &Writer {
        &self.begun().writer
    }

    /// Those that are live.
    #[must_use]
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// The groups of shared subscriptions.
    pub(super) fn groups(&self) -> Arc<Groups> {
        Arc::clone(&self.begun().groups)
    }

    /// Tells these facts what becomes of commands that wait in sessions. The first counts.
    pub fn tell(&self, facts: Facts) {
        // Whoever set them before is told already.
        let _ = self.facts.set(facts);
    }

    /// A client connects and wants to go on with its session, if there is one: it is live from now on.
    pub(super) fn resume(&self, owner: &Owner) -> Option<Resumed> {
        let mut inner = self.inner.lock();
        inner.undue(owner);
        let held = inner.held.get_mut(owner)?;
        held.away = None;
        // What stands before what is in flight was taken before the log was told so.
        let first = held.kept.inflight().filter(|token| *token >> 48 == 0).max().map(Position);
        if let Some(last) = first {
            let in_flight: Vec<_> = held.kept.inflight().map(Position).collect();
            let stays = |at: &Position| *at > last || in_flight.contains(at);
            let taken: Vec<_> = held.queue.iter().filter(|(at, _)| !stays(at)).cloned().collect();
            held.queue.retain(|(at, _)| stays(at));
            self.settle(owner, taken.iter().map(|(_, message)| &**message), Fate::Delivered);
        }
        Some(Resumed { kept: held.kept.clone(), seen: held.seen })
    }

    /// A client connects and wants none of what was: the session before has ended, its will is due.
    pub(super) fn discard(&self, owner: &Owner, trust: &Trust) {
        let held = self.inner.lock().take_out(owner);
        let Some(held) = held else { return };
        self.lost(owner, &held, "the device began a new session");
        self.forget(owner);
        if let Some((_, will)) = held.away.and_then(|away| away.will) {
            self.send(will, trust);
        }
    }

    /// A will that is due, if its client might still publish it.
    fn send(&self, will: Message, trust: &Trust) {
        if may_send(&will, trust) {
            drop(self.writer().append(due_now(will)));
        } else {
            warn!(publisher = ?will.publisher, "a will whose service may not publish it any more is not sent");
        }
    }

    /// The state of a live session as it is to be on disk.
    pub(super) fn save(&self, owner: &Owner, kept: Kept, seen: Position) -> Change {
        let state = Saved::live(&kept, seen).encode();
        self.inner.lock().put(owner, kept, seen);
        Change::Session { key: self.key(owner), state: state.into(), done: Vec::new() }
    }

    /// A client has gone and its session stays: until it expires, or for ever with `u32::MAX` (MQTT 5.0
    /// §3.1.2.11.2). `will` is due after its delay, in milliseconds.
    pub(super) fn leave(&self, owner: &Owner, kept: Kept, seen: Position, will: Option<(u64, Message)>) {
        let since_ms = now_ms();
        let will = will.map(|(delay_ms, will)| (since_ms + delay_ms, will));
        let saved = Saved {
            since_ms: Some(since_ms),
            will: will.as_ref().map(|(due_ms, will)| Will::of(*due_ms, will)),
            ..Saved::live(&kept, seen)
        };
        {
            let mut inner = self.inner.lock();
            inner.put(owner, kept, seen).away = Some(Away { since_ms, will });
            inner.note_due(owner);
        }
        let state = saved.encode().into();
        drop(self.writer().change(Change::Session { key: self.key(owner), state, done: Vec::new() }));
    }

    /// A session has ended with its connection, or was purged.
    pub(super) fn end(&self, owner: &Owner) {
        let held = self.inner.lock().take_out(owner);
        if let Some(held) = held {
            self.lost(owner, &held, "its session ended before the device took it");
            self.forget(owner);
        }
    }

    /// Nothing of a device's stays: its session, what waits for it, what is retained on its topics. Its
    /// presence does, as the server says it. The ticket tells when that is so on disk too; dropping it
    /// changes nothing.
    pub fn purge(&self, device: DeviceKey) -> Ticket {
        let owner = Owner::from(device);
        let held = self.inner.lock().take_out(&owner);
        if let Some(held) = held {
            self.lost(&owner, &held, "nothing is sent to the device any more");
        }
        let name = self.verdicts.name(device);
        let (tenant, device_id) = (name.tenant.clone(), name.device_id.clone());
        self.writer().change(Change::Purge { tenant, device_id })
    }

    fn forget(&self, owner: &Owner) {
        if let Owner::Service(client) = owner {
            self.begun().groups.end(&client.name, &client.client_id);
        }
        drop(self.writer().change(Change::Forget { key: self.key(owner) }));
    }

    /// The message that waits for a device at this position.
    pub(super) fn waiting(&self, owner: &Owner, at: Position) -> Option<Arc<StoredMessage>> {
        let inner = self.inner.lock();
        let queue = &inner.held.get(owner)?.queue;
        let index = queue.binary_search_by_key(&at, |(position, _)| *position).ok()?;
        Some(Arc::clone(&queue[index].1))
    }

    /// The next message that waits for a device after this position.
    pub(super) fn next(&self, owner: &Owner, after: Position) -> Option<(Position, Arc<StoredMessage>)> {
        let inner = self.inner.lock();
        let queue = &inner.held.get(owner)?.queue;
        let at = queue.partition_point(|(position, _)| *position <= after);
        queue.get(at).cloned()
    }

    /// These messages wait for a device no more: it has them, or they come to it no more.
    pub(super) fn done(&self, owner: &Owner, positions: Vec<Position>, fate: Fate) {
        let taken = self.inner.lock().held.get_mut(owner).map(|held| held.remove(&positions));
        self.settle(owner, taken.iter().flatten().map(|message| &**message), fate);
        drop(self.writer().change(Change::Dequeue { key: self.key(owner), positions }));
    }

    /// Sends the wills and ends the sessions that are due, and saves how far groups have read. Call it a few
    /// times a second.
    pub fn tick(&self, now_ms: u64, trust: &Trust) {
        for change in self.begun().groups.changes() {
            drop(self.writer().change(change));
        }
        loop {
            let due = self.inner.lock().take_due(now_ms);
            match due {
                None => return,
                Some((owner, Due::Will(will))) => {
                    self.send(*will, trust);
                    self.inner.lock().note_due(&owner);
                }
                Some((owner, Due::Expired(held))) => {
                    self.lost(&owner, &held, "its session expired before the device came back");
                    self.forget(&owner);
                }
            }
        }
    }

    /// Sessions held, and messages that found no room in a queue.
    #[must_use]
    pub fn counts(&self) -> (usize, u64) {
        (self.inner.lock().held.len(), self.dropped.load(Ordering::Relaxed))
    }

    fn key(&self, owner: &Owner) -> SessionKey {
        match owner {
            Owner::Device(device) => {
                let name = self.verdicts.name(*device);
                SessionKey::Device { tenant: name.tenant.clone(), device_id: name.device_id.clone() }
            }
            Owner::Service(client) => {
                SessionKey::Service { name: client.name.clone(), client_id: client.client_id.clone() }
            }
        }
    }
}

fn owner(verdicts: &Verdicts, key: &SessionKey) -> Option<Owner> {
    Some(match key {
        SessionKey::Device { tenant, device_id } => verdicts.by_id(tenant, device_id)?.into(),
        SessionKey::Service { name, client_id } => {
            Owner::Service(Arc::new(ServiceClient { name: name.clone(), client_id: client_id.clone() }))
        }
    })
}

/// What is due of an owner that is away.
enum Due {
    Will(Box<Message>),
    Expired(Box<Held>),
}

/// May the client of this will still publish it, for all that the commit does not ask? A device's topic is its
/// own by its name, and its verdict is read at the commit. A service may have lost its entry in the configuration
/// since, or the entry this topic; or the configuration has withdrawn its certificate.
fn may_send(will: &Message, trust: &Trust) -> bool {
    let Publisher::Service { name, shown, .. } = &will.publisher else { return true };
    let (Some(shown), Some(service)) = (shown, trust.service(name)) else { return false };
    let topic = std::str::from_utf8(&will.topic);
    let its = topic.is_ok_and(|topic| Principal::Service(Arc::clone(service)).may_publish(topic).is_ok());
    its && !trust.revoked(&shown.certificate)
}

/// A will was received when it is sent: its message expiry counts from then [MQTT-3.1.3-10].
fn due_now(will: Message) -> Message {
    Message { received_ms: now_ms(), ..will }
}

impl Inner {
    /// The owner's session with this state, as a live one.
    fn put(&mut self, owner: &Owner, kept: Kept, seen: Position) -> &mut Held {
        match self.held.entry(owner.clone()) {
            Entry::Occupied(held) => {
                let held = held.into_mut();
                (held.kept, held.seen, held.away) = (kept, seen, None);
                held
            }
            Entry::Vacant(place) => place.insert(Held::new(kept, seen)),
        }
    }

    /// When the owner must be looked at again: its will's time, or its session's end.
    fn note_due(&mut self, owner: &Owner) {
        if let Some(due_ms) = self.held.get(owner).and_then(Held::due_ms) {
            self.due.insert((due_ms, owner.clone()));
        }
    }

    fn undue(&mut self, owner: &Owner) {
        if let Some(due_ms) = self.held.get(owner).and_then(Held::due_ms) {
            self.due.remove(&(due_ms, owner.clone()));
        }
    }

    /// The owner has no session any more; nothing is due of it.
    fn take_out(&mut self, owner: &Owner) -> Option<Held> {
        self.undue(owner);
        self.held.remove(owner)
    }

    fn take_due(&mut self, now_ms: u64) -> Option<(Owner, Due)> {
        self.due.first().filter(|(due_ms, _)| *due_ms <= now_ms)?;
        let (_, owner) = self.due.pop_first()?;
        let held = self.held.get_mut(&owner).expect("what is due is held");
        let away = held.away.as_mut().expect("what is due is away");
        // A will goes before the end of its session, or with it [MQTT-3.1.2-8].
        if let Some((_, will)) = away.will.take() {
            return Some((owner, Due::Will(Box::new(will))));
        }
        let held = self.held.remove(&owner).expect("it was there just now");
        Some((owner, Due::Expired(Box::new(held))))
    }
}

impl Held {
    fn new(kept: Kept, seen: Position) -> Self {
        Self { kept, seen, away: None, queue: VecDeque::new() }
    }

    /// What the log has kept. A session that was live when the server ended is away since now.
    fn read(one: &SavedSession, verdicts: &Verdicts, now_ms: u64) -> Result<Self, SavedError> {
        let saved = Saved::decode(&one.state)?;
        let mut held = Self::new(Kept::decode(&saved.kept)?, Position(saved.seen));
        let will = saved.will.and_then(|will| Some((will.due_ms, will.message(&one.key, verdicts)?)));
        held.away = Some(Away { since_ms: saved.since_ms.unwrap_or(now_ms), will });
        held.queue = one.queue.iter().cloned().collect();
        Ok(held)
    }

    /// Takes messages out of the queue.
    fn remove(&mut self, positions: &[Position]) -> Vec<Arc<StoredMessage>> {
        let all = self.queue.iter().filter(|(position, _)| positions.contains(position));
        let taken = all.map(|(_, message)| Arc::clone(message)).collect();
        self.queue.retain(|(position, _)| !positions.contains(position));
        taken
    }

    fn ends_ms(&self) -> Option<u64> {
        let since_ms = self.away.as_ref()?.since_ms;
        (self.kept.expiry_s != u32::MAX).then(|| since_ms + u64::from(self.kept.expiry_s) * 1000)
    }

    /// A will is due after its delay or at the session's end, whichever comes first [MQTT-3.1.3-9].
    fn due_ms(&self) -> Option<u64> {
        let will_ms = self.away.as_ref()?.will.as_ref().map(|(due_ms, _)| *due_ms);
        [will_ms, self.ends_ms()].into_iter().flatten().min()
    }
}

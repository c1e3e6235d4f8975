//! What becomes of each message and change of a batch, if the commit succeeds. Pure: verdicts, what is kept
//! and the time in; one segment, its net changes, who is handed what, and one outcome each out.

use std::sync::Arc;

use bytes::Bytes;
use muster_shared::{Code, telemetry::Boot};

use super::{
    Addressed, Change, Downlinks, Message, Outcome, Position, Publisher, SessionKey, StoredMessage,
    bounds::Bounds,
    dedup::Windows,
    delta::Delta,
    expiry::expires_ms,
    owners::{Owners, is_presence, owner},
    queues::{Entry, Offer, Queues},
    retained, segment,
};
use crate::registry::{DeviceKey, Verdicts};

/// What is handed to the writer.
#[derive(Debug)]
pub(super) enum Item {
    Message(Message),
    Change(Change),
}

/// What the writer knows of everything kept, as the batch that is being planned leaves it. When the commit
/// fails it is to be read back from the file.
pub(super) struct State {
    pub(super) windows: Windows,
    pub(super) queues: Queues,
    pub(super) owners: Owners,
}

/// A batch, planned.
#[derive(Debug)]
pub(super) struct Plan {
    /// The segment to commit.
    pub(super) body: Vec<u8>,
    /// Messages in it; with none there is no segment.
    pub(super) count: u32,
    /// What changes beside it.
    pub(super) delta: Delta,
    /// Stored messages that somebody is to be handed.
    pub(super) addressed: Vec<Addressed>,
    /// One each, in order; true when the commit has succeeded.
    pub(super) outcomes: Vec<Outcome>,
}

/// Plans batches.
pub(super) struct Planner<'p> {
    pub(super) verdicts: &'p Verdicts,
    pub(super) downlinks: &'p dyn Downlinks,
    pub(super) bounds: &'p Bounds,
    /// Unix milliseconds.
    pub(super) now_ms: u64,
    /// The last message on disk.
    pub(super) last: Position,
}

/// What is to be kept of a message, beside its record in the segment.
struct Kept<'k> {
    /// A body of its own.
    body: Bytes,
    /// As it is read from there.
    message: StoredMessage,
    expires_ms: Option<u64>,
    /// Somebody is handed it.
    wanted: bool,
    /// The topic it is retained on, and for whom it counts.
    retained: Option<(&'k str, Option<Arc<str>>)>,
}

impl Planner<'_> {
    /// Plans a batch, and takes what it changes into `state`.
    pub(super) fn plan<'m>(&self, items: impl Iterator<Item = &'m Item>, state: &mut State) -> Plan {
        let mut plan = Plan {
            body: segment::begin(),
            count: 0,
            delta: Delta::default(),
            addressed: Vec::new(),
            outcomes: Vec::new(),
        };
        state.owners.end(self.now_ms, &mut plan.delta);
        let mut targets = Vec::new();
        for item in items {
            let outcome = match item {
                Item::Message(message) => self.message(&mut plan, state, message, &mut targets),
                Item::Change(change) if !self.has_place(change, state) => {
                    Outcome::Refused(Code::SessionsFull)
                }
                Item::Change(change) => {
                    apply(change, state, &mut plan.delta);
                    Outcome::Stored(self.position(&plan))
                }
            };
            plan.outcomes.push(outcome);
        }
        plan
    }

    /// Of the last message stored so far.
    fn position(&self, plan: &Plan) -> Position {
        Position(self.last.0 + u64::from(plan.count))
    }

    fn message(
        &self,
        plan: &mut Plan,
        state: &mut State,
        message: &Message,
        targets: &mut Vec<SessionKey>,
    ) -> Outcome {
        if let Some(code) = self.refusal(message) {
            return Outcome::Refused(code);
        }
        if message.state.as_ref().is_some_and(|change| !self.has_place(change, state)) {
            return Outcome::Refused(Code::SessionsFull);
        }
        let named = named(message);
        if let Some((device, boot, seq)) = named
            && let Some(position) = state.windows.find(device, boot, seq)
        {
            apply_own(message, state, &mut plan.delta);
            return Outcome::Duplicate(position);
        }
        targets.clear();
        let wanted = self.downlinks.targets(message, targets) || !targets.is_empty();
        let kept = match self.keep(message, wanted, targets, state, &plan.delta) {
            Ok(kept) => kept,
            Err(code) => return Outcome::Refused(code),
        };
        segment::push(&mut plan.body, message, |device| self.verdicts.name(device));
        plan.count += 1;
        let position = self.position(plan);
        if let Some((device, boot, seq)) = named {
            state.windows.put(device, boot, seq, position);
        }
        if let Some(kept) = kept {
            self.store(plan, state, message, kept, targets);
        }
        apply_own(message, state, &mut plan.delta);
        Outcome::Stored(position)
    }

    /// The verdict is read here, after the batch has begun and before its commit: a decision that flipped it
    /// earlier is obeyed, and one that flips it later waits in the barrier until this batch has ended.
    fn refusal(&self, message: &Message) -> Option<Code> {
        let now_s = i64::try_from(self.now_ms / 1000).unwrap_or(i64::MAX);
        match &message.publisher {
            Publisher::Device { device, certificate } => {
                self.verdicts.may_talk(*device, certificate, now_s).err()
            }
            Publisher::Service { shown, .. } => {
                let shown = shown.as_ref()?;
                let withdrawn = self.verdicts.withdrawn(&shown.certificate, &shown.issuer_key_id);
                withdrawn.or((now_s > shown.not_after_s).then_some(Code::CertificateExpired))
            }
            Publisher::Server { device } => {
                let presence = std::str::from_utf8(&message.topic).is_ok_and(is_presence);
                self.verdicts.refusal(*device).filter(|_| !presence)
            }
        }
    }

    /// Whether a session that would begin with the change may.
    fn has_place(&self, change: &Change, state: &State) -> bool {
        match change {
            Change::Session { key, .. } => state.queues.has_place(key, self.bounds.service_sessions),
            Change::Forget { .. } | Change::Dequeue { .. } | Change::Purge { .. } => true,
        }
    }

    /// What is to be kept of it, if anything and if there is room.
    fn keep<'m>(
        &self,
        message: &'m Message,
        wanted: bool,
        targets: &[SessionKey],
        state: &State,
        delta: &Delta,
    ) -> Result<Option<Kept<'m>>, Code> {
        if !message.retain && !wanted {
            return Ok(None);
        }
        let mut body = segment::begin();
        segment::push(&mut body, message, |device| self.verdicts.name(device));
        // Held for long, so in no more octets than it has.
        let body = Bytes::from(body.into_boxed_slice());
        if let [only] = targets
            && is_asked_for(message, only)
            && !state.queues.has_room(only, body.len(), self.now_ms, self.bounds.queue)
        {
            return Err(Code::QueueFull);
        }
        let expires_ms = expires_ms(&message.properties, message.received_ms);
        let read = segment::read_one(Position::default(), &body);
        let stored = read.expect("the reader of the format reads what its writer wrote");
        let mut kept = Kept { body, message: stored, expires_ms, wanted, retained: None };
        if message.retain {
            let topic = std::str::from_utf8(&message.topic).map_err(|_| Code::TopicNotIts)?;
            let owner = owner(topic, &kept.message);
            let entry = kept.entry(Position::default(), owner.clone());
            if !message.payload.is_empty() && !state.owners.has_room(topic, &entry, self.bounds, delta) {
                return Err(Code::RetainedFull);
            }
            kept.retained = Some((topic, owner));
        }
        Ok(Some(kept))
    }

    /// Keeps what is to be kept of the message that was stored last.
    fn store(
        &self,
        plan: &mut Plan,
        state: &mut State,
        message: &Message,
        kept: Kept<'_>,
        targets: &mut Vec<SessionKey>,
    ) {
        let position = self.position(plan);
        match &kept.retained {
            Some((topic, _)) if message.payload.is_empty() => state.owners.remove(topic, &mut plan.delta),
            Some((topic, owner)) => {
                let entry = kept.entry(position, owner.clone());
                state.owners.put(topic, entry, &mut plan.delta);
            }
            None => {}
        }
        if kept.wanted {
            let mut addressed = Addressed {
                position,
                message: Arc::new(kept.message),
                queued: Vec::new(),
                missed: Vec::new(),
                dropped: Vec::new(),
            };
            let (size, qos) = (kept.body.len(), message.qos);
            let entry = Entry { position, size, qos, expires_ms: kept.expires_ms };
            for key in targets.drain(..) {
                match state.queues.offer(&key, entry, self.now_ms, self.bounds.queue, &mut plan.delta) {
                    Offer::Taken(dropped) => {
                        addressed.dropped.extend(dropped.into_iter().map(|position| (key.clone(), position)));
                        addressed.queued.push(key);
                    }
                    Offer::Full => addressed.missed.push(key),
                    Offer::Unknown => {}
                }
            }
            if !addressed.queued.is_empty() {
                plan.delta.held.insert(position, kept.body.clone());
            }
            plan.addressed.push(addressed);
        }
    }
}

impl Kept<'_> {
    fn entry(&self, position: Position, owner: Option<Arc<str>>) -> retained::Entry {
        retained::Entry { position, body: self.body.clone(), expires_ms: self.expires_ms, owner }
    }
}

/// What a repeated message is recognised by: only devices number theirs.
fn named(message: &Message) -> Option<(DeviceKey, Boot, u64)> {
    match (&message.publisher, message.name) {
        (Publisher::Device { device, .. }, Some((boot, seq))) => Some((*device, boot, seq)),
        _ => None,
    }
}

/// Whether a service, or the server for the fleet, is told that the one device it speaks to has no room: so it
/// learns of it, and nothing is lost silently. What is sent to many, or by the device itself, is stored all the
/// same.
fn is_asked_for(message: &Message, key: &SessionKey) -> bool {
    let SessionKey::Device { tenant, device_id } = key else { return false };
    let told = match &message.publisher {
        Publisher::Service { .. } => true,
        Publisher::Server { .. } => message.is_to_device(),
        Publisher::Device { .. } => false,
    };
    let own = format!("{tenant}/{device_id}/");
    told && message.qos > 0 && message.topic.starts_with(own.as_bytes())
}

fn apply_own(message: &Message, state: &mut State, delta: &mut Delta) {
    if let Some(change) = &message.state {
        apply(change, state, delta);
    }
}

fn apply(change: &Change, state: &mut State, delta: &mut Delta) {
    match change {
        Change::Session { key, state: blob, done } => {
            state.queues.save(key, blob.clone(), delta);
            state.queues.dequeue(key, done, delta);
        }
        Change::Forget { key } => state.queues.forget(key, delta),
        Change::Dequeue { key, positions } => state.queues.dequeue(key, positions, delta),
        Change::Purge { tenant, device_id } => {
            state.queues.purge(tenant, device_id, delta);
            state.owners.purge(tenant, device_id, delta);
        }
    }
}

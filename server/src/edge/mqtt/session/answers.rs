//! Answers that wait until what they say is on disk, in the order in which they leave.
//!
//! What is handed over ([`Command::Append`], [`Command::Save`]) is counted, and its fate comes back in the
//! same order; an answer remembers the count of what it waits for. One that is ready still waits for those
//! before it, so PUBACKs, PUBRECs and PUBRELs leave in the order of what they answer [MQTT-4.6.0-2],
//! [MQTT-4.6.0-3], [MQTT-4.6.0-4].
//!
//! [`Command::Append`]: super::Command::Append
//! [`Command::Save`]: super::Command::Save

use std::collections::VecDeque;

use muster_shared::Code;

/// Answers a session has room for while it is idle.
const KEPT: usize = 4;
/// What may wait, in receive maxima: a client that heeds its own and sends as much again at QoS 0 is still read.
const ROOM: usize = 2;

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    /// The oldest prepared packet.
    Prepared,
}

/// What an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The fate of what was handed over with this count.
    Handed(u32),
    /// The same, to refuse for this reason then.
    HandedToRefuse(u32, Code),
    /// Nothing but those before it.
    Ready,
    /// Nothing but those before it, to refuse.
    Refuse(Code),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    /// Packet identifier; 0 of a prepared packet that is no PUBLISH.
    pub(super) id: u16,
    pub(super) kind: Kind,
    pub(super) wait: Wait,
}

#[derive(Debug, Default)]
pub(super) struct Answers {
    queue: VecDeque<Answer>,
    /// Packets that were written when they were decided on.
    #[expect(clippy::box_collection, reason = "a pointer, where most sessions hold none")]
    prepared: Option<Box<VecDeque<Vec<u8>>>>,
    /// Counts, wrapping: what was handed over, and fates that came back.
    handed: u32,
    told: u32,
    /// PUBACKs in the queue.
    pubacks: u16,
    /// The receive maximum the client was told.
    receive_max: u16,
}

impl Answers {
    pub(super) fn of(receive_max: u16) -> Self {
        Self { receive_max, ..Self::default() }
    }

    pub(super) fn has_room(&self) -> bool {
        let room = ROOM * usize::from(self.receive_max);
        self.outstanding() < room && self.queue.len() < room
    }

    /// Handed over, and its fate not known.
    pub(super) fn outstanding(&self) -> usize {
        self.handed.wrapping_sub(self.told) as usize
    }

    /// QoS 1 messages of the client that have no answer yet.
    pub(super) fn unanswered(&self) -> u16 {
        self.pubacks
    }

    /// Counts one more thing handed over; the answer that waits for it is pushed with what this returns.
    pub(super) fn hand_over(&mut self) -> Wait {
        self.handed = self.handed.wrapping_add(1);
        Wait::Handed(self.handed)
    }

    pub(super) fn push(&mut self, id: u16, kind: Kind, wait: Wait) {
        self.pubacks += u16::from(kind == Kind::PubAck);
        self.queue.push_back(Answer { id, kind, wait });
    }

    /// `id`: of a PUBLISH; 0 for all else.
    pub(super) fn push_prepared(&mut self, id: u16, packet: Vec<u8>, wait: Wait) {
        self.prepared.get_or_insert_default().push_back(packet);
        self.push(id, Kind::Prepared, wait);
    }

    /// Does this answer wait to leave?
    pub(super) fn holds(&self, kind: Kind, id: u16) -> bool {
        self.queue.iter().any(|one| one.kind == kind && one.id == id)
    }

    /// A fate came back: the answer that waits for it, if any does. `None` too when nothing was handed over.
    pub(super) fn told(&mut self) -> Option<&mut Answer> {
        if self.outstanding() == 0 {
            return None;
        }
        self.told = self.told.wrapping_add(1);
        let told = self.told;
        self.queue.iter_mut().find(|one| match one.wait {
            Wait::Handed(count) | Wait::HandedToRefuse(count, _) => count == told,
            Wait::Ready | Wait::Refuse(_) => false,
        })
    }

    /// A PUBREC that is to be refused waits for one thing more.
    pub(super) fn wait_to_refuse(&mut self, id: u16, count: u32, code: Code) {
        let of = |one: &&mut Answer| one.kind == Kind::PubRec && one.id == id;
        if let Some(one) = self.queue.iter_mut().find(of) {
            one.wait = Wait::HandedToRefuse(count, code);
        }
    }

    /// QoS 2 messages of the client whose fate is not known.
    pub(super) fn unsettled_pubrecs(&self) -> Vec<u16> {
        let told = self.told;
        let unknown = |one: &&Answer| {
            let waits = |count: u32| (count.wrapping_sub(told) as i32) > 0;
            one.kind == Kind::PubRec && matches!(one.wait, Wait::Handed(count) if waits(count))
        };
        self.queue.iter().filter(unknown).map(|one| one.id).collect()
    }

    /// The next answer that may leave.
    pub(super) fn next(&mut self) -> Option<Answer> {
        let &front = self.queue.front()?;
        if matches!(front.wait, Wait::Handed(_) | Wait::HandedToRefuse(..)) {
            return None;
        }
        self.queue.pop_front();
        self.pubacks -= u16::from(front.kind == Kind::PubAck);
        if self.queue.is_empty() && self.queue.capacity() > KEPT {
            // An idle session gives back what a burst took.
            self.queue = VecDeque::new();
        }
        Some(front)
    }

    /// The packet of an answer that leaves as [`Kind::Prepared`].
    pub(super) fn take_prepared(&mut self) -> Option<Vec<u8>> {
        let prepared = self.prepared.as_mut()?;
        let one = prepared.pop_front();
        if prepared.is_empty() {
            self.prepared = None;
        }
        one
    }
}

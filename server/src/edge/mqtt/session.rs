//! One client's session, as a machine: octets and the time in, octets and commands out.
//!
//! ```text
//!   Fresh ──CONNECT──► Gate ──admit──► Running ──► Ended
//!     └─ anything else, deadline ─► Ended ◄─refuse─┘
//! ```
//!
//! The session does nothing by itself. It asks ([`Command::Connect`]) and is told ([`Session::admit`],
//! [`Session::refuse`]); it hands over what the client published ([`Command::Append`]) and its own state
//! ([`Command::Save`]), and is told, in the same order, what became of it ([`Session::settled`]).
//!
//! # Invariants
//!
//! - PUBACK and PUBREC leave only after [`Session::settled`] said that their message is stored; PUBCOMP,
//!   PUBREL, SUBACK, UNSUBACK and a PUBLISH of QoS 2 of a session that goes on without its connection, only
//!   after it said so of the state. They leave in the order of what they answer.
//! - What a client publishes, subscribes to, wills and receives is decided by the [`Principal`] of its
//!   certificate, never from what it says of itself.
//! - No two messages to the client are in flight under one packet identifier.
//! - After [`Command::Close`] nothing more comes out, and nothing that comes in is looked at.
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | `command` | what goes in and comes out besides octets |
//! | `admit` | CONNECT and CONNACK |
//! | `running` | the state of a session that was let in |
//! | `answers` | answers that wait for the disk, in order |
//! | `inbound` | what the client publishes |
//! | `outbound` | what the client is sent |
//! | `subscriptions` | what it is subscribed to |
//! | `replays` | which retained messages are due |
//! | `kept` | what goes on without a connection, and its form on disk |
//! | `will` | the will |

mod admit;
mod answers;
mod command;
mod inbound;
mod kept;
mod outbound;
mod replays;
mod running;
mod subscriptions;
#[cfg(test)]
mod tests;
mod will;

use std::sync::Arc;

use muster_shared::{Code, limits::PACKET_MAX};

use self::running::Running;
pub use self::{
    command::{Admission, Command, Delivery, Fate, Output, Replay, Request, Uplink, Via},
    kept::{Kept, KeptError},
    subscriptions::Subscription,
};
use super::{
    codec::{self, Fault, Frame, Reason},
    packet::{Disconnect, Packet},
    v5,
};
use crate::{
    edge::{
        farewell::Farewell,
        limits::{KEEP_ALIVE_HALVES, Limits as Bounds, SessionLimits},
        principal::Principal,
        roster::{DeliverError, Delivered, Protocol},
    },
    registry::DisconnectReason,
};

/// One client's session.
#[derive(Debug)]
pub struct Session {
    who: Principal,
    /// When the last whole packet came, milliseconds on the caller's clock.
    heard_ms: u64,
    /// Octets of a packet.
    packet_max: usize,
    bounds: Arc<SessionLimits>,
    /// The log's position: a subscription made now finds what comes after it.
    mark: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// CONNECT has to come until then.
    Fresh(u64),
    Gate(Box<Running>, Entry),
    Running(Box<Running>),
    /// With what goes on without the connection.
    Ended(Option<Box<Running>>),
}

/// What CONNACK needs of CONNECT.
#[derive(Debug)]
struct Entry {
    assign_id: bool,
    response_info: bool,
}

impl Session {
    /// The session of a client that has just proved to be this one.
    #[must_use]
    pub fn new(who: Principal, bounds: &Bounds, now_ms: u64) -> Self {
        let deadline_ms = now_ms + bounds.connect.as_millis() as u64;
        let packet_max = bounds.packet.min(PACKET_MAX);
        let bounds = Arc::clone(&bounds.sessions);
        Self { who, heard_ms: now_ms, packet_max, bounds, mark: 0, state: State::Fresh(deadline_ms) }
    }

    /// The position committed last in the log. Call it before [`Session::input`]: a subscription made there
    /// finds what is committed from now on.
    pub fn mark(&mut self, position: u64) {
        self.mark = position;
    }

    /// Reads what came; returns the octets used up. The rest must be offered again, with more behind it,
    /// when more has come or when [`Session::listens`] turns true again.
    pub fn input(&mut self, now_ms: u64, bytes: &[u8], out: &mut Output) -> usize {
        let mut used = 0;
        while self.listens() {
            match codec::frame(&bytes[used..], self.packet_max) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    used += frame.len;
                    self.heard_ms = now_ms;
                    self.packet(&frame, out);
                }
                Err(fault) => self.fail(fault, out),
            }
        }
        // What an ended session did not read is nobody's.
        if self.ended() { bytes.len() } else { used }
    }

    /// Would [`Session::input`] look at a packet now? Not while the gate decides, while too many messages
    /// wait for the uplink log (TCP holds the client back meanwhile), or after the end.
    #[must_use]
    pub fn listens(&self) -> bool {
        match &self.state {
            State::Fresh(_) => true,
            State::Running(running) => running.answers.has_room(),
            State::Gate(..) | State::Ended(_) => false,
        }
    }

    /// Is the session over?
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// When [`Session::tick`] must be called; `None`: only something else can end the wait.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        match &self.state {
            State::Fresh(deadline_ms) => Some(*deadline_ms),
            State::Running(running) if running.keep_alive_s > 0 && self.listens() => {
                Some(self.heard_ms + u64::from(running.keep_alive_s) * 1000 * KEEP_ALIVE_HALVES / 2)
            }
            _ => None,
        }
    }

    /// The caller did not read for a while, of its own accord; the client's silence starts now.
    pub fn excuse(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64, out: &mut Output) {
        if self.deadline_ms().is_some_and(|deadline| now_ms >= deadline) {
            let farewell = match self.state {
                State::Fresh(_) => (DisconnectReason::ProtocolError, Code::ConnectTimeout).into(),
                _ => DisconnectReason::KeepAliveTimeout.into(),
            };
            self.end(farewell, out);
        }
    }

    /// The fate of the oldest message or state handed over whose fate was not known. After the end it is
    /// still heard, for [`Session::close_state`].
    pub fn settled(&mut self, now_ms: u64, fate: Fate, out: &mut Output) {
        let was_deaf = !self.listens();
        let running = match &mut self.state {
            State::Running(running) => running,
            State::Ended(Some(running)) => return running.settled_unanswered(fate),
            State::Fresh(_) | State::Gate(..) | State::Ended(None) => return,
        };
        if let Err(farewell) = running.settled(fate, out) {
            self.end(farewell, out);
        } else if was_deaf && self.listens() {
            // The client could not make itself heard; its silence starts now.
            self.heard_ms = now_ms;
        }
    }

    /// Messages and states handed over whose fate is not known.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        match &self.state {
            State::Running(running) | State::Ended(Some(running)) => running.answers.outstanding(),
            State::Fresh(_) | State::Gate(..) | State::Ended(None) => 0,
        }
    }

    /// May one more message be delivered now?
    #[must_use]
    pub fn has_room(&self) -> bool {
        matches!(&self.state, State::Running(running) if running.has_room_for_downlink(&self.who))
    }

    /// Would a fresh message be found by a subscription of the client's own? Shared ones are not asked.
    #[must_use]
    pub fn matches(&self, topic: &str, from_self: bool, position: u64) -> bool {
        let State::Running(running) = &self.state else { return false };
        running.subscriptions.fresh(topic, from_self, position).next().is_some()
            && self.who.may_receive(topic)
    }

    /// Sends a message to the client. `None`: its fate comes as [`Command::Delivered`] with this token.
    /// Call it only when there is room. A token that a session that goes on had in flight is sent again
    /// under its packet identifier; one that the client has acknowledged before comes back as that.
    ///
    /// # Errors
    /// [`DeliverError`]: it was not sent. For the sender of [`DeliverError::TooLarge`] and
    /// [`DeliverError::Expired`] that is as if it had been [MQTT-3.1.2-25].
    pub fn deliver(
        &mut self,
        token: u64,
        message: &Delivery<'_>,
        out: &mut Output,
    ) -> Result<Option<Delivered>, DeliverError> {
        let State::Running(running) = &mut self.state else { return Err(DeliverError::Ended) };
        if !self.who.may_receive(message.topic) {
            return Err(DeliverError::NotSubscribed);
        }
        running.deliver(token, message, out)
    }

    /// The subscription whose retained messages are to be delivered next, if any are due. Tell
    /// [`Session::replay_at`] of each before it is delivered, and [`Session::replayed`] when there are no more.
    #[must_use]
    pub fn replay(&self) -> Option<&Replay> {
        match &self.state {
            State::Running(running) => running.replay(),
            State::Fresh(_) | State::Gate(..) | State::Ended(_) => None,
        }
    }

    /// What is retained on this topic is delivered now, or is not for this client: the [replay](Self::replay)
    /// goes on behind it.
    pub fn replay_at(&mut self, topic: &str) {
        if let State::Running(running) = &mut self.state
            && let Some(replay) = running.replays.first_mut()
        {
            replay.after = Some(topic.into());
        }
    }

    /// All that was due of the [replay](Self::replay) was delivered.
    pub fn replayed(&mut self, out: &mut Output) {
        let State::Running(running) = &mut self.state else { return };
        if running.replays.end_first() {
            running.changed(out);
        }
    }

    /// Everything a session that goes on had in flight was delivered again; what was not is given up.
    pub fn resumed(&mut self, out: &mut Output) {
        if let State::Running(running) = &mut self.state {
            running.resumed(out);
        }
    }

    /// The session expiry interval in force, seconds; 0: the session ends with its connection. A client may
    /// change it as it leaves.
    #[must_use]
    pub fn expiry_s(&self) -> u32 {
        match &self.state {
            State::Running(running) | State::Ended(Some(running)) => running.expiry_s(),
            State::Fresh(_) | State::Gate(..) | State::Ended(None) => 0,
        }
    }

    /// The state to commit for [`Command::Changed`], when every command before it was obeyed.
    #[must_use]
    pub fn kept(&self) -> Option<Kept> {
        match &self.state {
            State::Running(running) => Some(running.kept()),
            State::Fresh(_) | State::Gate(..) | State::Ended(_) => None,
        }
    }

    /// After the end: the state of a session that goes on; `None`, once and for all, of one that does not.
    /// Ask when nothing is [outstanding](Self::outstanding) any more: a QoS 2 message whose fate is not known
    /// counts as not stored, and is taken from the client when it sends it again.
    pub fn close_state(&mut self) -> Option<Kept> {
        match &mut self.state {
            State::Ended(running) => running.take().map(|mut running| {
                running.forget_unsettled();
                running.kept()
            }),
            State::Fresh(_) | State::Gate(..) | State::Running(_) => None,
        }
    }

    /// What the client is subscribed to.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        let running = match &self.state {
            State::Running(running) => Some(running),
            State::Fresh(_) | State::Gate(..) | State::Ended(_) => None,
        };
        running.into_iter().flat_map(|running| running.subscriptions.iter()).map(|one| &**one)
    }

    /// Ends the session: says so where the version can, and hands over the will where it is due.
    pub fn end(&mut self, farewell: Farewell, out: &mut Output) {
        self.close(farewell, Some(Reason(farewell.mqtt())), !farewell.drops_will(), out);
    }

    /// The connection is gone, without a DISCONNECT from either side.
    pub fn lost(&mut self, out: &mut Output) {
        self.close(DisconnectReason::ConnectionLost.into(), None, true, out);
    }

    fn fail(&mut self, fault: Fault, out: &mut Output) {
        let why = match fault.reason {
            Reason::NOT_AUTHORIZED => DisconnectReason::TopicRefused,
            _ => DisconnectReason::ProtocolError,
        };
        self.close((why, fault.code()).into(), Some(fault.reason), true, out);
    }

    /// `say`: the reason of our DISCONNECT, where there is to be one. `will`: whether the will is due.
    fn close(&mut self, farewell: Farewell, say: Option<Reason>, will: bool, out: &mut Output) {
        match std::mem::replace(&mut self.state, State::Ended(None)) {
            ended @ State::Ended(_) => {
                self.state = ended;
                return;
            }
            State::Running(mut running) => {
                if let (Protocol::V5, Some(reason)) = (running.protocol, say) {
                    v5::disconnect(&mut out.bytes, reason, farewell.code, &running.client);
                }
                let due = running.will.take().filter(|_| will);
                out.commands.extend(due.map(|due| due.due(&self.who, running.expiry_s())));
                self.state = State::Ended(running.goes_on().then_some(running));
            }
            // Before CONNACK there is no DISCONNECT to send [MQTT-3.14.0-1].
            State::Fresh(_) | State::Gate(..) => {}
        }
        out.commands.push(Command::Close(farewell));
    }

    fn packet(&mut self, frame: &Frame<'_>, out: &mut Output) {
        let running = match &mut self.state {
            State::Fresh(_) => return self.connect(frame, out),
            State::Running(running) => running,
            State::Gate(..) | State::Ended(_) => return,
        };
        let done = match Packet::read(frame, running.protocol) {
            Ok(Packet::Disconnect(leave)) => return self.leave(leave, out),
            Ok(packet) => running.handle(&self.who, packet, frame.body, self.mark, out),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = done {
            self.fail(fault, out);
        }
    }

    /// The client leaves in order: its will goes with it, unless it says otherwise [MQTT-3.14.4-3].
    fn leave(&mut self, leave: Disconnect, out: &mut Output) {
        if let (State::Running(running), Some(expiry_s)) = (&mut self.state, leave.expiry_s) {
            if expiry_s != 0 && running.expiry_asked_s == 0 {
                // MQTT 5.0 §3.14.2.2.2
                return self.fail(Fault::protocol("session expiry raised from 0"), out);
            }
            running.expiry_asked_s = expiry_s;
        }
        let will = leave.reason != Reason::SUCCESS;
        self.close(DisconnectReason::ClientInitiated.into(), None, will, out);
    }
}

//! One client's session, as a machine: octets and the time in, octets and commands out.
//!
//! ```text
//!   Fresh ──CONNECT──► Gate ──admit──► Running ──► Ended
//!     └─ anything else, deadline ─► Ended ◄─refuse─┘
//! ```
//!
//! The session does nothing by itself. It asks ([`Command::Connect`]) and is told ([`Session::admit`],
//! [`Session::refuse`]); it hands over what the device published ([`Command::Append`]) and is told, in the
//! same order, what became of it ([`Session::settled`]).
//!
//! # Invariants
//!
//! - PUBACK leaves only after [`Session::settled`] said that its message is stored, and PUBACKs leave in the
//!   order their PUBLISHes came [MQTT-4.6.0-2].
//! - What a device publishes, subscribes to, wills and receives is decided by [`muster_shared::topic`] from
//!   the name in its certificate, never from what it says of itself.
//! - After [`Command::Close`] nothing more comes out, and nothing that comes in is looked at.
//!
//! # A topic that is not the device's
//!
//! At QoS 1 MQTT 5 has an answer, PUBACK 0x87 with M210, and the session goes on. At QoS 0, and in 3.1.1 at
//! any QoS, closing is the only way to say it (MQTT 5.0 §4.13.2, 3.1.1 §3.3.5): DISCONNECT 0x87, or just the
//! close. A PUBACK for a message that was thrown away would be a lie.

mod running;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use muster_shared::{Code, limits::PACKET_MAX, telemetry::Boot, topic};

use self::running::Running;
use super::{
    codec::{self, Fault, Frame, Reason},
    packet::{Connect, ConnectFault, Packet, Qos},
    v3,
    v5::{self, Limits},
};
use crate::{
    edge::{
        farewell::Farewell,
        limits::{KEEP_ALIVE_HALVES, Limits as Bounds},
        roster::{DeliverError, Delivered, Downlink, Protocol},
    },
    registry::{DeviceName, DisconnectReason},
};

/// What comes out of a session.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent to the client, in this order.
    pub bytes: Vec<u8>,
    /// To be done, in this order.
    pub commands: Vec<Command>,
}

/// What a session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask the gate, then call [`Session::admit`] or [`Session::refuse`]. Nothing is read before.
    Connect(Request),
    /// Hand this to the uplink log, then call [`Session::settled`] when its fate is known.
    Append(Uplink),
    /// Hand the will to the uplink log; nobody waits for its fate.
    AppendWill(Uplink),
    /// The session holds this many subscriptions now.
    Subscriptions(usize),
    /// What became of the message with this token.
    Delivered(u64, Result<Delivered, DeliverError>),
    /// Something was refused and the session goes on: for the record.
    Refused(Code),
    /// Send what is to be sent, then close the socket.
    Close(Farewell),
}

/// A client asks to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The version it speaks.
    pub protocol: Protocol,
    /// The keep-alive it keeps, seconds.
    pub keep_alive_s: u16,
    /// Why the session itself would refuse it, whatever the registry says.
    pub objection: Option<Code>,
}

/// A message from the device, checked to be on a topic of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The topic.
    pub topic: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// The publisher's.
    pub qos: Qos,
    /// MQTT 5 properties as they came.
    pub properties: Bytes,
    /// What a repeated one is recognised by: of telemetry, where its payload says it.
    pub name: Option<(Boot, u64)>,
}

/// What became of a message that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is on disk.
    Stored,
    /// It was refused at the commit.
    Refused(Code),
    /// It could not be stored.
    Failed,
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    name: Arc<DeviceName>,
    /// When the last whole packet came, milliseconds on the caller's clock.
    heard_ms: u64,
    /// Octets of a packet.
    packet_max: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// CONNECT has to come until then.
    Fresh(u64),
    Gate(Box<Running>, Entry),
    Running(Box<Running>),
    Ended,
}

/// What CONNACK needs of CONNECT.
#[derive(Debug)]
struct Entry {
    assign_id: bool,
    expiry_asked: bool,
}

impl Session {
    /// The session of a client that has just proved to be this device.
    #[must_use]
    pub fn new(name: Arc<DeviceName>, bounds: &Bounds, now_ms: u64) -> Self {
        let deadline_ms = now_ms + bounds.connect.as_millis() as u64;
        let packet_max = bounds.packet.min(PACKET_MAX);
        Self { name, heard_ms: now_ms, packet_max, state: State::Fresh(deadline_ms) }
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
            State::Running(running) => running.has_room_for_uplink(),
            State::Gate(..) | State::Ended => false,
        }
    }

    /// Is the session over?
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
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

    /// The gate lets the client in.
    pub fn admit(&mut self, now_ms: u64, out: &mut Output) {
        let State::Gate(running, entry) = std::mem::replace(&mut self.state, State::Ended) else { return };
        self.heard_ms = now_ms;
        let start = out.bytes.len();
        match running.protocol {
            Protocol::V3 => v3::connack(&mut out.bytes),
            Protocol::V5 => {
                let assigned = entry.assign_id.then_some(self.name.device_id.as_str());
                v5::connack(&mut out.bytes, assigned, entry.expiry_asked, self.packet_max);
            }
        }
        if out.bytes.len() - start > running.client.packet_max as usize {
            // Even CONNACK is more than this client takes [MQTT-3.1.2-24].
            out.bytes.truncate(start);
            out.commands.push(Command::Close((DisconnectReason::ProtocolError, Code::PacketTooLarge).into()));
            return;
        }
        self.state = State::Running(running);
    }

    /// The gate refuses the client.
    pub fn refuse(&mut self, code: Code, out: &mut Output) {
        let State::Gate(running, _) = std::mem::replace(&mut self.state, State::Ended) else { return };
        match running.protocol {
            Protocol::V3 => v3::refuse(&mut out.bytes, code),
            Protocol::V5 => {
                let reason = Reason(code.entry().mqtt.max(Reason::UNSPECIFIED_ERROR.0));
                v5::refuse(&mut out.bytes, reason, code, &running.client);
            }
        }
        out.commands.push(Command::Close((DisconnectReason::Administrative, code).into()));
    }

    /// The fate of the oldest message handed over whose fate was not known.
    pub fn settled(&mut self, now_ms: u64, fate: Fate, out: &mut Output) {
        let was_deaf = !self.listens();
        let State::Running(running) = &mut self.state else { return };
        if let Err(farewell) = running.settled(fate, out) {
            self.end(farewell, out);
        } else if was_deaf && self.listens() {
            // The client could not make itself heard; its silence starts now.
            self.heard_ms = now_ms;
        }
    }

    /// Messages handed over whose fate is not known.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        match &self.state {
            State::Running(running) => running.outstanding(),
            _ => 0,
        }
    }

    /// May one more message be delivered now?
    #[must_use]
    pub fn has_room(&self) -> bool {
        matches!(&self.state, State::Running(running) if running.has_room_for_downlink())
    }

    /// Sends a message to the device. `None`: its fate comes as [`Command::Delivered`] with this token.
    /// Call it only when there is room.
    ///
    /// # Errors
    /// [`DeliverError`]: it was not sent.
    pub fn deliver(
        &mut self,
        token: u64,
        message: &Downlink,
        out: &mut Output,
    ) -> Result<Option<Delivered>, DeliverError> {
        let State::Running(running) = &mut self.state else { return Err(DeliverError::Ended) };
        if !topic::may_receive(&self.name.tenant, &self.name.device_id, &message.topic) {
            return Err(DeliverError::NotSubscribed);
        }
        running.deliver(token, message, &mut out.bytes)
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
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return,
            State::Running(mut running) => {
                if let (Protocol::V5, Some(reason)) = (running.protocol, say) {
                    v5::disconnect(&mut out.bytes, reason, farewell.code, &running.client);
                }
                if will && let Some(will) = running.will.take() {
                    out.commands.push(self.authorised(*will));
                }
            }
            // Before CONNACK there is no DISCONNECT to send [MQTT-3.14.0-1].
            State::Fresh(_) | State::Gate(..) => {}
        }
        out.commands.push(Command::Close(farewell));
    }

    /// A will is authorised when it is given, and again when it fires.
    fn authorised(&self, will: Uplink) -> Command {
        let topic = std::str::from_utf8(&will.topic).unwrap_or_default();
        match topic::may_publish(&self.name.tenant, &self.name.device_id, topic) {
            Ok(_) => Command::AppendWill(will),
            Err(_) => Command::Refused(Code::TopicNotIts),
        }
    }

    fn packet(&mut self, frame: &Frame<'_>, out: &mut Output) {
        let running = match &mut self.state {
            State::Fresh(_) => return self.connect(frame, out),
            State::Running(running) => running,
            State::Gate(..) | State::Ended => return,
        };
        let done = match Packet::read(frame, running.protocol) {
            Ok(Packet::Disconnect(reason)) => {
                // A client that leaves in order takes its will along [MQTT-3.14.4-3].
                let will = reason != Reason::SUCCESS;
                return self.close(DisconnectReason::ClientInitiated.into(), None, will, out);
            }
            Ok(packet) => running.handle(&self.name, packet, frame.body, out),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = done {
            self.fail(fault, out);
        }
    }

    fn connect(&mut self, frame: &Frame<'_>, out: &mut Output) {
        let refused = |answer, fault: Fault, limits: &Limits, out: &mut Output| {
            match answer {
                None => {}
                Some(Protocol::V3) => v3::refuse(&mut out.bytes, fault.code()),
                Some(Protocol::V5) => v5::refuse(&mut out.bytes, fault.reason, fault.code(), limits),
            }
            let farewell = (DisconnectReason::ProtocolError, fault.code());
            out.commands.push(Command::Close(farewell.into()));
        };
        self.state = State::Ended;
        let connect = match Connect::read(frame) {
            Ok(connect) => connect,
            Err(ConnectFault { answer, fault }) => return refused(answer, fault, &Limits::DEFAULT, out),
        };
        let limits = Limits::of(&connect.properties);
        if let Some(fault) = unsupported(&connect) {
            return refused(Some(Protocol::V5), fault, &limits, out);
        }
        out.commands.push(Command::Connect(Request {
            protocol: connect.protocol,
            keep_alive_s: connect.keep_alive_s,
            objection: self.objection(&connect),
        }));
        let entry = Entry {
            assign_id: connect.client_id.is_empty(),
            expiry_asked: connect.properties.session_expiry_s.is_some_and(|expiry| expiry != 0),
        };
        self.state = State::Gate(Box::new(Running::new(&connect, limits)), entry);
    }

    /// The client id is the device's own, or empty and then assigned; in 3.1.1 an empty one needs a clean
    /// session [MQTT-3.1.3-8]. The will is on a topic of the device.
    fn objection(&self, connect: &Connect<'_>) -> Option<Code> {
        let own = connect.client_id == self.name.device_id.as_str();
        let assigned = connect.client_id.is_empty() && (connect.protocol == Protocol::V5 || connect.clean);
        if !own && !assigned {
            return Some(Code::ClientIdForeign);
        }
        let will = connect.will.as_ref()?;
        let its = may_publish(&self.name, will.topic, will.properties.response_topic).is_some();
        (!its).then_some(Code::TopicNotIts)
    }
}

/// What the device publishes on `topic`, if it may, and if an answer would come to where it may read.
fn may_publish<'a>(name: &DeviceName, topic: &'a str, response: Option<&str>) -> Option<topic::Kind<'a>> {
    let kind = topic::may_publish(&name.tenant, &name.device_id, topic).ok()?;
    let heard = response.is_none_or(|to| topic::may_receive(&name.tenant, &name.device_id, to));
    heard.then_some(kind)
}

/// What MQTT 5 asks a server to refuse when its CONNACK would say that it has it not: [MQTT-3.2.2-12],
/// [MQTT-3.2.2-13], and an authentication method (§4.12.1). 3.1.1 has no such answer: there a will is
/// taken as it is, once, and not retained.
fn unsupported(connect: &Connect<'_>) -> Option<Fault> {
    if connect.protocol == Protocol::V3 {
        return None;
    }
    if connect.properties.auth_method.is_some() {
        let what = "authentication is by certificate alone";
        return Some(Fault { reason: Reason::BAD_AUTHENTICATION_METHOD, what });
    }
    match connect.will? {
        will if will.qos == Qos::ExactlyOnce => {
            Some(Fault { reason: Reason::QOS_NOT_SUPPORTED, what: "will at QoS 2" })
        }
        will if will.retain => Some(Fault { reason: Reason::RETAIN_NOT_SUPPORTED, what: "will is retained" }),
        _ => None,
    }
}

//! What a client publishes: whose topic it is, which aliases it has given, and the receiver's half of QoS 2
//! (MQTT 5.0 §4.3.3).
//!
//! # A topic that is not the client's
//!
//! At QoS 1 and 2 MQTT 5 has an answer, 0x87 with M210, and the session goes on. At QoS 0, and in 3.1.1 at
//! any QoS, closing is the only way to say it (MQTT 5.0 §4.13.2, 3.1.1 §3.3.5): DISCONNECT 0x87, or just the
//! close. An acknowledgement of a message that was thrown away would be a lie.

use bytes::Bytes;
use muster_shared::{
    Code,
    telemetry::{Boot, TelemetryBatch},
    topic,
};

use super::{
    answers::{Kind, Wait},
    command::{Command, Output, Uplink},
    running::Running,
};
use crate::edge::{
    limits::UNRELEASED_MAX,
    mqtt::{
        codec::{Fault, Reason},
        packet::{Ack, Publish, Qos},
        property::{TOPIC_ALIAS, without},
        v3, v5,
    },
    principal::Principal,
    roster::Protocol,
};

/// Content Type of telemetry that is not a postcard batch.
const JSON: &str = "application/json";

/// What only some sessions need of what their client publishes.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// QoS 2 messages taken over and not released.
    unreleased: Vec<Unreleased>,
    /// Topics by alias, from 1; of this connection.
    aliases: Vec<Alias>,
}

#[derive(Debug, Clone, Copy)]
struct Unreleased {
    id: u16,
    /// Came on this connection: counts against its receive maximum (MQTT 5.0 §4.9).
    here: bool,
}

#[derive(Debug, Clone)]
enum Alias {
    Free,
    Of(Bytes),
    /// Of a topic the client may not publish on; its text is not kept.
    Forbidden,
}

/// Where a message goes.
enum Target {
    Named,
    Aliased(Bytes),
    Forbidden,
}

impl Inbound {
    /// The ids a session goes on with; none, none.
    pub(super) fn kept(ids: &[u16]) -> Option<Box<Self>> {
        let unreleased = ids.iter().map(|&id| Unreleased { id, here: false }).collect();
        (!ids.is_empty()).then(|| Box::new(Self { unreleased, aliases: Vec::new() }))
    }

    pub(super) fn ids(&self) -> Vec<u16> {
        self.unreleased.iter().map(|one| one.id).collect()
    }

    fn holds(&self, id: u16) -> bool {
        self.unreleased.iter().any(|one| one.id == id)
    }

    /// Was it there?
    pub(super) fn forget(&mut self, id: u16) -> bool {
        let at = self.unreleased.iter().position(|one| one.id == id);
        at.map(|at| self.unreleased.remove(at)).is_some()
    }

    /// What the alias of a PUBLISH stands for; it is given anew where the PUBLISH names a topic
    /// (MQTT 5.0 §3.3.2.3.4).
    fn alias(&mut self, alias: u16, named: &str, permitted: bool) -> Result<Target, Fault> {
        let at = usize::from(alias) - 1;
        if named.is_empty() {
            return match self.aliases.get(at) {
                Some(Alias::Of(topic)) => Ok(Target::Aliased(topic.clone())),
                Some(Alias::Forbidden) => Ok(Target::Forbidden),
                Some(Alias::Free) | None => Err(Fault::protocol("topic alias stands for nothing")),
            };
        }
        if self.aliases.len() <= at {
            self.aliases.resize(at + 1, Alias::Free);
        }
        self.aliases[at] = match permitted {
            true => Alias::Of(Bytes::copy_from_slice(named.as_bytes())),
            false => Alias::Forbidden,
        };
        Ok(if permitted { Target::Named } else { Target::Forbidden })
    }
}

impl Running {
    pub(super) fn publish(
        &mut self,
        who: &Principal,
        publish: &Publish<'_>,
        body: &[u8],
        out: &mut Output,
    ) -> Result<(), Fault> {
        let target = match publish.properties.topic_alias {
            None => Target::Named,
            Some(alias) if alias > self.bounds.topic_alias_max => {
                // [MQTT-3.3.2-9]
                return Err(Fault { reason: Reason::TOPIC_ALIAS_INVALID, what: "topic alias out of range" });
            }
            Some(alias) => {
                let permitted = who.may_publish(publish.topic).is_ok();
                self.inbound.get_or_insert_default().alias(alias, publish.topic, permitted)?
            }
        };
        if publish.qos == Qos::ExactlyOnce && self.inbound.as_ref().is_some_and(|one| one.holds(publish.id)) {
            self.publish_again(publish.id, out);
            return Ok(());
        }
        self.hold_to_receive_max(publish.qos)?;
        let topic = match &target {
            Target::Named => Some(publish.topic),
            Target::Aliased(topic) => std::str::from_utf8(topic).ok(),
            Target::Forbidden => None,
        };
        let carries = topic.and_then(|topic| may_publish(who, topic, publish.properties.response_topic));
        let Some(carries) = carries else { return self.refuse_publish(publish, out) };
        let mut uplink = message(publish, carries, body);
        if let Target::Aliased(topic) = target {
            uplink.topic = topic;
        }
        self.hand_over(publish, uplink, out);
        Ok(())
    }

    /// QoS 2, and the client has not released the one before: the same message, which is here already
    /// [MQTT-4.3.3-10]. Its PUBREC may be still to come; it is not promised twice.
    fn publish_again(&mut self, id: u16, out: &mut Output) {
        if !self.answers.holds(Kind::PubRec, id) {
            self.answers.push(id, Kind::PubRec, Wait::Ready);
            self.flush(out);
        }
    }

    /// [MQTT-3.3.4-7]; 3.1.1 knows no such limit, so there it is ours and wide.
    fn hold_to_receive_max(&self, qos: Qos) -> Result<(), Fault> {
        let unreleased = self.inbound.as_ref().map_or(&[][..], |inbound| &inbound.unreleased);
        let over = match (self.protocol, qos) {
            (_, Qos::AtMostOnce) | (Protocol::V3, Qos::AtLeastOnce) => false,
            (Protocol::V3, Qos::ExactlyOnce) => unreleased.len() >= UNRELEASED_MAX,
            (Protocol::V5, _) => {
                let here = unreleased.iter().filter(|one| one.here).count();
                usize::from(self.answers.unanswered()) + here >= usize::from(self.bounds.receive_max)
            }
        };
        let what = "more in flight than the receive maximum";
        if over { Err(Fault { reason: Reason::RECEIVE_MAXIMUM_EXCEEDED, what }) } else { Ok(()) }
    }

    fn refuse_publish(&mut self, publish: &Publish<'_>, out: &mut Output) -> Result<(), Fault> {
        let kind = match (self.protocol, publish.qos) {
            (Protocol::V5, Qos::AtLeastOnce) => Kind::PubAck,
            (Protocol::V5, Qos::ExactlyOnce) => Kind::PubRec,
            _ => return Err(Fault { reason: Reason::NOT_AUTHORIZED, what: "topic is not the client's" }),
        };
        out.commands.push(Command::Refused(Code::TopicNotIts));
        self.answers.push(publish.id, kind, Wait::Refuse(Code::TopicNotIts));
        self.flush(out);
        Ok(())
    }

    fn hand_over(&mut self, publish: &Publish<'_>, mut uplink: Uplink, out: &mut Output) {
        let wait = self.answers.hand_over();
        match publish.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.answers.push(publish.id, Kind::PubAck, wait),
            Qos::ExactlyOnce => {
                let inbound = self.inbound.get_or_insert_default();
                inbound.unreleased.push(Unreleased { id: publish.id, here: true });
                // One commit for the message and its packet identifier: after a crash either both are
                // there, and the client's repetition is known, or neither is.
                uplink.state = self.goes_on().then(|| Box::new(self.kept()));
                self.answers.push(publish.id, Kind::PubRec, wait);
            }
        }
        out.commands.push(Command::Append(uplink));
    }

    /// PUBREL: the client will not send the message again. It always has its PUBCOMP [MQTT-4.3.3-11]; that
    /// says the packet identifier is free, so a session that goes on has forgotten it on disk before.
    pub(super) fn pubrel(&mut self, ack: Ack, out: &mut Output) -> Result<(), Fault> {
        if self.answers.holds(Kind::PubRec, ack.id) {
            return Err(Fault::protocol("PUBREL before its PUBREC"));
        }
        if self.answers.holds(Kind::PubComp, ack.id) {
            return Ok(());
        }
        let held = self.inbound.as_mut().is_some_and(|inbound| inbound.forget(ack.id));
        if held && self.goes_on() {
            let wait = self.save(out);
            self.answers.push(ack.id, Kind::PubComp, wait);
            return Ok(());
        }
        match (held, self.protocol) {
            (false, Protocol::V5) => {
                v5::ack(&mut out.bytes, 0x70, ack.id, Reason::PACKET_IDENTIFIER_NOT_FOUND);
            }
            _ => v3::ack(&mut out.bytes, 0x70, ack.id),
        }
        Ok(())
    }
}

/// What a message that may be published carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    Telemetry,
    Anything,
}

/// What the client publishes on `topic`, if it may, and if an answer would come to where it may read.
fn may_publish(who: &Principal, topic: &str, response: Option<&str>) -> Option<Carries> {
    let carries = match who {
        Principal::Device(name) => match topic::may_publish(&name.tenant, &name.device_id, topic).ok()? {
            topic::Kind::Telemetry { .. } => Carries::Telemetry,
            _ => Carries::Anything,
        },
        Principal::Service(_) => who.may_publish(topic).ok().map(|()| Carries::Anything)?,
    };
    response.is_none_or(|to| who.may_receive(to)).then_some(carries)
}

/// May the client leave this will?
pub(super) fn may_will(who: &Principal, topic: &str, response: Option<&str>) -> bool {
    may_publish(who, topic, response).is_some()
}

/// The message to keep: one copy of the packet's body, and views of it. `body` is topic, packet
/// identifier, properties, payload, in this order.
fn message(publish: &Publish<'_>, carries: Carries, body: &[u8]) -> Uplink {
    let whole = Bytes::copy_from_slice(&body[2..]);
    let payload_at = whole.len() - publish.payload.len();
    let properties = match (publish.properties.raw.len(), publish.properties.topic_alias) {
        (0, _) => Bytes::new(),
        (len, None) => whole.slice(payload_at - len..payload_at),
        // An alias is between the client and us alone [MQTT-3.3.2-7].
        (_, Some(_)) => without(publish.properties.raw, TOPIC_ALIAS).into(),
    };
    Uplink {
        topic: whole.slice(..publish.topic.len()),
        payload: whole.slice(payload_at..),
        qos: publish.qos,
        retain: publish.retain,
        properties,
        name: name_of(carries, publish.properties.content_type, publish.payload),
        state: None,
    }
}

/// A telemetry batch says which message it is. One that does not is stored each time it comes.
fn name_of(carries: Carries, content_type: Option<&str>, payload: &[u8]) -> Option<(Boot, u64)> {
    match (carries, content_type) {
        (Carries::Telemetry, content_type) if content_type != Some(JSON) => {
            TelemetryBatch::name(payload).ok()
        }
        _ => None,
    }
}

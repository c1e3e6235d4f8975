//! A session that was let in: what its client publishes, subscribes to and is sent.

use std::collections::VecDeque;

use bytes::Bytes;
use muster_shared::{
    Code,
    limits::PACKET_MAX,
    telemetry::TelemetryBatch,
    topic::{self, Forbidden, Kind},
};

use super::{Command, Fate, Output, Uplink, may_publish};
use crate::{
    edge::{
        farewell::Farewell,
        limits::{DOWNLINK_INFLIGHT_MAX, SUBSCRIPTIONS_MAX, UPLINK_INFLIGHT_MAX},
        mqtt::{
            codec::{Fault, Reason},
            packet::{Ack, Connect, Filters, Packet, Publish, Qos, Will},
            v3,
            v5::{self, Limits},
        },
        roster::{DeliverError, Delivered, Downlink, Protocol},
    },
    registry::{DeviceName, DisconnectReason},
};

/// Messages a session has room for while it is idle.
const PENDING_KEPT: usize = 8;
/// Content Type of telemetry that is not a postcard batch.
const JSON: &str = "application/json";

#[derive(Debug)]
pub(super) struct Running {
    pub(super) protocol: Protocol,
    pub(super) keep_alive_s: u16,
    pub(super) client: Limits,
    pub(super) will: Option<Box<Uplink>>,
    subscriptions: Vec<Subscription>,
    /// Messages from the device, oldest first: those whose fate is not known, and answers behind them.
    pending: VecDeque<Pending>,
    /// Of these, how many are to have a PUBACK.
    unacked: u16,
    /// Messages to the device that it has not acknowledged.
    inflight: Vec<Inflight>,
    last_id: u16,
}

#[derive(Debug)]
struct Subscription {
    filter: Box<str>,
    qos: Qos,
    id: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    /// 0 at QoS 0: nobody waits for an answer.
    id: u16,
    answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The uplink log has it.
    Unknown,
    Acknowledge,
    Refuse(Code),
}

#[derive(Debug, Clone, Copy)]
struct Inflight {
    id: u16,
    token: u64,
}

impl Running {
    pub(super) fn new(connect: &Connect<'_>, client: Limits) -> Self {
        Self {
            protocol: connect.protocol,
            keep_alive_s: connect.keep_alive_s,
            client,
            will: connect.will.as_ref().map(|will| Box::new(will_message(will))),
            subscriptions: Vec::new(),
            pending: VecDeque::new(),
            unacked: 0,
            inflight: Vec::new(),
            last_id: 0,
        }
    }

    /// Twice the receive maximum: a client that heeds it and sends as much again at QoS 0 is still read.
    pub(super) fn has_room_for_uplink(&self) -> bool {
        self.pending.len() < 2 * usize::from(UPLINK_INFLIGHT_MAX)
    }

    pub(super) fn has_room_for_downlink(&self) -> bool {
        self.inflight.len() < usize::from(self.client.receive_max.min(DOWNLINK_INFLIGHT_MAX))
    }

    pub(super) fn outstanding(&self) -> usize {
        self.pending.iter().filter(|one| one.answer == Answer::Unknown).count()
    }

    /// Takes any packet but CONNECT, AUTH and DISCONNECT.
    pub(super) fn handle(
        &mut self,
        name: &DeviceName,
        packet: Packet<'_>,
        body: &[u8],
        out: &mut Output,
    ) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => self.publish(name, &publish, body, out),
            Packet::Subscribe(filters) => self.subscribe(name, filters, out),
            Packet::Unsubscribe(filters) => self.unsubscribe(filters, out),
            Packet::PubAck(ack) => self.acknowledged(ack, out),
            Packet::PubRec(ack) => self.pubrec(ack, out),
            Packet::PubRel(ack) => self.pubrel(ack, out),
            Packet::PingReq => {
                out.bytes.extend_from_slice(&[0xd0, 0]);
                Ok(())
            }
            // One that answers nothing is ignored, as PUBACK is.
            Packet::PubComp(_) | Packet::Disconnect(_) => Ok(()),
        }
    }

    fn publish(
        &mut self,
        name: &DeviceName,
        publish: &Publish<'_>,
        body: &[u8],
        out: &mut Output,
    ) -> Result<(), Fault> {
        let v5 = self.protocol == Protocol::V5;
        if publish.qos == Qos::ExactlyOnce {
            return Err(Fault { reason: Reason::QOS_NOT_SUPPORTED, what: "QoS 2" }); // [MQTT-3.2.2-11]
        }
        if v5 && publish.retain {
            return Err(Fault { reason: Reason::RETAIN_NOT_SUPPORTED, what: "retain" }); // [MQTT-3.2.2-14]
        }
        let acked = publish.qos == Qos::AtLeastOnce;
        if v5 && acked && self.unacked >= UPLINK_INFLIGHT_MAX {
            let what = "more in flight than the receive maximum";
            return Err(Fault { reason: Reason::RECEIVE_MAXIMUM_EXCEEDED, what }); // [MQTT-3.3.4-7]
        }
        let Some(kind) = may_publish(name, publish.topic, publish.properties.response_topic) else {
            if !(v5 && acked) {
                return Err(Fault { reason: Reason::NOT_AUTHORIZED, what: "topic is not the device's" });
            }
            out.commands.push(Command::Refused(Code::TopicNotIts));
            self.pending.push_back(Pending { id: publish.id, answer: Answer::Refuse(Code::TopicNotIts) });
            self.unacked += 1;
            self.flush(&mut out.bytes);
            return Ok(());
        };
        out.commands.push(Command::Append(message(publish, kind, body)));
        self.pending.push_back(Pending { id: publish.id, answer: Answer::Unknown });
        self.unacked += u16::from(acked);
        Ok(())
    }

    /// # Errors
    /// How the session ends: no PUBACK leaves for a message that is not stored, nor for any behind it.
    pub(super) fn settled(&mut self, fate: Fate, out: &mut Output) -> Result<(), Farewell> {
        let Some(oldest) = self.pending.iter_mut().find(|one| one.answer == Answer::Unknown) else {
            return Ok(());
        };
        oldest.answer = match fate {
            Fate::Stored => Answer::Acknowledge,
            // At QoS 0 nobody waits for an answer.
            Fate::Refused(_) | Fate::Failed if oldest.id == 0 => Answer::Acknowledge,
            Fate::Refused(code) if self.protocol == Protocol::V5 => Answer::Refuse(code),
            Fate::Refused(code) => return Err((DisconnectReason::Administrative, code).into()),
            Fate::Failed => return Err((DisconnectReason::Administrative, Code::NotStored).into()),
        };
        self.flush(&mut out.bytes);
        Ok(())
    }

    /// Answers as far as the fates are known, in the order the messages came [MQTT-4.6.0-2].
    fn flush(&mut self, out: &mut Vec<u8>) {
        while let Some(&Pending { id, answer }) = self.pending.front() {
            match (answer, id) {
                (Answer::Unknown, _) => return,
                (_, 0) => {}
                (Answer::Acknowledge, id) => v3::ack(out, 0x40, id), // MQTT 5 has the same short form.
                (Answer::Refuse(code), id) => v5::puback_refused(out, id, code, &self.client),
            }
            self.unacked -= u16::from(id != 0);
            self.pending.pop_front();
        }
        if self.pending.capacity() > PENDING_KEPT {
            // An idle session gives back what a burst took.
            self.pending.shrink_to(0);
        }
    }

    /// Every filter has a reason code of its own [MQTT-3.8.4-6]. A filter held already is replaced
    /// [MQTT-3.8.4-3].
    fn subscribe(&mut self, name: &DeviceName, filters: Filters<'_>, out: &mut Output) -> Result<(), Fault> {
        let mut reasons = Vec::new();
        for one in filters {
            let reason = self.subscribe_one(name, one.filter, one.qos, filters.subscription_id);
            if reason == Reason::NOT_AUTHORIZED {
                out.commands.push(Command::Refused(Code::TopicNotIts));
            }
            reasons.push(reason.0);
        }
        out.commands.push(Command::Subscriptions(self.subscriptions.len()));
        let start = out.bytes.len();
        match self.protocol {
            Protocol::V3 => v3::suback(&mut out.bytes, filters.id, &reasons),
            Protocol::V5 => v5::suback(&mut out.bytes, 0x90, filters.id, &reasons, &self.client),
        }
        self.fits(start, &mut out.bytes)
    }

    fn subscribe_one(&mut self, name: &DeviceName, filter: &str, qos: Qos, id: Option<u32>) -> Reason {
        match topic::may_subscribe(&name.tenant, &name.device_id, filter) {
            // CONNACK said that shared subscriptions are not to be had (§3.2.2.3.13).
            Err(_) if filter.starts_with("$share/") => return Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
            Err(Forbidden::Malformed(_)) => return Reason::TOPIC_FILTER_INVALID,
            Err(_) => return Reason::NOT_AUTHORIZED,
            Ok(()) => {}
        }
        let qos = qos.min(Qos::AtLeastOnce);
        let full = self.subscriptions.len() >= SUBSCRIPTIONS_MAX;
        match self.subscriptions.iter_mut().find(|held| *held.filter == *filter) {
            Some(held) => (held.qos, held.id) = (qos, id),
            None if full => return Reason::QUOTA_EXCEEDED,
            None => self.subscriptions.push(Subscription { filter: filter.into(), qos, id }),
        }
        Reason(qos as u8)
    }

    fn unsubscribe(&mut self, filters: Filters<'_>, out: &mut Output) -> Result<(), Fault> {
        let mut reasons = Vec::new();
        for one in filters {
            let before = self.subscriptions.len();
            self.subscriptions.retain(|held| *held.filter != *one.filter);
            let existed = self.subscriptions.len() < before;
            reasons.push(if existed { Reason::SUCCESS.0 } else { Reason::NO_SUBSCRIPTION_EXISTED.0 });
        }
        out.commands.push(Command::Subscriptions(self.subscriptions.len()));
        let start = out.bytes.len();
        match self.protocol {
            Protocol::V3 => v3::ack(&mut out.bytes, 0xb0, filters.id),
            Protocol::V5 => v5::suback(&mut out.bytes, 0xb0, filters.id, &reasons, &self.client),
        }
        self.fits(start, &mut out.bytes)
    }

    /// An answer the client would not take cannot be given [MQTT-3.1.2-24].
    fn fits(&self, start: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        if out.len() - start <= self.client.packet_max as usize {
            return Ok(());
        }
        out.truncate(start);
        Err(Fault { reason: Reason::PACKET_TOO_LARGE, what: "answer is larger than the client takes" })
    }

    pub(super) fn deliver(
        &mut self,
        token: u64,
        message: &Downlink,
        out: &mut Vec<u8>,
    ) -> Result<Option<Delivered>, DeliverError> {
        let found = || self.subscriptions.iter().filter(|one| topic::matches(&one.filter, &message.topic));
        // Overlapping subscriptions get one copy, at the highest QoS granted [MQTT-3.3.4-2].
        let granted = found().map(|one| one.qos).max().ok_or(DeliverError::NotSubscribed)?;
        let qos = if message.qos == 0 { Qos::AtMostOnce } else { granted };
        let id = if qos == Qos::AtMostOnce { 0 } else { self.free_id() };
        let start = out.len();
        match self.protocol {
            Protocol::V3 => v3::publish(out, &message.topic, &message.payload, qos, id),
            Protocol::V5 => {
                let ids = found().filter_map(|one| one.id);
                v5::publish(out, &message.topic, &message.payload, qos, id, ids);
            }
        }
        let len = out.len() - start;
        if len > PACKET_MAX || len > self.client.packet_max as usize {
            out.truncate(start);
            return Err(DeliverError::TooLarge);
        }
        if id == 0 {
            return Ok(Some(Delivered::Sent));
        }
        self.last_id = id;
        self.inflight.push(Inflight { id, token });
        Ok(None)
    }

    /// The next packet identifier not in use [MQTT-2.2.1-4]; there are always some, as few are in flight.
    fn free_id(&self) -> u16 {
        let mut id = self.last_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !self.inflight.iter().any(|one| one.id == id) {
                return id;
            }
        }
    }

    /// PUBACK. One that answers nothing is ignored: it can be late, after its message was given up.
    fn acknowledged(&mut self, ack: Ack, out: &mut Output) -> Result<(), Fault> {
        if let Some(at) = self.inflight.iter().position(|one| one.id == ack.id) {
            let one = self.inflight.remove(at);
            let outcome = match ack.reason {
                Reason(reason @ 0x80..) => Err(DeliverError::Refused(reason)),
                _ => Ok(Delivered::Acknowledged),
            };
            out.commands.push(Command::Delivered(one.token, outcome));
        }
        Ok(())
    }

    /// Nothing is sent at QoS 2, so nothing can be received by it (MQTT 5.0 §4.3.3).
    fn pubrec(&self, ack: Ack, out: &mut Output) -> Result<(), Fault> {
        match self.protocol {
            Protocol::V3 => Err(Fault::protocol("PUBREC for no message at QoS 2")),
            Protocol::V5 if ack.reason.0 >= 0x80 => Ok(()),
            Protocol::V5 => {
                v5::ack(&mut out.bytes, 0x62, ack.id, Reason::PACKET_IDENTIFIER_NOT_FOUND);
                Ok(())
            }
        }
    }

    /// Nothing is accepted at QoS 2, so nothing is to be released; PUBREL always has its PUBCOMP
    /// [MQTT-4.3.3-11].
    fn pubrel(&self, ack: Ack, out: &mut Output) -> Result<(), Fault> {
        match self.protocol {
            Protocol::V3 => v3::ack(&mut out.bytes, 0x70, ack.id),
            Protocol::V5 => v5::ack(&mut out.bytes, 0x70, ack.id, Reason::PACKET_IDENTIFIER_NOT_FOUND),
        }
        Ok(())
    }
}

/// The message to keep: one copy of the packet's body, and views of it. `body` is topic, packet
/// identifier, properties, payload, in this order.
fn message(publish: &Publish<'_>, kind: Kind<'_>, body: &[u8]) -> Uplink {
    let whole = Bytes::copy_from_slice(&body[2..]);
    let payload_at = whole.len() - publish.payload.len();
    let properties = match publish.properties.raw.len() {
        0 => Bytes::new(),
        len => whole.slice(payload_at - len..payload_at),
    };
    Uplink {
        topic: whole.slice(..publish.topic.len()),
        payload: whole.slice(payload_at..),
        qos: publish.qos,
        properties,
        name: name_of(kind, publish.properties.content_type, publish.payload),
    }
}

fn will_message(will: &Will<'_>) -> Uplink {
    Uplink {
        topic: Bytes::copy_from_slice(will.topic.as_bytes()),
        payload: Bytes::copy_from_slice(will.payload),
        qos: will.qos,
        properties: Bytes::copy_from_slice(will.properties.raw),
        name: None,
    }
}

/// A telemetry batch says which message it is. One that does not is stored each time it comes.
fn name_of(
    kind: Kind<'_>,
    content_type: Option<&str>,
    payload: &[u8],
) -> Option<(muster_shared::telemetry::Boot, u64)> {
    match (kind, content_type) {
        (Kind::Telemetry { .. }, content_type) if content_type != Some(JSON) => {
            TelemetryBatch::name(payload).ok()
        }
        _ => None,
    }
}

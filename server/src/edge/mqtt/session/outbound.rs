//! What a client is sent: by which subscriptions, under which packet identifier, and the sender's half of
//! QoS 1 and 2 (MQTT 5.0 §4.3, §4.4).
//!
//! A session that goes on has a message of QoS 2 and its packet identifier on disk before PUBLISH leaves,
//! and that the client has it before PUBREL leaves: so after a crash it is never sent under another
//! identifier, which would make it two.

use std::collections::VecDeque;

use muster_shared::limits::PACKET_MAX;

use super::{
    answers::Kind,
    command::{Command, Delivery, Output, Via},
    kept::{Kept, Released, Sent},
    running::Running,
    subscriptions::Subscription,
};
use crate::edge::{
    limits::{DOWNLINK_INFLIGHT_MAX, SERVICE_INFLIGHT_MAX},
    mqtt::{
        Outgoing,
        codec::{Fault, Reason},
        packet::{Ack, Qos},
        property, v3, v5,
    },
    principal::Principal,
    roster::{DeliverError, Delivered, Protocol},
};

/// What a session needs when its client is sent anything.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// PUBLISHes not answered, oldest first.
    inflight: VecDeque<Inflight>,
    /// QoS 2 messages the client has, in the order of their PUBRECs; PUBCOMP is to come.
    released: Vec<Gone>,
    pub(super) last_id: u16,
    /// Of these, how many count against the client's receive maximum.
    here: u16,
    /// Of an earlier connection, not sent again yet.
    again: u16,
    aliases: Aliases,
}

#[derive(Debug, Clone, Copy)]
struct Inflight {
    sent: Sent,
    /// Sent on this connection. Those that were not await [`Running::deliver`] with their token.
    here: bool,
}

#[derive(Debug, Clone, Copy)]
struct Gone {
    released: Released,
    here: bool,
}

/// Topics the client remembers by alias, from 1 (MQTT 5.0 §3.3.2.3.4).
#[derive(Debug, Default)]
struct Aliases {
    topics: Vec<Box<str>>,
    /// Which is given away next when all are in use.
    next: usize,
}

impl Aliases {
    /// The alias of `topic`, and whether the client knows it.
    fn of(&self, topic: &str, max: u16) -> Option<(u16, bool)> {
        let max = usize::from(max);
        if max == 0 {
            return None;
        }
        match self.topics.iter().position(|known| **known == *topic) {
            Some(at) => Some((at as u16 + 1, true)),
            None if self.topics.len() < max => Some((self.topics.len() as u16 + 1, false)),
            None => Some((self.next as u16 + 1, false)),
        }
    }

    /// The client was told.
    fn told(&mut self, alias: u16, topic: &str) {
        let at = usize::from(alias) - 1;
        if at == self.topics.len() {
            self.topics.push(topic.into());
        } else {
            self.topics[at] = topic.into();
            self.next = (at + 1) % self.topics.len();
        }
    }
}

impl Outbound {
    /// What a session goes on with; nothing, where there is nothing.
    pub(super) fn kept(kept: &Kept) -> Option<Box<Self>> {
        if kept.inflight.is_empty() && kept.released.is_empty() && kept.last_id == 0 {
            return None;
        }
        Some(Box::new(Self {
            inflight: kept.inflight.iter().map(|&sent| Inflight { sent, here: false }).collect(),
            released: kept.released.iter().map(|&released| Gone { released, here: false }).collect(),
            last_id: kept.last_id,
            again: kept.inflight.len() as u16,
            ..Self::default()
        }))
    }

    pub(super) fn sent(&self) -> Vec<Sent> {
        self.inflight.iter().map(|one| one.sent).collect()
    }

    pub(super) fn released(&self) -> Vec<Released> {
        self.released.iter().map(|one| one.released).collect()
    }

    fn uses(&self, id: u16) -> bool {
        self.inflight.iter().any(|one| one.sent.id == id)
            || self.released.iter().any(|one| one.released.id == id)
    }

    /// The next packet identifier not in use [MQTT-2.2.1-4]; there are always some, as few are in flight.
    fn free_id(&self) -> u16 {
        let mut id = self.last_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !self.uses(id) {
                return id;
            }
        }
    }

    fn answered(&mut self, here: bool) {
        self.here -= u16::from(here);
    }
}

impl Running {
    /// May one more PUBLISH be sent [MQTT-3.3.4-9]?
    pub(super) fn has_room_for_downlink(&self, who: &Principal) -> bool {
        let ours = if who.client_id().is_some() { DOWNLINK_INFLIGHT_MAX } else { SERVICE_INFLIGHT_MAX };
        self.outbound.as_ref().map_or(0, |outbound| outbound.here) < self.client.receive_max.min(ours)
    }

    pub(super) fn deliver(
        &mut self,
        token: u64,
        message: &Delivery<'_>,
        out: &mut Output,
    ) -> Result<Option<Delivered>, DeliverError> {
        if let Some(outbound) = &self.outbound {
            if outbound.again > 0
                && let Some(at) =
                    outbound.inflight.iter().position(|one| !one.here && one.sent.token == token)
            {
                return self.deliver_again(at, message, out);
            }
            if !matches!(message.via, Via::Replay(_))
                && outbound.released.iter().any(|one| one.released.token == token && !one.here)
            {
                // The client has it; only the queue does not know yet. One that is retained is due once more
                // to whoever subscribes once more.
                return Ok(Some(Delivered::Acknowledged));
            }
        }
        // Overlapping subscriptions get one copy, at the highest QoS granted [MQTT-3.3.4-2].
        let granted = self.subscriptions.find(message).map(|one| one.qos()).max();
        let granted = granted.ok_or(DeliverError::NotSubscribed)?;
        // A message of expiry 0 goes to whoever is there at once.
        if property::expiry_s(message.properties).is_some_and(|expiry| message.waited_s >= expiry.max(1)) {
            return Err(DeliverError::Expired); // [MQTT-3.3.2-5]
        }
        let qos = message.qos.min(granted); // [MQTT-3.8.4-8]
        if qos == Qos::AtMostOnce {
            self.write_now(message, qos, 0, false, out)?;
            return Ok(Some(Delivered::Sent));
        }
        let id = self.outbound.get_or_insert_default().free_id();
        let sent = Sent { id, qos, token };
        if qos == Qos::ExactlyOnce && self.goes_on() {
            let mut packet = Vec::new();
            // Others may overtake it while it waits: no alias depends on it.
            self.write(message, qos, id, false, None, &mut packet)?;
            out.sent[qos as usize] += 1;
            self.in_flight(sent);
            let wait = self.save(out);
            self.answers.push_prepared(id, packet, wait);
            return Ok(None);
        }
        self.write_now(message, qos, id, false, out)?;
        self.in_flight(sent);
        self.changed(out);
        Ok(None)
    }

    /// One of an earlier connection, under its packet identifier [MQTT-4.4.0-1]: whatever became of the
    /// subscription [MQTT-3.10.4-3] and of the message's time [MQTT-4.3.3-7] since.
    fn deliver_again(
        &mut self,
        at: usize,
        message: &Delivery<'_>,
        out: &mut Output,
    ) -> Result<Option<Delivered>, DeliverError> {
        let Some(one) = self.outbound.as_ref().and_then(|outbound| outbound.inflight.get(at)).copied() else {
            return Err(DeliverError::Ended);
        };
        let written = self.write_now(message, one.sent.qos, one.sent.id, true, out);
        let outbound = self.outbound.get_or_insert_default();
        outbound.again -= 1;
        match written {
            Ok(()) => {
                outbound.inflight[at].here = true;
                outbound.here += 1;
                Ok(None)
            }
            Err(error) => {
                outbound.inflight.remove(at);
                self.give_up(one.sent, out);
                Err(error)
            }
        }
    }

    /// What was in flight on an earlier connection, has not been delivered again until now and will not be.
    pub(super) fn resumed(&mut self, out: &mut Output) {
        let Some(outbound) = &mut self.outbound else { return };
        if outbound.again == 0 {
            return;
        }
        outbound.again = 0;
        let lost: Vec<_> = outbound.inflight.iter().filter(|one| !one.here).map(|one| one.sent).collect();
        outbound.inflight.retain(|one| one.here);
        for sent in lost {
            self.give_up(sent, out);
        }
    }

    /// A message that is not sent again. At QoS 2 the client may hold its packet identifier; PUBREL frees it
    /// there before it is used for another message.
    fn give_up(&mut self, sent: Sent, out: &mut Output) {
        if sent.qos == Qos::ExactlyOnce {
            let released = Released { id: sent.id, token: sent.token };
            self.outbound.get_or_insert_default().released.push(Gone { released, here: false });
            v3::ack(&mut out.bytes, 0x62, sent.id); // MQTT 5 has the same short form.
        }
        self.changed(out);
    }

    /// PUBRELs of an earlier connection [MQTT-4.4.0-1].
    pub(super) fn release_again(&self, out: &mut Vec<u8>) {
        for one in self.outbound.iter().flat_map(|outbound| &outbound.released) {
            v3::ack(out, 0x62, one.released.id);
        }
    }

    fn in_flight(&mut self, sent: Sent) {
        let outbound = self.outbound.get_or_insert_default();
        outbound.last_id = sent.id;
        outbound.here += 1;
        outbound.inflight.push_back(Inflight { sent, here: true });
    }

    /// A PUBLISH has left that waited for the disk. What was sent meanwhile is before it, when it is sent
    /// again too [MQTT-4.6.0-1].
    pub(super) fn sent_behind_others(&mut self, id: u16, out: &mut Output) {
        let Some(outbound) = &mut self.outbound else { return };
        let inflight = &mut outbound.inflight;
        let Some(at) = inflight.iter().position(|one| one.sent.id == id) else { return };
        if at + 1 < inflight.len() {
            let one = inflight.remove(at);
            inflight.extend(one);
            self.changed(out);
        }
    }

    fn write_now(
        &mut self,
        message: &Delivery<'_>,
        qos: Qos,
        id: u16,
        dup: bool,
        out: &mut Output,
    ) -> Result<(), DeliverError> {
        let aliases = self.client.topic_alias_max.min(self.bounds.topic_alias_max);
        let alias = match (&self.outbound, aliases) {
            (_, 0) => None,
            (Some(outbound), max) => outbound.aliases.of(message.topic, max),
            (None, max) => Aliases::default().of(message.topic, max),
        };
        self.write(message, qos, id, dup, alias, &mut out.bytes)?;
        out.sent[qos as usize] += 1;
        if let Some((alias, false)) = alias {
            self.outbound.get_or_insert_default().aliases.told(alias, message.topic);
        }
        Ok(())
    }

    /// # Errors
    /// [`DeliverError::TooLarge`]: nothing was written [MQTT-3.1.2-24], [MQTT-3.1.2-25].
    fn write(
        &self,
        message: &Delivery<'_>,
        qos: Qos,
        id: u16,
        dup: bool,
        alias: Option<(u16, bool)>,
        out: &mut Vec<u8>,
    ) -> Result<(), DeliverError> {
        // What a client could send, another can be sent, whatever identifiers come along.
        if message.topic.len() + message.properties.len() + message.payload.len() > PACKET_MAX {
            return Err(DeliverError::TooLarge);
        }
        let found = || self.subscriptions.find(message);
        let retain = match message.via {
            Via::Replay(_) => true, // [MQTT-3.3.1-8]
            Via::Filters | Via::Share(_) => message.retain && found().any(|one| one.retain_as_published()),
        };
        let one = Outgoing {
            topic: message.topic,
            payload: message.payload,
            qos,
            id,
            dup,
            retain,
            properties: message.properties,
            waited_s: message.waited_s,
            alias,
        };
        let start = out.len();
        match self.protocol {
            Protocol::V3 => v3::publish(out, &one),
            Protocol::V5 => v5::publish(out, &one, found().filter_map(|one: &_| Subscription::id(one))),
        }
        let len = out.len() - start;
        if len > self.client.packet_max as usize {
            out.truncate(start);
            return Err(DeliverError::TooLarge);
        }
        Ok(())
    }

    /// PUBACK. One that answers nothing is ignored: it can be late, after its message was given up.
    pub(super) fn puback(&mut self, ack: Ack, out: &mut Output) -> Result<(), Fault> {
        let Some(outbound) = &mut self.outbound else { return Ok(()) };
        let Some(at) = outbound.inflight.iter().position(|one| one.here && one.sent.id == ack.id) else {
            return Ok(());
        };
        let Inflight { sent, here } = outbound.inflight[at];
        if sent.qos != Qos::AtLeastOnce {
            return Err(Fault::protocol("PUBACK of a message at QoS 2"));
        }
        outbound.inflight.remove(at);
        outbound.answered(here);
        out.commands.push(Command::Delivered(sent.token, outcome(ack)));
        self.changed(out);
        Ok(())
    }

    /// PUBREC: the client has the message, or refuses it. From now on PUBREL is what is sent again.
    pub(super) fn pubrec(&mut self, ack: Ack, out: &mut Output) -> Result<(), Fault> {
        let refused = ack.reason.0 >= 0x80;
        let found = self.outbound.as_mut().and_then(|outbound| {
            let at = outbound.inflight.iter().position(|one| one.here && one.sent.id == ack.id)?;
            Some((at, outbound))
        });
        let Some((at, outbound)) = found else { return self.pubrec_again(ack, refused, out) };
        let Inflight { sent, here } = outbound.inflight[at];
        if sent.qos != Qos::ExactlyOnce {
            return Err(Fault::protocol("PUBREC of a message at QoS 1"));
        }
        if self.answers.holds(Kind::Prepared, ack.id) {
            return Err(Fault::protocol("PUBREC before its PUBLISH"));
        }
        outbound.inflight.remove(at);
        if refused {
            outbound.answered(here);
            out.commands.push(Command::Delivered(sent.token, outcome(ack)));
            self.changed(out);
            return Ok(());
        }
        let released = Released { id: sent.id, token: sent.token };
        outbound.released.push(Gone { released, here });
        if self.goes_on() {
            let wait = self.save(out);
            self.answers.push(sent.id, Kind::PubRel, wait);
        } else {
            v3::ack(&mut out.bytes, 0x62, sent.id);
        }
        out.commands.push(Command::Delivered(sent.token, Ok(Delivered::Acknowledged)));
        Ok(())
    }

    /// PUBREC once more, or of nothing.
    fn pubrec_again(&self, ack: Ack, refused: bool, out: &mut Output) -> Result<(), Fault> {
        let released = self.outbound.iter().flat_map(|outbound| &outbound.released);
        let known = released.into_iter().any(|one| one.released.id == ack.id);
        if refused || (known && self.answers.holds(Kind::PubRel, ack.id)) {
            return Ok(());
        }
        match (known, self.protocol) {
            (false, Protocol::V5) => {
                v5::ack(&mut out.bytes, 0x62, ack.id, Reason::PACKET_IDENTIFIER_NOT_FOUND);
            }
            _ => v3::ack(&mut out.bytes, 0x62, ack.id),
        }
        Ok(())
    }

    /// PUBCOMP: the packet identifier is free. One that answers nothing is ignored, as PUBACK is.
    pub(super) fn pubcomp(&mut self, ack: Ack, out: &mut Output) -> Result<(), Fault> {
        if self.answers.holds(Kind::PubRel, ack.id) {
            return Err(Fault::protocol("PUBCOMP before its PUBREL"));
        }
        let Some(outbound) = &mut self.outbound else { return Ok(()) };
        let Some(at) = outbound.released.iter().position(|one| one.released.id == ack.id) else {
            return Ok(());
        };
        let one = outbound.released.remove(at);
        outbound.answered(one.here);
        self.changed(out);
        Ok(())
    }
}

/// What an acknowledgement says became of its message.
fn outcome(ack: Ack) -> Result<Delivered, DeliverError> {
    match ack.reason {
        Reason(reason @ 0x80..) => Err(DeliverError::Refused(reason)),
        _ => Ok(Delivered::Acknowledged),
    }
}

//! A session that was let in: its state, and what becomes of the packets of its client.

use std::sync::Arc;

use muster_shared::Code;

use super::{
    answers::{Answers, Kind, Wait},
    command::{Command, Fate, Output, Replay},
    inbound::Inbound,
    kept::Kept,
    outbound::Outbound,
    replays::Replays,
    subscriptions::Subscriptions,
    will::Will,
};
use crate::{
    edge::{
        farewell::Farewell,
        limits::SessionLimits,
        mqtt::{
            codec::{Fault, Reason},
            packet::{Connect, Filters, Packet},
            v3,
            v5::{self, Limits},
        },
        principal::Principal,
        roster::Protocol,
    },
    registry::DisconnectReason,
};

/// What only some sessions have stands in boxes: most publish at QoS 1 and hold nothing else.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) protocol: Protocol,
    /// In force, seconds.
    pub(super) keep_alive_s: u16,
    pub(super) client: Limits,
    pub(super) bounds: Arc<SessionLimits>,
    /// The session expiry interval the client asked for, and the longest there is, seconds.
    pub(super) expiry_asked_s: u32,
    pub(super) expiry_max_s: u32,
    pub(super) will: Option<Box<Will>>,
    pub(super) subscriptions: Subscriptions,
    pub(super) replays: Replays,
    pub(super) answers: Answers,
    pub(super) inbound: Option<Box<Inbound>>,
    pub(super) outbound: Option<Box<Outbound>>,
}

impl Running {
    pub(super) fn new(connect: &Connect<'_>, client: Limits, bounds: Arc<SessionLimits>) -> Self {
        let receive_max = bounds.receive_max;
        Self {
            protocol: connect.protocol,
            keep_alive_s: connect.keep_alive_s,
            client,
            bounds,
            expiry_asked_s: connect.expiry_s(),
            expiry_max_s: 0,
            will: connect.will.as_ref().map(|will| Box::new(Will::of(will))),
            subscriptions: Subscriptions::default(),
            replays: Replays::default(),
            answers: Answers::of(receive_max),
            inbound: None,
            outbound: None,
        }
    }

    /// Goes on where an earlier connection ended.
    pub(super) fn resume(&mut self, kept: Kept) {
        self.inbound = Inbound::kept(&kept.unreleased);
        self.outbound = Outbound::kept(&kept);
        self.subscriptions = kept.subscriptions;
        self.replays = Replays::restored(kept.replays);
    }

    /// What goes on without the connection.
    pub(super) fn kept(&self) -> Kept {
        Kept {
            expiry_s: self.expiry_s(),
            last_id: self.outbound.as_ref().map_or(0, |outbound| outbound.last_id),
            subscriptions: self.subscriptions.clone(),
            inflight: self.outbound.as_ref().map_or_else(Vec::new, |outbound| outbound.sent()),
            released: self.outbound.as_ref().map_or_else(Vec::new, |outbound| outbound.released()),
            unreleased: self.inbound.as_ref().map_or_else(Vec::new, |inbound| inbound.ids()),
            replays: self.replays.kept(),
        }
    }

    /// The session expiry interval in force, seconds.
    pub(super) fn expiry_s(&self) -> u32 {
        self.expiry_asked_s.min(self.expiry_max_s)
    }

    /// Does the session go on without its connection?
    pub(super) fn goes_on(&self) -> bool {
        self.expiry_s() > 0
    }

    /// Has the state as it is now committed; what waits for it is pushed with what this returns.
    pub(super) fn save(&mut self, out: &mut Output) -> Wait {
        out.commands.push(Command::Save(Box::new(self.kept())));
        self.answers.hand_over()
    }

    /// The state has changed, and nobody waits for it to be saved.
    pub(super) fn changed(&self, out: &mut Output) {
        if self.goes_on() && out.commands.last() != Some(&Command::Changed) {
            out.commands.push(Command::Changed);
        }
    }

    /// Takes any packet but CONNECT, AUTH and DISCONNECT. `mark`: the log's position now.
    pub(super) fn handle(
        &mut self,
        who: &Principal,
        packet: Packet<'_>,
        body: &[u8],
        mark: u64,
        out: &mut Output,
    ) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => self.publish(who, &publish, body, out),
            Packet::Subscribe(filters) => self.subscribe(who, filters, mark, out),
            Packet::Unsubscribe(filters) => self.unsubscribe(filters, out),
            Packet::PubAck(ack) => self.puback(ack, out),
            Packet::PubRec(ack) => self.pubrec(ack, out),
            Packet::PubRel(ack) => self.pubrel(ack, out),
            Packet::PubComp(ack) => self.pubcomp(ack, out),
            Packet::PingReq => {
                out.bytes.extend_from_slice(&[0xd0, 0]);
                Ok(())
            }
            Packet::Disconnect(_) => Ok(()),
        }
    }

    /// The fate of the oldest thing handed over whose fate was not known.
    ///
    /// # Errors
    /// How the session ends: no answer leaves for what is not stored, nor for anything behind it.
    pub(super) fn settled(&mut self, fate: Fate, out: &mut Output) -> Result<(), Farewell> {
        // At QoS 0 nobody waits for an answer.
        let Some(answer) = self.answers.told() else { return Ok(()) };
        let refusable = self.protocol == Protocol::V5 && matches!(answer.kind, Kind::PubAck | Kind::PubRec);
        answer.wait = match (fate, answer.wait) {
            (Fate::Stored, Wait::HandedToRefuse(_, code)) => Wait::Refuse(code),
            (Fate::Stored, _) => Wait::Ready,
            (Fate::Refused(code), Wait::Handed(_)) if refusable => Wait::Refuse(code),
            (Fate::Refused(code), _) => return Err((DisconnectReason::Administrative, code).into()),
            (Fate::Failed, _) => return Err((DisconnectReason::Administrative, Code::NotStored).into()),
        };
        let (id, kind, wait) = (answer.id, answer.kind, answer.wait);
        if let (Kind::PubRec, Wait::Refuse(code), Fate::Refused(_)) = (kind, wait, fate) {
            self.take_back(id, code, out);
        }
        self.flush(out);
        Ok(())
    }

    /// A QoS 2 message was refused at the commit, so its packet identifier is free again as soon as the
    /// client knows; states saved since the message was handed over say otherwise.
    fn take_back(&mut self, id: u16, code: Code, out: &mut Output) {
        if let Some(inbound) = &mut self.inbound {
            inbound.forget(id);
        }
        if self.goes_on()
            && let Wait::Handed(count) = self.save(out)
        {
            self.answers.wait_to_refuse(id, count, code);
        }
    }

    /// The connection is gone, and nothing is answered any more; what becomes of the messages handed over
    /// still decides which packet identifiers the client will find taken.
    pub(super) fn settled_unanswered(&mut self, fate: Fate) {
        let Some(answer) = self.answers.told() else { return };
        let (id, kind) = (answer.id, answer.kind);
        if let (Kind::PubRec, Fate::Refused(_) | Fate::Failed, Some(inbound)) =
            (kind, fate, &mut self.inbound)
        {
            inbound.forget(id);
        }
    }

    /// Better a message twice than none: one whose fate is not known is taken again.
    pub(super) fn forget_unsettled(&mut self) {
        for id in self.answers.unsettled_pubrecs() {
            if let Some(inbound) = &mut self.inbound {
                inbound.forget(id);
            }
        }
    }

    /// Lets the answers leave that wait for nothing any more.
    pub(super) fn flush(&mut self, out: &mut Output) {
        while let Some(answer) = self.answers.next() {
            let first = match answer.kind {
                Kind::PubAck => 0x40,
                Kind::PubRec => 0x50,
                Kind::PubRel => 0x62,
                Kind::PubComp => 0x70,
                Kind::Prepared => {
                    out.bytes.extend(self.answers.take_prepared().into_iter().flatten());
                    self.sent_behind_others(answer.id, out);
                    continue;
                }
            };
            match answer.wait {
                Wait::Refuse(code) => v5::refused(&mut out.bytes, first, answer.id, code, &self.client),
                // MQTT 5 has the same short form.
                _ => v3::ack(&mut out.bytes, first, answer.id),
            }
        }
    }

    /// Every filter has a reason code of its own [MQTT-3.8.4-6].
    fn subscribe(
        &mut self,
        who: &Principal,
        filters: Filters<'_>,
        mark: u64,
        out: &mut Output,
    ) -> Result<(), Fault> {
        let max = match who.client_id() {
            Some(_) => self.bounds.subscriptions_max,
            None => self.bounds.service_subscriptions_max,
        };
        let mut reasons = Vec::new();
        for one in filters {
            let granted =
                self.subscriptions.subscribe(who, self.protocol, &one, filters.subscription_id, (mark, max));
            out.commands.extend(granted.refusal().map(Command::Refused));
            reasons.push(granted.reason.0);
            if let Some(replay) = granted.replay {
                self.replays.begin(replay);
            }
        }
        let mut packet = Vec::new();
        match self.protocol {
            Protocol::V3 => v3::suback(&mut packet, filters.id, &reasons),
            Protocol::V5 => v5::suback(&mut packet, 0x90, filters.id, &reasons, &self.client),
        }
        let changed = reasons.iter().any(|&reason| reason < 0x80);
        self.subscribed(changed, packet, out)
    }

    fn unsubscribe(&mut self, filters: Filters<'_>, out: &mut Output) -> Result<(), Fault> {
        let reason = |existed| if existed { Reason::SUCCESS.0 } else { Reason::NO_SUBSCRIPTION_EXISTED.0 };
        let reasons: Vec<u8> = filters
            .map(|one| {
                self.replays.end(one.filter);
                reason(self.subscriptions.unsubscribe(one.filter))
            })
            .collect();
        let mut packet = Vec::new();
        match self.protocol {
            Protocol::V3 => v3::ack(&mut packet, 0xb0, filters.id),
            Protocol::V5 => v5::suback(&mut packet, 0xb0, filters.id, &reasons, &self.client),
        }
        let changed = reasons.contains(&Reason::SUCCESS.0);
        self.subscribed(changed, packet, out)
    }

    /// The answer leaves when the session goes on without its connection and has the change on disk; else
    /// at once.
    fn subscribed(&mut self, changed: bool, packet: Vec<u8>, out: &mut Output) -> Result<(), Fault> {
        if packet.len() > self.client.packet_max as usize {
            // An answer the client would not take cannot be given [MQTT-3.1.2-24].
            let what = "answer is larger than the client takes";
            return Err(Fault { reason: Reason::PACKET_TOO_LARGE, what });
        }
        if changed {
            out.commands.push(Command::Subscriptions(self.subscriptions.len()));
        }
        if changed && self.goes_on() {
            let wait = self.save(out);
            self.answers.push_prepared(0, packet, wait);
            return Ok(());
        }
        out.bytes.extend_from_slice(&packet);
        Ok(())
    }

    /// What is retained is due behind the answer to its SUBSCRIBE.
    pub(super) fn replay(&self) -> Option<&Replay> {
        self.replays.first().filter(|_| !self.answers.holds(Kind::Prepared, 0))
    }
}

//! CONNECT and what it is answered with.

use std::sync::Arc;

use muster_shared::Code;

use super::{
    Entry, Session, State,
    command::{Admission, Command, Output, Request},
    inbound::may_will,
    running::Running,
};
use crate::{
    edge::{
        mqtt::{
            codec::{Fault, Frame, Reason},
            packet::{Connect, ConnectFault},
            v3,
            v5::{self, Accepted, Limits},
        },
        principal::Principal,
        roster::Protocol,
    },
    registry::DisconnectReason,
};

impl Session {
    pub(super) fn connect(&mut self, frame: &Frame<'_>, out: &mut Output) {
        self.state = State::Ended(None);
        let connect = match Connect::read(frame) {
            Ok(connect) => connect,
            Err(ConnectFault { answer, fault }) => {
                return refuse_form(answer, fault, &Limits::DEFAULT, out);
            }
        };
        let client = Limits::of(&connect.properties);
        if connect.will.as_ref().is_some_and(|will| will.octets() > self.bounds.will_max as usize) {
            let fault = Fault { reason: Reason::PACKET_TOO_LARGE, what: "will is larger than the limit" };
            return refuse_form(
                (connect.protocol == Protocol::V5).then_some(Protocol::V5),
                fault,
                &client,
                out,
            );
        }
        if connect.properties.auth_method.is_some() {
            // MQTT 5.0 §4.12.1
            let what = "authentication is by certificate alone";
            let fault = Fault { reason: Reason::BAD_AUTHENTICATION_METHOD, what };
            return refuse_form(Some(Protocol::V5), fault, &client, out);
        }
        out.commands.push(Command::Connect(Box::new(Request {
            protocol: connect.protocol,
            keep_alive_s: connect.keep_alive_s,
            objection: self.objection(&connect),
            client_id: connect.client_id.into(),
            clean: connect.clean,
            expiry_s: connect.expiry_s(),
            continuity: connect.properties.continuity.map(Into::into),
        })));
        let entry = Entry {
            assign_id: connect.client_id.is_empty(),
            response_info: connect.properties.response_info,
        };
        self.state = State::Gate(Box::new(Running::new(&connect, client, Arc::clone(&self.bounds))), entry);
    }

    /// The client id is the only one the client may use, or empty and then assigned; in 3.1.1 an empty one
    /// needs a clean session [MQTT-3.1.3-8]. The will is on a topic of the client.
    fn objection(&self, connect: &Connect<'_>) -> Option<Code> {
        let id_fits = match connect.client_id {
            "" => connect.protocol == Protocol::V5 || connect.clean,
            id => self.who.client_id().is_none_or(|own| own == id),
        };
        if !id_fits {
            return Some(Code::ClientIdForeign);
        }
        let will = connect.will.as_ref()?;
        let its = may_will(&self.who, will.topic, will.properties.response_topic);
        (!its).then_some(Code::TopicNotIts)
    }

    /// The gate lets the client in. Says so; then sends again what a session that goes on is to release.
    /// The caller delivers again what is in flight ([`super::Kept::inflight`]), in that order, and calls
    /// [`Session::resumed`].
    pub fn admit(&mut self, now_ms: u64, admission: Admission<'_>, out: &mut Output) {
        let State::Gate(mut running, entry) = std::mem::replace(&mut self.state, State::Ended(None)) else {
            return;
        };
        self.heard_ms = now_ms;
        running.expiry_max_s = admission.expiry_max_s;
        let session_present = admission.kept.is_some();
        if let Some(kept) = admission.kept {
            running.resume(kept);
        }
        let start = out.bytes.len();
        match running.protocol {
            Protocol::V3 => v3::connack(&mut out.bytes, session_present),
            Protocol::V5 => {
                let asked_s = running.keep_alive_s;
                let kept_s = admission.keep_alive_max_s.filter(|max| asked_s == 0 || asked_s > *max);
                running.keep_alive_s = kept_s.unwrap_or(asked_s);
                let expiry_s = running.expiry_s();
                let response_info = entry.response_info.then(|| response_info(&self.who)).flatten();
                let said = Accepted {
                    session_present,
                    expiry_s: (expiry_s != running.expiry_asked_s).then_some(expiry_s),
                    keep_alive_s: kept_s,
                    packet_max: self.packet_max,
                    receive_max: self.bounds.receive_max,
                    topic_alias_max: self.bounds.topic_alias_max,
                    assigned: entry.assign_id.then_some(admission.client_id),
                    shares: self.who.shares(),
                    response_info: response_info.as_deref(),
                    continuity: admission.continuity,
                };
                v5::connack(&mut out.bytes, &said, &running.client);
            }
        }
        if out.bytes.len() - start > running.client.packet_max as usize {
            // Even CONNACK is more than this client takes [MQTT-3.1.2-24]. Its session goes on.
            out.bytes.truncate(start);
            self.state = State::Ended(running.goes_on().then_some(running));
            out.commands.push(Command::Close((DisconnectReason::ProtocolError, Code::PacketTooLarge).into()));
            return;
        }
        running.release_again(&mut out.bytes);
        self.state = State::Running(running);
    }

    /// The gate refuses the client.
    pub fn refuse(&mut self, code: Code, out: &mut Output) {
        let State::Gate(running, _) = std::mem::replace(&mut self.state, State::Ended(None)) else { return };
        match running.protocol {
            Protocol::V3 => v3::refuse(&mut out.bytes, code),
            Protocol::V5 => {
                let reason = Reason(code.entry().mqtt.max(Reason::UNSPECIFIED_ERROR.0));
                v5::refuse(&mut out.bytes, reason, code, &running.client);
            }
        }
        out.commands.push(Command::Close((DisconnectReason::Administrative, code).into()));
    }
}

/// A CONNECT that is refused for what it is, before the gate is asked.
fn refuse_form(answer: Option<Protocol>, fault: Fault, limits: &Limits, out: &mut Output) {
    match answer {
        None => {}
        Some(Protocol::V3) => v3::refuse(&mut out.bytes, fault.code()),
        Some(Protocol::V5) => v5::refuse(&mut out.bytes, fault.reason, fault.code(), limits),
    }
    out.commands.push(Command::Close((DisconnectReason::ProtocolError, fault.code()).into()));
}

/// What a device's response topics begin with: where others may answer it (MQTT 5.0 §3.2.2.3.15).
fn response_info(who: &Principal) -> Option<String> {
    match who {
        Principal::Device(name) => Some(format!("{}/{}/app/", name.tenant, name.device_id)),
        Principal::Service(_) => None,
    }
}

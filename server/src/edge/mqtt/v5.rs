//! What the server says in MQTT 5.0. Every refusal carries our code and words in its reason string,
//! where the client wants one and its packets may be that long.

use muster_shared::Code;

use super::{
    Outgoing,
    codec::{Reason, Write},
    packet::Qos,
    property::{
        ASSIGNED_CLIENT_ID, CONTINUITY, PACKET_MAX, Properties, REASON_STRING, RECEIVE_MAX, RESPONSE_INFO,
        SERVER_KEEP_ALIVE, SESSION_EXPIRY, SHARED_AVAILABLE, SUBSCRIPTION_ID, TOPIC_ALIAS, TOPIC_ALIAS_MAX,
        USER, write_aged,
    },
};

/// What the client said it can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// QoS 1 and 2 messages in flight to it [MQTT-3.3.4-9].
    pub receive_max: u16,
    /// Topic aliases it will remember [MQTT-3.1.2-26].
    pub topic_alias_max: u16,
    /// Octets of one packet to it [MQTT-3.1.2-24].
    pub packet_max: u32,
    /// Reason strings besides those of CONNACK and DISCONNECT [MQTT-3.1.2-29].
    pub problem_info: bool,
}

impl Limits {
    /// Of a client that says nothing, and of every 3.1.1 client.
    pub(super) const DEFAULT: Self =
        Self { receive_max: u16::MAX, topic_alias_max: 0, packet_max: u32::MAX, problem_info: true };

    /// What CONNECT said.
    pub(super) fn of(properties: &Properties<'_>) -> Self {
        Self {
            receive_max: properties.receive_max.unwrap_or(u16::MAX),
            topic_alias_max: properties.topic_alias_max.unwrap_or(0),
            packet_max: properties.packet_max.unwrap_or(u32::MAX),
            problem_info: properties.problem_info.unwrap_or(true),
        }
    }
}

/// What CONNACK says when it accepts: everything that differs from what the client may assume.
pub(super) struct Accepted<'a> {
    pub session_present: bool,
    /// Where it is not the one asked for, seconds.
    pub expiry_s: Option<u32>,
    /// Where it is not the one asked for, seconds.
    pub keep_alive_s: Option<u16>,
    pub packet_max: usize,
    pub receive_max: u16,
    pub topic_alias_max: u16,
    pub assigned: Option<&'a str>,
    pub shares: bool,
    /// What response topics begin with, to a client that asked [MQTT-3.1.2-28].
    pub response_info: Option<&'a str>,
    pub continuity: Option<&'a str>,
}

/// CONNACK, accepted (MQTT 5.0 §3.2). A continuity token gives way to the client's packet size
/// [MQTT-3.2.2-20].
pub(super) fn connack(out: &mut Vec<u8>, said: &Accepted<'_>, limits: &Limits) {
    let start = out.len();
    connack_with(out, said, said.continuity);
    if out.len() - start > limits.packet_max as usize {
        out.truncate(start);
        connack_with(out, said, None);
    }
}

fn connack_with(out: &mut Vec<u8>, said: &Accepted<'_>, continuity: Option<&str>) {
    super::packet(out, 0x20, |out| {
        out.extend_from_slice(&[u8::from(said.session_present), Reason::SUCCESS.0]);
        properties(out, |out| {
            if let Some(expiry_s) = said.expiry_s {
                out.push(SESSION_EXPIRY);
                out.extend_from_slice(&expiry_s.to_be_bytes());
            }
            out.push(RECEIVE_MAX);
            out.extend_from_slice(&said.receive_max.to_be_bytes());
            out.push(PACKET_MAX);
            out.extend_from_slice(&(said.packet_max as u32).to_be_bytes());
            if let Some(id) = said.assigned {
                out.push(ASSIGNED_CLIENT_ID);
                out.put_string(id);
            }
            out.push(TOPIC_ALIAS_MAX);
            out.extend_from_slice(&said.topic_alias_max.to_be_bytes());
            if !said.shares {
                out.extend_from_slice(&[SHARED_AVAILABLE, 0]);
            }
            if let Some(keep_alive_s) = said.keep_alive_s {
                out.push(SERVER_KEEP_ALIVE);
                out.extend_from_slice(&keep_alive_s.to_be_bytes());
            }
            if let Some(response_info) = said.response_info {
                out.push(RESPONSE_INFO);
                out.put_string(response_info);
            }
            if let Some(token) = continuity {
                out.push(USER);
                out.put_string(CONTINUITY);
                out.put_string(token);
            }
        });
    });
}

/// CONNACK, refused.
pub(super) fn refuse(out: &mut Vec<u8>, reason: Reason, code: Code, limits: &Limits) {
    said(out, 0x20, &[0, reason.0], code, limits);
}

/// DISCONNECT.
pub(super) fn disconnect(out: &mut Vec<u8>, reason: Reason, code: Code, limits: &Limits) {
    said(out, 0xe0, &[reason.0], code, limits);
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP by its first octet.
pub(super) fn ack(out: &mut Vec<u8>, first: u8, id: u16, reason: Reason) {
    let [high, low] = id.to_be_bytes();
    match reason {
        Reason::SUCCESS => out.extend_from_slice(&[first, 2, high, low]),
        Reason(reason) => out.extend_from_slice(&[first, 3, high, low, reason]),
    }
}

/// PUBACK or PUBREC, by its first octet, that refuses and says why.
pub(super) fn refused(out: &mut Vec<u8>, first: u8, id: u16, code: Code, limits: &Limits) {
    let [high, low] = id.to_be_bytes();
    let reason = Reason(code.entry().mqtt.max(Reason::UNSPECIFIED_ERROR.0));
    if limits.problem_info {
        said(out, first, &[high, low, reason.0], code, limits);
    } else {
        ack(out, first, id, reason);
    }
}

/// SUBACK or UNSUBACK by its first octet: a reason for each filter; one string for the first refused.
pub(super) fn suback(out: &mut Vec<u8>, first: u8, id: u16, reasons: &[u8], limits: &Limits) {
    let code = reasons.iter().find_map(|reason| match Reason(*reason) {
        Reason::NOT_AUTHORIZED => Some(Code::TopicNotIts),
        Reason::TOPIC_FILTER_INVALID => Some(Code::FilterMalformed),
        Reason::QUOTA_EXCEEDED => Some(Code::SubscriptionsFull),
        Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED => Some(Code::SharedForServices),
        _ => None,
    });
    let start = out.len();
    let write = |out: &mut Vec<u8>, code: Option<Code>| {
        super::packet(out, first, |out| {
            out.extend_from_slice(&id.to_be_bytes());
            properties(out, |out| reason_string(out, code));
            out.extend_from_slice(reasons);
        });
    };
    write(out, code.filter(|_| limits.problem_info));
    if out.len() - start > limits.packet_max as usize {
        out.truncate(start);
        write(out, None);
    }
}

/// PUBLISH, with the identifiers of the subscriptions it was found by [MQTT-3.3.4-3].
pub(super) fn publish(out: &mut Vec<u8>, one: &Outgoing<'_>, subscriptions: impl Iterator<Item = u32>) {
    super::packet(out, one.first(), |out| {
        match one.alias {
            Some((_, true)) => out.put_string(""),
            _ => out.put_string(one.topic),
        }
        if one.qos != Qos::AtMostOnce {
            out.extend_from_slice(&one.id.to_be_bytes());
        }
        properties(out, |out| {
            write_aged(out, one.properties, one.waited_s);
            if let Some((alias, _)) = one.alias {
                out.push(TOPIC_ALIAS);
                out.extend_from_slice(&alias.to_be_bytes());
            }
            for id in subscriptions {
                out.push(SUBSCRIPTION_ID);
                out.put_varint(id);
            }
        });
        out.extend_from_slice(one.payload);
    });
}

/// A packet that ends in properties, with our code and words as reason string; without them where that
/// would be longer than the client takes [MQTT-3.2.2-19], [MQTT-3.4.2-2], [MQTT-3.14.2-3].
fn said(out: &mut Vec<u8>, first: u8, head: &[u8], code: Code, limits: &Limits) {
    let start = out.len();
    let write = |out: &mut Vec<u8>, code: Option<Code>| {
        super::packet(out, first, |out| {
            out.extend_from_slice(head);
            properties(out, |out| reason_string(out, code));
        });
    };
    write(out, Some(code));
    if out.len() - start > limits.packet_max as usize {
        out.truncate(start);
        write(out, None);
    }
}

fn reason_string(out: &mut Vec<u8>, code: Option<Code>) {
    let Some(code) = code else { return };
    let said = super::reason(code);
    out.push(REASON_STRING);
    out.extend_from_slice(&(said.len() as u16).to_be_bytes());
    out.extend_from_slice(said.as_bytes());
}

fn properties(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    super::counted(out, write);
}

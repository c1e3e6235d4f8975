//! What the server says in MQTT 5.0. Every refusal carries our code and words in its reason string,
//! where the client wants one and its packets may be that long.

use muster_shared::Code;

use super::{
    codec::{Reason, Write},
    packet::Qos,
    property::{
        ASSIGNED_CLIENT_ID, PACKET_MAX, Properties, QOS_MAX, REASON_STRING, RECEIVE_MAX, RETAIN_AVAILABLE,
        SESSION_EXPIRY, SHARED_AVAILABLE, SUBSCRIPTION_ID,
    },
};
use crate::edge::limits::UPLINK_INFLIGHT_MAX;

/// What the client said it can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// QoS 1 messages in flight to it [MQTT-3.3.4-9].
    pub receive_max: u16,
    /// Octets of one packet to it [MQTT-3.1.2-24].
    pub packet_max: u32,
    /// Reason strings besides those of CONNACK and DISCONNECT [MQTT-3.1.2-29].
    pub problem_info: bool,
}

impl Limits {
    /// Of a client that says nothing, and of every 3.1.1 client.
    pub(super) const DEFAULT: Self = Self { receive_max: u16::MAX, packet_max: u32::MAX, problem_info: true };

    /// What CONNECT said.
    pub(super) fn of(properties: &Properties<'_>) -> Self {
        Self {
            receive_max: properties.receive_max.unwrap_or(u16::MAX),
            packet_max: properties.packet_max.unwrap_or(u32::MAX),
            problem_info: properties.problem_info.unwrap_or(true),
        }
    }
}

/// CONNACK, accepted (MQTT 5.0 §3.2), with everything that differs from what the client may assume.
pub(super) fn connack(out: &mut Vec<u8>, assigned: Option<&str>, expiry_asked: bool, packet_max: usize) {
    super::packet(out, 0x20, |out| {
        // No session outlives its connection, so none is ever present.
        out.extend_from_slice(&[0, Reason::SUCCESS.0]);
        properties(out, |out| {
            if expiry_asked {
                out.extend_from_slice(&[SESSION_EXPIRY, 0, 0, 0, 0]);
            }
            out.push(RECEIVE_MAX);
            out.extend_from_slice(&UPLINK_INFLIGHT_MAX.to_be_bytes());
            out.extend_from_slice(&[QOS_MAX, 1, RETAIN_AVAILABLE, 0, SHARED_AVAILABLE, 0, PACKET_MAX]);
            out.extend_from_slice(&(packet_max as u32).to_be_bytes());
            if let Some(id) = assigned {
                out.push(ASSIGNED_CLIENT_ID);
                out.put_string(id);
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

/// PUBACK that refuses, and says why.
pub(super) fn puback_refused(out: &mut Vec<u8>, id: u16, code: Code, limits: &Limits) {
    let [high, low] = id.to_be_bytes();
    let reason = Reason(code.entry().mqtt.max(Reason::UNSPECIFIED_ERROR.0));
    if limits.problem_info {
        said(out, 0x40, &[high, low, reason.0], code, limits);
    } else {
        ack(out, 0x40, id, reason);
    }
}

/// SUBACK or UNSUBACK by its first octet: a reason for each filter; one string for the first refused.
pub(super) fn suback(out: &mut Vec<u8>, first: u8, id: u16, reasons: &[u8], limits: &Limits) {
    let refused = reasons.contains(&Reason::NOT_AUTHORIZED.0);
    let start = out.len();
    let write = |out: &mut Vec<u8>, code: Option<Code>| {
        super::packet(out, first, |out| {
            out.extend_from_slice(&id.to_be_bytes());
            properties(out, |out| reason_string(out, code));
            out.extend_from_slice(reasons);
        });
    };
    write(out, (refused && limits.problem_info).then_some(Code::TopicNotIts));
    if out.len() - start > limits.packet_max as usize {
        out.truncate(start);
        write(out, None);
    }
}

/// PUBLISH, with the identifiers of the subscriptions it was found by [MQTT-3.3.4-3].
pub(super) fn publish(
    out: &mut Vec<u8>,
    topic: &str,
    payload: &[u8],
    qos: Qos,
    id: u16,
    subscriptions: impl Iterator<Item = u32>,
) {
    super::packet(out, 0x30 | (qos as u8) << 1, |out| {
        out.put_string(topic);
        if qos != Qos::AtMostOnce {
            out.extend_from_slice(&id.to_be_bytes());
        }
        properties(out, |out| {
            for id in subscriptions {
                out.push(SUBSCRIPTION_ID);
                out.put_varint(id);
            }
        });
        out.extend_from_slice(payload);
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
    let (id, words) = (code.id(), code.words());
    out.push(REASON_STRING);
    out.extend_from_slice(&((id.len() + 1 + words.len()) as u16).to_be_bytes());
    out.extend_from_slice(id.as_bytes());
    out.push(b' ');
    out.extend_from_slice(words.as_bytes());
}

fn properties(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    super::counted(out, write);
}

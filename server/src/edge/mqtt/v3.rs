//! What the server says in MQTT 3.1.1. There is no room for reasons: a refused CONNECT has a return
//! code, a refused filter has 0x80, and everything else is said by closing.

use muster_shared::Code;

use super::{Outgoing, codec::Write, packet::Qos};

/// CONNACK, accepted (3.1.1 §3.2).
pub(super) fn connack(out: &mut Vec<u8>, session_present: bool) {
    out.extend_from_slice(&[0x20, 2, u8::from(session_present), 0]);
}

/// CONNACK with the return code that comes closest to `code` (3.1.1 table 3.1).
pub(super) fn refuse(out: &mut Vec<u8>, code: Code) {
    let return_code = match code {
        Code::ProtocolUnsupported => 1,
        Code::ClientIdForeign => 2,
        Code::ServerBusy | Code::ServerStopping | Code::NotStored | Code::ApprovalUnavailable => 3,
        _ => 5,
    };
    out.extend_from_slice(&[0x20, 2, 0, return_code]);
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP by its first octet.
pub(super) fn ack(out: &mut Vec<u8>, first: u8, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

/// SUBACK: the QoS granted to each filter, or 0x80.
pub(super) fn suback(out: &mut Vec<u8>, id: u16, granted: &[u8]) {
    super::packet(out, 0x90, |out| {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend(granted.iter().map(|&code| code.min(0x80)));
    });
}

/// PUBLISH.
pub(super) fn publish(out: &mut Vec<u8>, one: &Outgoing<'_>) {
    super::packet(out, one.first(), |out| {
        out.put_string(one.topic);
        if one.qos != Qos::AtMostOnce {
            out.extend_from_slice(&one.id.to_be_bytes());
        }
        out.extend_from_slice(one.payload);
    });
}

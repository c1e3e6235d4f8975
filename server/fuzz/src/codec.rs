//! Packets: found in a stream, and read.

use muster_server::edge::{
    Protocol,
    mqtt::{
        codec::{Frame, frame},
        packet::{Connect, Packet},
    },
};

/// Reads octets as a stream of packets. The first octet says which version the client speaks and how large a
/// packet may be.
pub fn run(octets: &[u8]) {
    let Some((how, mut rest)) = octets.split_first() else { return };
    let protocol = if how & 1 == 0 { Protocol::V3 } else { Protocol::V5 };
    let max = 16 << (how >> 1 & 0xf);
    while let Ok(Some(found)) = frame(rest, max) {
        assert!(found.len <= rest.len() && found.len <= max && found.body.len() < found.len);
        // A packet is found when its last octet has come, not before and not otherwise.
        for len in (0..found.len.min(8)).chain([found.len - 1]) {
            assert_eq!(frame(&rest[..len], max), Ok(None));
        }
        assert_eq!(frame(&rest[..found.len], max).as_ref(), Ok(&Some(found)));
        read(&found, protocol);
        rest = &rest[found.len..];
    }
}

/// Reads a packet as everything it could be taken for.
fn read(frame: &Frame<'_>, protocol: Protocol) {
    if let Ok(connect) = Connect::read(frame) {
        text(connect.client_id);
        if let Some(will) = connect.will {
            topic(will.topic);
        }
    }
    match Packet::read(frame, protocol) {
        Ok(Packet::Publish(publish)) => {
            assert_eq!(publish.id == 0, publish.qos as u8 == 0, "an identifier where there is one");
            if !publish.topic.is_empty() {
                topic(publish.topic);
            }
            assert!(frame.body.ends_with(publish.payload));
        }
        Ok(Packet::Subscribe(filters) | Packet::Unsubscribe(filters)) => {
            assert_ne!(filters.id, 0);
            for filter in filters {
                text(filter.filter);
            }
        }
        Ok(Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack)) => {
            assert_ne!(ack.id, 0);
        }
        _ => {}
    }
}

/// A topic name is text without wildcards.
fn topic(topic: &str) {
    text(topic);
    assert!(!topic.contains(['+', '#']), "{topic:?}");
}

/// No text has U+0000 [MQTT-1.5.4-2].
fn text(text: &str) {
    assert!(!text.contains('\0'), "{text:?}");
}

//! The MQTT client against whatever a server may send.
#![allow(clippy::unwrap_used)]

use muster_firmware::mqtt::{Client, Decoder, Event, MqttError, PACKET_IN, PACKET_OUT, Packet};
use muster_shared::{Code, limits::CONTINUITY_MAX};
use proptest::{collection::vec, prelude::*};

fn opened() -> (Client, [u8; PACKET_OUT]) {
    let mut out = [0; PACKET_OUT];
    let (mut client, _) = Client::open("MU-1", 30, None, 0, &mut out).unwrap();
    assert_eq!(client.receive(&[0x20, 3, 0, 0, 0]), Ok(Event::Accepted { continuity: None }));
    (client, out)
}

/// Feeds octets in these pieces; every packet to the client, until one is refused.
fn feed(client: &mut Client, octets: &[u8], piece: usize) -> Result<usize, MqttError> {
    let (mut decoder, mut packets) = (Box::new(Decoder::new()), 0);
    for piece in octets.chunks(piece.max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = decoder.push(rest);
            rest = &rest[taken..];
            let mut progress = taken > 0;
            while let Some(packet) = decoder.packet()? {
                let len = packet.len();
                client.receive(packet)?;
                decoder.consume(len);
                packets += 1;
                progress = true;
            }
            assert!(progress, "a full decoder without a packet");
        }
    }
    Ok(packets)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_octets_make_it_panic_or_hang(octets in vec(any::<u8>(), 0..600), piece in 1usize..50, open in any::<bool>()) {
        let mut out = [0; PACKET_OUT];
        let mut client = if open { opened().0 } else { Client::open("MU-1", 30, None, 0, &mut out).unwrap().0 };
        let _ = feed(&mut client, &octets, piece);
    }

    #[test]
    fn no_packet_makes_it_panic(
        first in prop::sample::select(vec![0x20u8, 0x30, 0x32, 0x3a, 0x40, 0x90, 0xd0, 0xe0]),
        body in vec(any::<u8>(), 0..120),
    ) {
        let mut packet = vec![first, u8::try_from(body.len()).unwrap()];
        packet.extend(&body);
        let _ = Packet::read(&packet);
        let _ = feed(&mut opened().0, &packet, 7);
    }

    #[test]
    fn a_message_comes_out_whole_however_it_is_cut(
        topic in "[a-z/]{1,40}", payload in vec(any::<u8>(), 0..1500), piece in 1usize..300, qos1 in any::<bool>(),
    ) {
        let mut body = vec![0, u8::try_from(topic.len()).unwrap()];
        body.extend(topic.as_bytes());
        if qos1 {
            body.extend([0, 5]);
        }
        body.push(0);
        body.extend(&payload);
        let mut packet = vec![if qos1 { 0x32 } else { 0x30 }];
        let len = body.len();
        if len > 127 { packet.extend([(len & 0x7f) as u8 | 0x80, (len >> 7) as u8]) } else { packet.push(len as u8) }
        packet.extend(&body);
        let mut twice = packet.clone();
        twice.extend(&packet);
        prop_assert_eq!(feed(&mut opened().0, &twice, piece), Ok(2));
        let id = qos1.then_some(5);
        prop_assert_eq!(opened().0.receive(&packet), Ok(Event::Message { topic: &topic, payload: &payload, id }));
    }
}

#[test]
fn what_may_not_come_is_an_error() {
    for (packet, error) in [
        (&[0x20u8, 3, 0, 0, 0][..], MqttError::OutOfPlace),
        (&[0x10, 0], MqttError::Malformed),
        (&[0x40, 2, 0, 9], MqttError::OutOfPlace),
        (&[0x40, 2, 0, 0], MqttError::Malformed),
        (&[0x40, 3, 0], MqttError::Malformed),
        (&[0x34, 6, 0, 1, b'a', 0, 1, 0], MqttError::OutOfPlace),
        (&[0x36, 6, 0, 1, b'a', 0, 1, 0], MqttError::Malformed),
        (&[0x38, 4, 0, 1, b'a', 0], MqttError::Malformed),
        (&[0x30, 4, 0, 1, b'+', 0], MqttError::Malformed),
        (&[0x30, 3, 0, 0, 0], MqttError::Malformed),
        (&[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 1], MqttError::Malformed),
        (&[0x30, 3, 0, 1, 0xff], MqttError::Malformed),
        (&[0x90, 4, 0, 1, 0, 1], MqttError::OutOfPlace),
        (&[0xd0, 1, 0], MqttError::Malformed),
        (&[0xb0, 4, 0, 1, 0, 0], MqttError::OutOfPlace),
        (&[0xf0, 0], MqttError::OutOfPlace),
        (&[0xe0, 6, 0x8b, 4, 0x1f, 0, 9, b'a'], MqttError::Malformed),
        (&[0xe0, 4, 0x8b, 2, 0x7e, 0], MqttError::Malformed),
        (&[0xe0, 8, 0x8b, 6, 0x21, 0, 1, 0x21, 0, 1], MqttError::Malformed),
    ] {
        assert_eq!(opened().0.receive(packet), Err(error), "{packet:02x?}");
    }
    let mut decoder = Decoder::new();
    decoder.push(&[0x30, 0x80, 0x80, 0x01]);
    assert_eq!(decoder.packet(), Err(MqttError::TooLong), "more than {PACKET_IN} octets");
    let mut decoder = Decoder::new();
    decoder.push(&[0x30, 0x80, 0x00]);
    assert_eq!(decoder.packet(), Err(MqttError::Malformed), "a length not in its shortest form");
}

#[test]
fn reasons_become_codes() {
    let closed = |packet: &[u8]| match opened().0.receive(packet) {
        Ok(Event::Closed(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    };
    let mut named = vec![0xe0, 0, 0x98, 0, 0x1f, 0, 0];
    let text = b"M201 device is suspended";
    named.extend(text);
    (named[1], named[3], named[6]) = (5 + text.len() as u8, 3 + text.len() as u8, text.len() as u8);
    assert_eq!(closed(&named), Code::DeviceSuspended);
    for (reason, code) in [
        (0x8b, Code::ServerStopping),
        (0x8e, Code::SessionTakenOver),
        (0x98, Code::Disconnected),
        (0x87, Code::RefusedNoReason),
        (0x00, Code::ConnectionLost),
    ] {
        assert_eq!(closed(&[0xe0, 1, reason]), code);
    }
    let (mut client, mut out) = opened();
    let (id, _) = client.publish("other/device/app/x", b"", 0, &mut out).unwrap();
    let [high, low] = id.to_be_bytes();
    match client.receive(&[0x40, 3, high, low, 0x87]) {
        Ok(Event::Acknowledged { outcome: Err(refusal), .. }) => assert_eq!(refusal.code, Code::TopicNotIts),
        other => panic!("{other:?}"),
    }
    // A code that says nothing to a device counts as none.
    named[7..11].copy_from_slice(b"M401");
    assert_eq!(closed(&named), Code::Disconnected);
}

#[test]
fn the_servers_limits_are_kept() {
    let mut out = [0; PACKET_OUT];
    let (mut client, connect) = Client::open("MU-1", 30, None, 0, &mut out).unwrap();
    assert_eq!(connect[..12], [0x10, 25, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 30]);
    // Receive maximum 1, maximum packet size 40, keep-alive 8 s.
    let connack = [0x20, 14, 0, 0, 11, 0x21, 0, 1, 0x27, 0, 0, 0, 40, 0x13, 0, 8];
    assert_eq!(client.receive(&connack), Ok(Event::Accepted { continuity: None }));
    assert_eq!(client.due_ms(), 6000);
    assert_eq!(client.publish("a/b/app/c", &[0; 40], 0, &mut out).unwrap_err(), MqttError::TooLong);
    let (id, packet) = client.publish("a/b/app/c", &[7; 4], 0, &mut out).unwrap();
    assert_eq!(packet[..2], [0x32, 18]);
    assert!(!client.has_room());
    assert_eq!(client.publish("a/b/app/c", b"", 0, &mut out).unwrap_err(), MqttError::OutOfPlace);
    let [high, low] = id.to_be_bytes();
    assert_eq!(client.receive(&[0x40, 2, high, low]), Ok(Event::Acknowledged { id, outcome: Ok(()) }));
    assert!(client.has_room());
    assert_eq!(client.receive(&[0x40, 2, high, low]), Err(MqttError::OutOfPlace), "acknowledged twice");
}

/// What every server of ours reads: do not change this test.
#[test]
fn a_document_for_the_server_to_keep() {
    let (mut client, mut out) = opened();
    let (id, packet) = client.publish_kept("a/b/twin/reported", b"{}", 0, &mut out).unwrap();
    let head = [0x33, 43, 0, 17];
    let [high, low] = id.to_be_bytes();
    let properties = [&[high, low, 19, 0x03, 0, 16][..], b"application/json"].concat();
    assert_eq!(packet, [&head[..], b"a/b/twin/reported", &properties, b"{}"].concat());
}

#[test]
fn it_pings_in_time_and_gives_up_on_silence() {
    let (mut client, mut out) = opened();
    assert_eq!(client.tick(22_499, &mut out), Ok(None));
    assert_eq!(client.tick(22_500, &mut out), Ok(Some(&[0xc0, 0][..])));
    assert_eq!(client.receive(&[0xd0, 0]), Ok(Event::Quiet));
    assert_eq!(client.tick(45_000, &mut out), Ok(Some(&[0xc0, 0][..])));
    let due = client.due_ms();
    assert_eq!(client.tick(due, &mut out), Err(MqttError::Silent));
}

/// What every server of ours reads: do not change this test.
#[test]
fn connect_with_a_continuity_token() {
    let mut out = [0; PACKET_OUT];
    let (_, connect) = Client::open("MU-1", 30, Some("AcOi"), 0, &mut out).unwrap();
    let head = [0x10, 51, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 30];
    let properties = [34, 0x21, 0, 4, 0x27, 0, 0, 8, 0, 0x26, 0, 17];
    let rest: [&[u8]; 4] = [b"muster-continuity", &[0, 4], b"AcOi", &[0, 4, b'M', b'U', b'-', b'1']];
    assert_eq!(connect, [&head[..], &properties, &rest.concat()].concat());
    for (length, fits) in [(CONTINUITY_MAX, true), (CONTINUITY_MAX + 1, false), (PACKET_OUT, false)] {
        let opened = Client::open("MU-1", 30, Some(&"a".repeat(length)), 0, &mut out);
        assert_eq!(opened.map(|_| ()), if fits { Ok(()) } else { Err(MqttError::TooLong) }, "{length}");
    }
}

#[test]
fn the_first_continuity_token_of_connack_counts_if_it_can_be_kept() {
    let given = |properties: &[u8]| {
        let (length, mut out) = (u8::try_from(properties.len()).unwrap(), [0; PACKET_OUT]);
        let (mut client, _) = Client::open("MU-1", 30, None, 0, &mut out).unwrap();
        let connack = [&[0x20, length + 3, 0, 0, length], properties].concat();
        match client.receive(&connack) {
            Ok(Event::Accepted { continuity }) => continuity.map(str::to_owned),
            other => panic!("{other:?}"),
        }
    };
    let user = |name: &str, value: &str| {
        let text = |text: &str| [&[0, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [vec![0x26], text(name), text(value)].concat()
    };
    let ours = |value: &str| user("muster-continuity", value);
    assert_eq!(given(&user("x", "1")), None);
    assert_eq!(given(&[user("x", "1"), ours("a"), ours("b")].concat()).as_deref(), Some("a"));
    let longest = "a".repeat(CONTINUITY_MAX);
    assert_eq!(given(&ours(&longest)), Some(longest.clone()));
    assert_eq!(given(&ours(&format!("{longest}a"))), None);
    assert_eq!(given(&ours("")), None);
}

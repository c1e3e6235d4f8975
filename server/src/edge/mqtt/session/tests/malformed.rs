//! Packets that end the session.

use super::*;

#[test]
fn malformed_and_misplaced_packets_end_the_session_with_their_reason() {
    let alias = packet(0x32, &[&text(TELEMETRY), &[0, 7, 3, 0x23, 0, 33]]);
    let alias_0 = packet(0x32, &[&text(TELEMETRY), &[0, 7, 3, 0x23, 0, 0]]);
    let alias_of_nothing = packet(0x32, &[&text(""), &[0, 7, 3, 0x23, 0, 32]]);
    let subscription_id = packet(0x32, &[&text(TELEMETRY), &[0, 7, 2, 0x0b, 1]]);
    let not_utf8 = packet(0x32, &[&text("acme/MU-1/app/x"), &[0, 7, 2, 0x01, 1], &[0xff]]);
    let wild_response = packet(0x32, &[&text(TELEMETRY), &[0, 7, 6, 0x08], &text("a/+")]);
    let cases: &[(&[u8], u8)] = &[
        (&[0x36, 2, 0, 0], 0x81),             // QoS 3
        (&[0x38, 3, 0, 1, b'x'], 0x81),       // DUP at QoS 0
        (&[0x32, 5, 0, 1, b'x', 0, 0], 0x82), // packet identifier 0
        (&[0x32, 4, 0, 1, b'x', 7], 0x81),    // cut short
        (&[0x30, 3, 0, 9, b'x'], 0x81),       // topic longer than the packet
        (&[0x30, 4, 0, 1, 0, 0], 0x81),       // NUL in a topic
        (&[0x30, 4, 0, 1, b'#', 0], 0x90),    // wildcard in a topic
        (&[0x30, 3, 0, 0, 0], 0x82),          // no topic, no alias
        (&alias, 0x94),
        (&alias_0, 0x94),
        (&alias_of_nothing, 0x82),
        (&subscription_id, 0x82),
        (&not_utf8, 0x99),
        (&wild_response, 0x90),
        (&connect(V5), 0x82),                          // second CONNECT
        (&[0x20, 3, 0, 0, 0], 0x82),                   // CONNACK
        (&[0x90, 4, 0, 1, 0, 0], 0x82),                // SUBACK
        (&[0xb0, 4, 0, 1, 0, 0], 0x82),                // UNSUBACK
        (&[0xd0, 0], 0x82),                            // PINGRESP
        (&[0xf0, 0], 0x82),                            // AUTH
        (&[0x00, 0], 0x81),                            // type 0
        (&[0x82, 3, 0, 1, 0], 0x82),                   // SUBSCRIBE without a filter
        (&[0x82, 7, 0, 1, 0, 0, 1, b'x', 3], 0x81),    // QoS 3
        (&[0x82, 7, 0, 1, 0, 0, 1, b'x', 0x40], 0x81), // reserved option
        (&[0x82, 7, 0, 1, 0, 0, 1, b'x', 0x30], 0x82), // retain handling 3
        (&[0x82, 6, 0, 1, 0, 0, 1, b'x'], 0x81),       // options missing
        (&[0x82, 7, 0, 0, 0, 0, 1, b'x', 0], 0x82),    // packet identifier 0
        (&[0x80, 7, 0, 1, 0, 0, 1, b'x', 0], 0x81),    // flags of SUBSCRIBE
        (&[0xa2, 3, 0, 1, 0], 0x82),                   // UNSUBSCRIBE without a filter
        (&[0x40, 2, 0, 0], 0x82),                      // PUBACK of packet identifier 0
        (&[0x40, 3, 0, 1, 0x01], 0x82),                // a reason PUBACK has not
        (&[0x40, 1, 0], 0x81),
        (&[0x62, 3, 0, 1, 0x80], 0x82),             // a reason PUBREL has not
        (&[0xc0, 1, 0], 0x81),                      // PINGREQ with a body
        (&[0xe0, 1, 0x8e], 0x82),                   // a server's reason
        (&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 1], 0x82), // session expiry raised
        (&[0xc0, 0x80, 0x00], 0x81),                // a length longer than need be
        (&[0x30, 0x80, 0x80, 0x80, 0x80], 0x81),    // and one of five octets
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], 0x95),    // 256 MiB
    ];
    for (bytes, reason) in cases {
        let (why, code, said) = Client::connected(V5).ends(bytes);
        assert_eq!((why, said), (PROTOCOL_ERROR, Some(*reason)), "{bytes:02x?}");
        let expected = match reason {
            0x81 => Code::PacketMalformed,
            0x95 => Code::PacketTooLarge,
            _ => Code::PacketOutOfPlace,
        };
        assert_eq!(code, expected, "{bytes:02x?}");
    }
}

#[test]
fn mqtt_3_closes_without_a_word() {
    let cases: &[&[u8]] = &[
        &[0x36, 2, 0, 0],
        &[0x38, 3, 0, 1, b'x'],
        &[0x32, 5, 0, 1, b'x', 0, 0],
        &[0x30, 3, 0, 1, b'#'],
        &[0x30, 2, 0, 0],
        &connect(V3),
        &[0x20, 2, 0, 0],
        &[0xf0, 0],
        &[0x82, 2, 0, 1],
        &[0x82, 6, 0, 1, 0, 1, b'x', 4],
        &[0x40, 3, 0, 1, 0],
        &[0xe0, 1, 0],
        &[0x30, 0xff, 0xff, 0xff, 0x7f],
    ];
    for bytes in cases {
        let (why, _, said) = Client::connected(V3).ends(bytes);
        assert_eq!((why, said), (PROTOCOL_ERROR, None), "{bytes:02x?}");
    }
}

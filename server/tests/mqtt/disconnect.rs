//! PINGREQ, DISCONNECT and AUTH, and the keep-alive (§3.12, §3.14, §3.15, §3.1.2.10, §4.12).

use crate::{
    broker::Broker,
    packets::{CONNACK, Connect, DISCONNECT, PINGREQ, PINGRESP, Publish, V3, V5, disconnect, p, packet},
};

async fn pingreq_is_answered_with_pingresp(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for _ in 0..3 {
        client.send(PINGREQ).await;
        let pong = client.packet().await.unwrap();
        assert_eq!((pong.first, pong.len()), (PINGRESP, 2));
    }
}

async fn silence_ends_the_connection(broker: &mut Broker, version: u8) {
    let begun = std::time::Instant::now();
    let mut client = broker.connect(Connect::new(version, "a").keep_alive(1)).await;
    // Signs of life of any kind keep it.
    for publish in [false, true, false, true] {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        if publish {
            client.send(Publish::new("t", "x").bytes(version)).await;
        } else {
            client.ping().await;
        }
    }
    client.closed_for(&[0x8d]).await;
    assert!(begun.elapsed().as_millis() >= 3000, "not before one and a half intervals of silence");
    // Zero turns it off.
    let mut client = broker.connect(Connect::new(version, "a").keep_alive(0)).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    client.ping().await;
}

async fn before_connack_there_is_no_disconnect(broker: &mut Broker, version: u8) {
    let mut device = broker.open_device(0, version).await;
    let connack = device.connect(&Connect::new(version, "MU-000002")).await;
    assert_eq!(connack.kind(), CONNACK);
    assert_eq!(device.closed().await, None, "the CONNACK was not of success");
    for octets in [&PINGREQ[..], &[0x36, 2, 0, 0], &[0x10, 0xff, 0xff, 0xff, 0xff], &[0xe0, 1, 0]] {
        let mut client = broker.open(version).await;
        client.send(octets).await;
        while let Some(packet) = client.packet().await {
            assert_eq!(packet.kind(), CONNACK, "{packet:02x?}");
        }
    }
}

async fn reserved_bits_of_disconnect_are_zero(broker: &mut Broker, version: u8) {
    for flags in [1, 2, 4, 8, 15] {
        let mut client = broker.client(version, "a").await;
        client.send([DISCONNECT | flags, 0]).await;
        client.closed_for(&[0x81]).await;
    }
}

/// The reason codes of a server's DISCONNECT (MQTT 5.0 §3.14.2.1).
const CODES: [u8; 28] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
    0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
];

async fn disconnect_codes_are_those_of_the_table(broker: &mut Broker, version: u8) {
    let foreign = Publish::new("acme/MU-000002/app/x", "x").bytes(version);
    let alias = Publish::new("acme/MU-000001/app/x", "x").property(p::alias(65_535)).bytes(version);
    let not_text = Publish::new("acme/MU-000001/app/x", [0xff]).property(p::payload_format(1)).bytes(version);
    let huge = [0x30, 0xff, 0xff, 0xff, 0x7f];
    let mut told = Vec::new();
    for octets in
        [&foreign[..], &alias, &huge, &not_text, &[0x36, 2, 0, 0], &[0xd0, 0], &[0xf0, 0], &[0x30, 0]]
    {
        let mut device = broker.device(0, version).await;
        device.send(octets).await;
        let packet = device.expect(DISCONNECT).await;
        assert!(CODES.contains(&packet.reason()) && packet.reason() >= 0x80, "{packet:02x?}");
        assert_eq!(device.packet().await, None);
        told.push(packet.reason());
    }
    assert_eq!(told[..4], [0x87, 0x94, 0x95, 0x99]);
}

async fn disconnect_has_no_session_expiry(broker: &mut Broker, version: u8) {
    let mut first = broker.connect(Connect::durable(version, "a")).await;
    let _second = broker.connect(Connect::durable(version, "a")).await;
    let packet = first.expect(DISCONNECT).await;
    assert_eq!(packet.properties().get(p::SESSION_EXPIRY), None);
}

/// A farewell with its reason string, and the same to a client for which it is one octet too long.
async fn disconnect_leaves_out_what_does_not_fit(broker: &mut Broker, version: u8) {
    let malformed = [0x36, 2, 0, 0];
    let mut client = broker.client(version, "a").await;
    client.send(malformed).await;
    let full = client.expect(DISCONNECT).await;
    assert!(full.properties().text(p::REASON_STRING).is_some());
    let max = full.len() as u32 - 1;
    let mut client = broker.connect(Connect::new(version, "a").property(p::packet_max(max))).await;
    client.send(malformed).await;
    let packet = client.expect(DISCONNECT).await;
    assert!(packet.len() <= max as usize);
    assert_eq!(packet.reason(), full.reason());
    assert!(packet.properties().0.is_empty(), "no reason string, no user property: {packet:02x?}");
}

/// A client that goes on talking to a server that has said goodbye.
async fn nothing_is_sent_behind_disconnect(broker: &mut Broker, version: u8) {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("t", 1).await;
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1).await;
    let publish = Publish::new("t", "late").qos(1).id(1).bytes(version);
    client.send([&[0x36, 2, 0, 0][..], &publish, &PINGREQ].concat()).await;
    client.expect(DISCONNECT).await;
    assert_eq!(client.packet().await, None);
    assert_eq!(listener.heard().await, [""; 0], "nor looked at");
}

async fn disconnect_closes(broker: &mut Broker, version: u8) {
    // The server's goodbye, and the client's.
    let mut client = broker.client(version, "a").await;
    client.send(packet(0x40, &[&[0]])).await;
    assert_eq!(client.closed().await, Some(0x81));
    for octets in [&[DISCONNECT, 0][..], &[DISCONNECT, 1, 0], &disconnect(0x04, &[]), &disconnect(0x80, &[])]
    {
        let mut client = broker.client(version, "a").await;
        client.send(octets).await;
        assert_eq!(client.closed().await, None, "nothing is said to who has said goodbye");
    }
}

async fn a_session_expiry_cannot_begin_at_disconnect(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.send(disconnect(0, &p::session_expiry(60))).await;
    client.closed_for(&[0x82]).await;
    let (_, connack) = broker.connecting(Connect::durable(version, "a")).await;
    assert!(!connack.session_present());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_expiry_gets_none_at_disconnect() {
    let mut broker = Broker::start().await;
    a_session_expiry_cannot_begin_at_disconnect(&mut broker, V5).await;
    broker.stop().await;
}

async fn reserved_bits_of_auth_are_zero(broker: &mut Broker, version: u8) {
    for flags in [1, 2, 4, 8, 15] {
        let mut client = broker.client(version, "a").await;
        client.send(packet(0xf0 | flags, &[&[0x19, 0]])).await;
        client.closed_for(&[0x81]).await;
    }
}

async fn an_authentication_method_is_refused(broker: &mut Broker, version: u8) {
    for method in ["SCRAM-SHA-1", "PLAIN", ""] {
        let mut client = broker.open(version).await;
        let connack = client.connect(&Connect::new(version, "a").property(p::auth_method(method))).await;
        assert!([0x8c, 0x87].contains(&connack.reason()), "{connack:02x?}");
        assert_eq!(client.closed().await, None);
    }
}

async fn no_authentication_is_begun_by_the_server(broker: &mut Broker, version: u8) {
    let (mut client, connack) = broker.connecting(Connect::new(version, "a")).await;
    assert_eq!(connack.properties().get(p::AUTH_METHOD), None);
    client.subscribe("t", 1).await;
    client.say("t", "x").await;
    assert_eq!(client.heard().await, ["x"], "and no AUTH among it");
    // Nor by a client that named no method.
    client.send(packet(0xf0, &[&[0x19, 0]])).await;
    client.closed_for(&[0x82]).await;
}

statements! {
    mqtt5_3_12_4_1 => pingreq_is_answered_with_pingresp(V5);
    mqtt3_3_12_4_1 => pingreq_is_answered_with_pingresp(V3);
    mqtt5_3_1_2_22 => silence_ends_the_connection(V5);
    mqtt3_3_1_2_24 => silence_ends_the_connection(V3);
    mqtt5_3_14_0_1 => before_connack_there_is_no_disconnect(V5);
    mqtt5_3_14_1_1 => reserved_bits_of_disconnect_are_zero(V5);
    mqtt3_3_14_1_1 => reserved_bits_of_disconnect_are_zero(V3);
    mqtt5_3_14_2_1 => disconnect_codes_are_those_of_the_table(V5);
    mqtt5_3_14_2_2 => disconnect_has_no_session_expiry(V5);
    mqtt5_3_14_2_3 => disconnect_leaves_out_what_does_not_fit(V5);
    mqtt5_3_14_4_1 => nothing_is_sent_behind_disconnect(V5);
    mqtt5_3_14_4_2 => disconnect_closes(V5);
    mqtt5_3_15_1_1 => reserved_bits_of_auth_are_zero(V5);
    mqtt5_4_12_0_1 => an_authentication_method_is_refused(V5);
    mqtt5_4_12_0_6 => no_authentication_is_begun_by_the_server(V5);
}

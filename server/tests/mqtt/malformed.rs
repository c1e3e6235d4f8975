//! Packets that are malformed or out of place end the connection (§2.1.3, §4.13; 3.1.1 §2.2.2, §4.8).

use crate::{
    broker::Broker,
    packets::{Connect, DISCONNECT, PINGREQ, Publish, V3, V5, p, packet, subscribe, unsubscribe},
};

async fn closes(broker: &Broker, version: u8, octets: &[u8], reasons: &[u8]) {
    let mut client = broker.client(version, "a").await;
    client.send(octets).await;
    client.closed_for(reasons).await;
}

/// Packets whose flags the specification fixes.
fn fixed(version: u8) -> Vec<Vec<u8>> {
    vec![
        packet(0x40, &[&[0, 1]]),
        packet(0x50, &[&[0, 1]]),
        packet(0x62, &[&[0, 1]]),
        packet(0x70, &[&[0, 1]]),
        subscribe(version, 1, &[], &[("t", 0)]),
        unsubscribe(version, 1, &["t"]),
        PINGREQ.to_vec(),
        vec![DISCONNECT, 0],
    ]
}

async fn reserved_flags_have_their_values(broker: &mut Broker, version: u8) {
    for octets in fixed(version) {
        for flip in [0b0001, 0b0010, 0b0100, 0b1000] {
            let mut octets = octets.clone();
            octets[0] ^= flip;
            closes(broker, version, &octets, &[0x81]).await;
        }
    }
}

async fn invalid_flags_close(broker: &mut Broker, version: u8) {
    for octets in fixed(version) {
        let mut octets = octets.clone();
        octets[0] ^= 0b1111;
        closes(broker, version, &octets, &[0x81]).await;
    }
}

async fn qos_3_closes(broker: &mut Broker, version: u8) {
    closes(broker, version, &Publish::new("t", "x").qos(3).id(1).bytes(version), &[0x81]).await;
    closes(broker, version, &Publish::new("t", "x").qos(3).id(1).dup().retain().bytes(version), &[0x81])
        .await;
}

/// Everything a client may not say, each with what it may be told.
async fn errors_close(broker: &mut Broker, version: u8) {
    let publish = |body: &[u8]| packet(0x32, &[body]);
    let errors: Vec<(Vec<u8>, &[u8])> = vec![
        // Not a packet of a client, or of nobody.
        (packet(0x00, &[]), &[0x81, 0x82]),
        (packet(0x20, &[&[0, 0, 0]]), &[0x81, 0x82]),
        (packet(0x90, &[&[0, 1, 0, 0]]), &[0x81, 0x82]),
        (packet(0xb0, &[&[0, 1, 0]]), &[0x81, 0x82]),
        (packet(0xd0, &[]), &[0x81, 0x82]),
        (packet(0xf0, &[]), &[0x81, 0x82]),
        // A length of five octets.
        (vec![0x30, 0x80, 0x80, 0x80, 0x80, 0x01], &[0x81]),
        // Fields cut off, or octets too many.
        (publish(&[]), &[0x81]),
        (publish(&[0, 9, b't']), &[0x81]),
        (publish(&[0, 1, b't', 0]), &[0x81]),
        (packet(0x40, &[&[1]]), &[0x81]),
        (packet(0x82, &[&[0, 1]]), &[0x81, 0x82]),
        (packet(0xc0, &[&[0]]), &[0x81]),
    ];
    for (octets, reasons) in errors {
        closes(broker, version, &octets, reasons).await;
    }
}

/// What MQTT 5 alone has names for.
async fn errors_have_their_reason(broker: &mut Broker, version: u8) {
    let with = |property: Vec<u8>| Publish::new("t", "x").property(property).bytes(version);
    let twice = [p::payload_format(1), p::payload_format(1)].concat();
    let errors: Vec<(Vec<u8>, &[u8])> = vec![
        (with(vec![0x7e, 0]), &[0x81]),
        (with(p::session_expiry(1)), &[0x81, 0x82]),
        (with(twice), &[0x82]),
        (with(p::payload_format(2)), &[0x81, 0x82]),
        (with(vec![0x02, 0, 0]), &[0x81]),
        (packet(0x30, &[&[0, 1, b't', 9, 1]]), &[0x81]),
        (packet(0x40, &[&[0, 1, 0x55]]), &[0x81, 0x82]),
        (packet(0x62, &[&[0, 1, 0x10]]), &[0x81, 0x82]),
        (packet(DISCONNECT, &[&[0x8e]]), &[0x81, 0x82]),
        (packet(DISCONNECT, &[&[0, 2, 0x1f, 0]]), &[0x81]),
        (subscribe(version, 1, &p::subscription_id(0), &[("t", 0)]), &[0x82]),
    ];
    for (octets, reasons) in errors {
        closes(broker, version, &octets, reasons).await;
    }
    errors_close(broker, version).await;
}

async fn a_reason_of_0x80_or_more_is_the_end(broker: &mut Broker, version: u8) {
    let mut refused = broker.open_device(0, version).await;
    assert!(refused.connect(&Connect::new(version, "MU-000002")).await.reason() >= 0x80);
    assert_eq!(refused.packet().await, None);
    let mut client = broker.client(version, "a").await;
    client.send(packet(0x36, &[&[0, 0]])).await;
    assert!(client.expect(DISCONNECT).await.reason() >= 0x80);
    assert_eq!(client.packet().await, None);
    // The others have nothing to do with it.
    let mut other = broker.client(version, "b").await;
    let mut client = broker.client(version, "a").await;
    client.send([0xd0, 0]).await;
    client.closed_for(&[0x81, 0x82]).await;
    other.ping().await;
}

statements! {
    mqtt5_2_1_3_1 => reserved_flags_have_their_values(V5);
    mqtt3_2_2_2_1 => reserved_flags_have_their_values(V3);
    mqtt3_2_2_2_2 => invalid_flags_close(V3);
    mqtt5_3_3_1_4 => qos_3_closes(V5);
    mqtt3_3_3_1_4 => qos_3_closes(V3);
    mqtt5_4_13_1_1 => errors_have_their_reason(V5);
    mqtt3_4_8_0_1 => errors_close(V3);
    mqtt5_4_13_2_1 => a_reason_of_0x80_or_more_is_the_end(V5);
}

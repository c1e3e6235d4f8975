//! What a publisher says about its message arrives as it said it (MQTT 5.0 §3.3.2.3), and strings are what they
//! are (§1.5.4, §1.5.5, §1.5.7, §2.2.2).

use crate::{
    broker::Broker,
    packets::{Connect, PUBACK, PUBLISH, Publish, SUBACK, V3, V5, p, subscribe},
    reading::{Message, varint},
};

/// The message as a subscriber gets it: one there, one that was away, one that comes late.
async fn three_ways(broker: &Broker, publish: Publish) -> Vec<Message> {
    let mut away = broker.connect(Connect::durable(V5, "away")).await;
    away.subscribe(&publish.topic, 1).await;
    away.disconnect().await;
    let mut there = broker.client(V5, "there").await;
    there.subscribe(&publish.topic, 1).await;
    let mut publisher = broker.client(V5, "publisher").await;
    assert!(publisher.publish(publish.clone().qos(1).retain()).await < 0x80);
    let mut late = broker.client(V5, "late").await;
    late.subscribe(&publish.topic, 1).await;
    let mut back = broker.connect(Connect::durable(V5, "away")).await;
    vec![there.take().await, late.take().await, back.take().await]
}

async fn the_payload_format_is_passed_on(broker: &mut Broker, _: u8) {
    for format in [0, 1] {
        let publish = Publish::new(format!("t/{format}"), "text").property(p::payload_format(format));
        for message in three_ways(broker, publish).await {
            assert_eq!(message.properties.number(p::PAYLOAD_FORMAT), Some(format.into()));
        }
    }
}

async fn the_response_topic_is_passed_on(broker: &mut Broker, _: u8) {
    let publish = Publish::new("t", "x").property(p::response_topic("the/answer\u{fb01}"));
    for message in three_ways(broker, publish).await {
        assert_eq!(message.properties.text(p::RESPONSE_TOPIC), Some("the/answer\u{fb01}".as_bytes()));
    }
}

async fn the_correlation_data_is_passed_on(broker: &mut Broker, _: u8) {
    let data: Vec<u8> = (0..=255).collect();
    for message in three_ways(broker, Publish::new("t", "x").property(p::correlation(&data))).await {
        assert_eq!(message.properties.text(p::CORRELATION), Some(&data[..]));
    }
}

async fn the_content_type_is_passed_on(broker: &mut Broker, _: u8) {
    let publish = Publish::new("t", "x").property(p::content_type("application/json"));
    for message in three_ways(broker, publish).await {
        assert_eq!(message.properties.text(p::CONTENT_TYPE), Some(&b"application/json"[..]));
    }
}

fn pairs() -> Vec<(String, String)> {
    let pairs = [("b", "1"), ("a", ""), ("", "x"), ("b", "1"), ("\u{feff}k", "é"), ("a", "0")];
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn user_properties(broker: &Broker) -> Vec<Vec<(String, String)>> {
    let mut publish = Publish::new("t", "x");
    for (key, value) in pairs() {
        publish = publish.property(p::user(key, value));
    }
    three_ways(broker, publish).await.iter().map(|message| message.properties.user()).collect()
}

async fn user_properties_are_passed_on(broker: &mut Broker, _: u8) {
    let mut expected = pairs();
    expected.sort();
    for mut user in user_properties(broker).await {
        user.sort();
        assert_eq!(user, expected, "each of them, unaltered");
    }
}

async fn user_properties_keep_their_order(broker: &mut Broker, _: u8) {
    for user in user_properties(broker).await {
        assert_eq!(user, pairs());
    }
}

/// Closed for a PUBLISH with this property.
async fn refused(broker: &Broker, property: Vec<u8>, reasons: &[u8]) {
    let mut client = broker.client(V5, "a").await;
    client.send(Publish::new("t", "x").property(&property).bytes(V5)).await;
    client.closed_for(reasons).await;
}

const ILL_FORMED: [&[u8]; 6] =
    [&[0xff], &[0xc3, 0x28], &[0xed, 0xa0, 0x80], &[0xf8, 0x88, 0x80, 0x80, 0x80], &[0xc0, 0xaf], b"a\0b"];

async fn a_response_topic_is_utf_8(broker: &mut Broker, _: u8) {
    for octets in ILL_FORMED {
        refused(broker, p::response_topic(octets), &[0x81, 0x82, 0x90]).await;
    }
}

async fn a_response_topic_has_no_wildcards(broker: &mut Broker, _: u8) {
    for topic in ["a/+", "a/#", "+", "#", "a+"] {
        refused(broker, p::response_topic(topic), &[0x81, 0x82, 0x90]).await;
    }
}

async fn a_content_type_is_utf_8(broker: &mut Broker, _: u8) {
    for octets in ILL_FORMED {
        refused(broker, p::content_type(octets), &[0x81, 0x82]).await;
    }
}

async fn both_strings_of_a_pair_are_utf_8(broker: &mut Broker, _: u8) {
    for octets in ILL_FORMED {
        refused(broker, p::user(octets, "value"), &[0x81, 0x82]).await;
        refused(broker, p::user("key", octets), &[0x81, 0x82]).await;
    }
}

/// Ill-formed UTF-8 in every place a client may write a string.
async fn ill_formed(broker: &Broker, version: u8, octets: &[u8]) {
    let packets = [
        Publish::new(octets, "x").bytes(version),
        Publish::new(octets, "x").qos(1).id(1).bytes(version),
        subscribe(version, 1, &[], &[(octets, 0)]),
        crate::packets::unsubscribe(version, 1, &[octets]),
    ];
    for packet in packets {
        let mut client = broker.client(version, "a").await;
        client.send(&packet).await;
        client.closed_for(&[0x81, 0x82, 0x90, 0x8f]).await;
    }
    let mut client = broker.open(version).await;
    client.send(Connect::new(version, octets).bytes()).await;
    if let Some(connack) = client.packet().await {
        assert!(version == V5 && connack.reason() >= 0x80, "{connack:02x?}");
        assert_eq!(client.closed().await, None);
    }
}

async fn ill_formed_utf_8_closes(broker: &mut Broker, version: u8) {
    for octets in &ILL_FORMED[..5] {
        ill_formed(broker, version, octets).await;
    }
    // An encoding that is cut off, and the last surrogate.
    ill_formed(broker, version, &[b'a', 0xe2, 0x82]).await;
    ill_formed(broker, version, &[0xed, 0xbf, 0xbf]).await;
}

async fn a_null_character_closes(broker: &mut Broker, version: u8) {
    for octets in [&b"\0"[..], b"a\0", b"\0a", b"a/\0/b"] {
        ill_formed(broker, version, octets).await;
    }
}

async fn a_zero_width_no_break_space_is_a_character(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    assert_eq!(client.subscribe("\u{feff}t", 1).await, 1);
    assert_eq!(client.subscribe("x\u{feff}", 1).await, 1);
    for topic in ["\u{feff}t", "t", "x\u{feff}", "x"] {
        client.say(topic, topic).await;
    }
    assert_eq!(client.heard().await, ["\u{feff}t", "x\u{feff}"]);
}

async fn lengths_take_as_few_octets_as_they_can(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 0).await;
    for len in [0, 100, 122, 123, 124, 125, 126, 16_378, 16_379, 16_380, 16_381, 40_000] {
        client.send(Publish::new("t", vec![b'x'; len]).bytes(version)).await;
        let packet = client.expect(PUBLISH).await;
        let (value, _) = varint(&packet.length);
        assert_eq!(packet.length, crate::packets::varint(value));
        assert_eq!(packet.message().payload.len(), len);
    }
    // Property lengths too.
    for len in [100, 121, 122, 123, 124, 200, 16_376, 16_377, 16_378, 16_379] {
        let publish = Publish::new("t", "x").property(p::correlation(vec![7; len]));
        client.send(publish.bytes(version)).await;
        let packet = client.expect(PUBLISH).await;
        let properties = &packet.body[3..];
        let (value, behind) = varint(properties);
        let written = &properties[..properties.len() - behind.len()];
        assert_eq!(written, crate::packets::varint(value));
    }
    // And from a client a longer form is malformed.
    for octets in [&[0xc0, 0x80, 0][..], &[0x30, 0x84, 0x00, 0, 1, b't', 0], &[0x30, 5, 0, 1, b't', 0x80, 0]]
    {
        let mut client = broker.client(version, "b").await;
        client.send(octets).await;
        client.closed_for(&[0x81]).await;
    }
}

async fn no_properties_are_a_length_of_zero(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.send(subscribe(version, 1, &[], &[("t", 1)])).await;
    assert_eq!(client.expect(SUBACK).await.body, [0, 1, 0, 1]);
    client.send(Publish::new("t", "x").qos(1).id(2).bytes(version)).await;
    let (mut puback, mut publish) = (false, false);
    while !(puback && publish) {
        let packet = client.packet().await.unwrap();
        match packet.kind() {
            // Without a reason there are no properties either (§3.4.2.2.1).
            PUBACK => puback = [&[0, 2][..], &[0, 2, 0, 0]].contains(&&packet.body[..]),
            _ => publish = packet.body[5..] == [0, b'x'],
        }
    }
}

statements! {
    mqtt5_3_3_2_4 => the_payload_format_is_passed_on(V5);
    mqtt5_3_3_2_13 => a_response_topic_is_utf_8(V5);
    mqtt5_3_3_2_14 => a_response_topic_has_no_wildcards(V5);
    mqtt5_3_3_2_15 => the_response_topic_is_passed_on(V5);
    mqtt5_3_3_2_16 => the_correlation_data_is_passed_on(V5);
    mqtt5_3_3_2_17 => user_properties_are_passed_on(V5);
    mqtt5_3_3_2_18 => user_properties_keep_their_order(V5);
    mqtt5_3_3_2_19 => a_content_type_is_utf_8(V5);
    mqtt5_3_3_2_20 => the_content_type_is_passed_on(V5);
    mqtt5_1_5_4_1 => ill_formed_utf_8_closes(V5);
    mqtt3_1_5_3_1 => ill_formed_utf_8_closes(V3);
    mqtt5_1_5_4_2 => a_null_character_closes(V5);
    mqtt3_1_5_3_2 => a_null_character_closes(V3);
    mqtt5_1_5_4_3 => a_zero_width_no_break_space_is_a_character(V5);
    mqtt3_1_5_3_3 => a_zero_width_no_break_space_is_a_character(V3);
    mqtt5_1_5_5_1 => lengths_take_as_few_octets_as_they_can(V5);
    mqtt5_1_5_7_1 => both_strings_of_a_pair_are_utf_8(V5);
    mqtt5_2_2_2_1 => no_properties_are_a_length_of_zero(V5);
}

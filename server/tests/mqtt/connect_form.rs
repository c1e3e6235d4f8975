//! The form of CONNECT: protocol name and level, flags, and the payload they announce (§3.1.2, §3.1.3).

use crate::{
    broker::Broker,
    packets::{CONNACK, Connect, V3, V5, Will, p, packet, text},
};

/// The server closes. An MQTT 5 client may be told why in CONNACK; a 3.1.1 client is not.
async fn refused(broker: &Broker, version: u8, octets: &[u8]) {
    let mut client = broker.open(version).await;
    client.send(octets).await;
    if let Some(connack) = client.packet().await {
        assert_eq!(version, V5, "no CONNACK for what is no CONNECT: {connack:02x?}");
        assert_eq!(connack.first, CONNACK, "{connack:02x?}");
        assert!(connack.reason() >= 0x80, "{connack:02x?}");
        assert_eq!(client.closed().await, None);
    }
}

async fn taken(broker: &Broker, connect: Connect) {
    let mut client = broker.connect(connect).await;
    client.ping().await;
}

async fn other_protocol_names_are_refused(broker: &mut Broker, version: u8) {
    for name in [&b"mqtt"[..], b"MQTTX", b"HTTP", b"", b"MQ\0T", b"MQTT "] {
        refused(broker, version, &Connect::new(version, "a").protocol(name, version).bytes()).await;
    }
    taken(broker, Connect::new(version, "a").protocol("MQTT", version)).await;
}

async fn other_levels_are_refused_in_words_of_mqtt_5(broker: &mut Broker, version: u8) {
    for level in [6, 0x7f, 0xff] {
        let mut client = broker.open(version).await;
        let connack = client.connect(&Connect::new(version, "a").protocol("MQTT", level)).await;
        assert_eq!((connack.first, connack.reason()), (CONNACK, 0x84), "level {level}");
        assert_eq!(client.closed().await, None);
    }
}

async fn other_levels_are_refused_in_words_of_3_1_1(broker: &mut Broker, version: u8) {
    for level in [0, 1, 3] {
        let mut client = broker.open(version).await;
        let connack = client.connect(&Connect::new(version, "a").protocol("MQTT", level)).await;
        assert_eq!((connack.first, &connack.body[..]), (CONNACK, &[0, 1][..]), "level {level}");
        assert_eq!(client.closed().await, None);
    }
}

async fn the_reserved_flag_is_zero(broker: &mut Broker, version: u8) {
    refused(broker, version, &Connect::new(version, "a").flip(1).bytes()).await;
    taken(broker, Connect::new(version, "a")).await;
}

async fn a_will_flag_announces_topic_and_payload(broker: &mut Broker, version: u8) {
    // Nothing, and only the topic.
    refused(broker, version, &Connect::new(version, "a").flip(0b100).bytes()).await;
    let properties: &[u8] = if version == V5 { &[0] } else { &[] };
    let half = [properties, &text("topic")].concat();
    refused(broker, version, &Connect::new(version, "a").flip(0b100).tail(half).bytes()).await;
    let whole = [properties, &text("topic"), &text("payload")].concat();
    taken(broker, Connect::new(version, "a").flip(0b100).tail(whole)).await;
}

async fn no_will_flag_no_will(broker: &mut Broker, version: u8) {
    // Flags say no will; its fields are there, with QoS or without.
    let will = || Connect::new(version, "a").will(Will::new("topic", "payload").qos(1).retain());
    refused(broker, version, &will().flip(0b100).bytes()).await;
    let plain = Connect::new(version, "a").will(Will::new("topic", "payload"));
    refused(broker, version, &plain.flip(0b100).bytes()).await;
}

async fn will_qos_without_a_will_is_refused(broker: &mut Broker, version: u8) {
    for qos in 1..=3 {
        refused(broker, version, &Connect::new(version, "a").flip(qos << 3).bytes()).await;
    }
}

async fn will_qos_is_at_most_two(broker: &mut Broker, version: u8) {
    let will = |qos| Connect::new(version, "a").will(Will::new("topic", "x").qos(qos));
    refused(broker, version, &will(3).bytes()).await;
    for qos in 0..=2 {
        taken(broker, will(qos)).await;
    }
}

async fn will_retain_without_a_will_is_refused(broker: &mut Broker, version: u8) {
    refused(broker, version, &Connect::new(version, "a").flip(0b10_0000).bytes()).await;
}

async fn a_user_name_without_its_flag_is_refused(broker: &mut Broker, version: u8) {
    refused(broker, version, &Connect::new(version, "a").tail(text("ana")).bytes()).await;
    let named = Connect::new(version, "a").user("ana");
    refused(broker, version, &named.clone().flip(0x80).bytes()).await;
    taken(broker, named).await;
}

async fn a_user_name_flag_without_the_name_is_refused(broker: &mut Broker, version: u8) {
    refused(broker, version, &Connect::new(version, "a").flip(0x80).bytes()).await;
    refused(broker, version, &Connect::new(version, "a").flip(0x80).tail([0, 9, b'a']).bytes()).await;
}

async fn a_password_without_its_flag_is_refused(broker: &mut Broker, version: u8) {
    let both = Connect::new(version, "a").user("ana").password([0, 0xff, 0xfe]);
    refused(broker, version, &both.clone().flip(0x40).bytes()).await;
    taken(broker, both).await;
}

async fn a_password_flag_without_the_password_is_refused(broker: &mut Broker, version: u8) {
    refused(broker, version, &Connect::new(version, "a").user("ana").flip(0x40).bytes()).await;
}

async fn a_password_needs_a_user_name(broker: &mut Broker, version: u8) {
    refused(broker, version, &Connect::new(version, "a").password("secret").bytes()).await;
}

async fn the_payload_is_in_its_order(broker: &mut Broker, version: u8) {
    // Every field, each of another length: read in any other order none of this would fit.
    let will = Will::new("the/will/topic", "the payload of the will").qos(1);
    let connect = Connect::new(version, "everything").will(will).user("ana").password("hunter2");
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("the/will/topic", 1).await;
    broker.connect(connect).await.reset();
    let message = listener.take().await;
    assert_eq!((message.topic(), message.says()), ("the/will/topic", "the payload of the will"));
}

async fn a_connect_without_a_client_id_is_refused(broker: &mut Broker, version: u8) {
    let properties: &[u8] = if version == V5 { &[0] } else { &[] };
    let head = [&text("MQTT")[..], &[version, 0b10, 0, 60], properties].concat();
    refused(broker, version, &packet(0x10, &[&head])).await;
    refused(broker, version, &packet(0x10, &[&head, &[0]])).await;
    refused(broker, version, &packet(0x10, &[&head, &[0, 5, b'a']])).await;
}

async fn a_client_id_is_utf_8(broker: &mut Broker, version: u8) {
    for id in [&[0xff][..], &[0xc3, 0x28], &[0xed, 0xa0, 0x80], b"a\0b"] {
        refused(broker, version, &Connect::new(version, id).bytes()).await;
    }
}

async fn a_will_topic_is_utf_8(broker: &mut Broker, version: u8) {
    for topic in [&[0xff][..], &[0xc3, 0x28], &[0xed, 0xa0, 0x80], b"a\0b"] {
        let connect = Connect::new(version, "a").will(Will::new(topic, "x"));
        refused(broker, version, &connect.bytes()).await;
    }
}

async fn a_user_name_is_utf_8(broker: &mut Broker, version: u8) {
    for name in [&[0xff][..], &[0xc3, 0x28], &[0xed, 0xa0, 0x80], b"a\0b"] {
        refused(broker, version, &Connect::new(version, "a").user(name).bytes()).await;
    }
}

async fn what_is_no_connect_is_closed(broker: &mut Broker, version: u8) {
    let whole = Connect::new(version, "somebody").bytes();
    // Flags of the fixed header, one octet too many, and every field cut off in its middle.
    refused(broker, version, &[&[0x11], &whole[1..]].concat()).await;
    refused(broker, version, &Connect::new(version, "somebody").tail([0]).bytes()).await;
    for len in [0, 3, 6, 7, 9, whole.len() - 4] {
        refused(broker, version, &packet(0x10, &[&whole[2..2 + len]])).await;
    }
    if version == V5 {
        let twice = Connect::new(version, "a").property(p::receive_max(9)).property(p::receive_max(9));
        refused(broker, version, &twice.bytes()).await;
        refused(broker, version, &Connect::new(version, "a").property(p::receive_max(0)).bytes()).await;
        refused(broker, version, &Connect::new(version, "a").property(p::packet_max(0)).bytes()).await;
        refused(broker, version, &Connect::new(version, "a").property(p::request_problem(2)).bytes()).await;
        refused(broker, version, &Connect::new(version, "a").property(p::alias(1)).bytes()).await;
        refused(broker, version, &Connect::new(version, "a").property([0x7e, 0]).bytes()).await;
    }
}

async fn no_return_code_fits_and_none_is_sent(broker: &mut Broker, version: u8) {
    refused(broker, version, &Connect::new(version, "a").will(Will::new("t", "x").qos(3)).bytes()).await;
    refused(broker, version, &Connect::new(version, "a").will(Will::new("t/#", "x")).bytes()).await;
}

statements! {
    mqtt5_3_1_2_1 => other_protocol_names_are_refused(V5);
    mqtt3_3_1_2_1 => other_protocol_names_are_refused(V3);
    mqtt5_3_1_2_2 => other_levels_are_refused_in_words_of_mqtt_5(V5);
    mqtt3_3_1_2_2 => other_levels_are_refused_in_words_of_3_1_1(V3);
    mqtt5_3_1_2_3 => the_reserved_flag_is_zero(V5);
    mqtt3_3_1_2_3 => the_reserved_flag_is_zero(V3);
    mqtt5_3_1_2_9 => a_will_flag_announces_topic_and_payload(V5);
    mqtt3_3_1_2_9 => a_will_flag_announces_topic_and_payload(V3);
    mqtt3_3_1_2_11 => no_will_flag_no_will(V3);
    mqtt5_3_1_2_11 => will_qos_without_a_will_is_refused(V5);
    mqtt3_3_1_2_13 => will_qos_without_a_will_is_refused(V3);
    mqtt5_3_1_2_12 => will_qos_is_at_most_two(V5);
    mqtt3_3_1_2_14 => will_qos_is_at_most_two(V3);
    mqtt5_3_1_2_13 => will_retain_without_a_will_is_refused(V5);
    mqtt3_3_1_2_15 => will_retain_without_a_will_is_refused(V3);
    mqtt5_3_1_2_16 => a_user_name_without_its_flag_is_refused(V5);
    mqtt3_3_1_2_18 => a_user_name_without_its_flag_is_refused(V3);
    mqtt5_3_1_2_17 => a_user_name_flag_without_the_name_is_refused(V5);
    mqtt3_3_1_2_19 => a_user_name_flag_without_the_name_is_refused(V3);
    mqtt5_3_1_2_18 => a_password_without_its_flag_is_refused(V5);
    mqtt3_3_1_2_20 => a_password_without_its_flag_is_refused(V3);
    mqtt5_3_1_2_19 => a_password_flag_without_the_password_is_refused(V5);
    mqtt3_3_1_2_21 => a_password_flag_without_the_password_is_refused(V3);
    mqtt3_3_1_2_22 => a_password_needs_a_user_name(V3);
    mqtt5_3_1_3_1 => the_payload_is_in_its_order(V5);
    mqtt3_3_1_3_1 => the_payload_is_in_its_order(V3);
    mqtt5_3_1_3_3 => a_connect_without_a_client_id_is_refused(V5);
    mqtt3_3_1_3_3 => a_connect_without_a_client_id_is_refused(V3);
    mqtt5_3_1_3_4 => a_client_id_is_utf_8(V5);
    mqtt3_3_1_3_4 => a_client_id_is_utf_8(V3);
    mqtt5_3_1_3_11 => a_will_topic_is_utf_8(V5);
    mqtt3_3_1_3_10 => a_will_topic_is_utf_8(V3);
    mqtt5_3_1_3_12 => a_user_name_is_utf_8(V5);
    mqtt3_3_1_3_11 => a_user_name_is_utf_8(V3);
    mqtt5_3_1_4_1 => what_is_no_connect_is_closed(V5);
    mqtt3_3_1_4_1 => what_is_no_connect_is_closed(V3);
    mqtt3_3_2_2_6 => no_return_code_fits_and_none_is_sent(V3);
}

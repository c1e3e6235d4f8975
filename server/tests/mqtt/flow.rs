//! Flow control: receive maximum, maximum packet size, problem information (MQTT 5.0 §3.1.2.11, §3.3.4, §4.9).

use crate::{
    broker::Broker,
    packets::{
        Connect, PINGRESP, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, SUBACK, UNSUBACK, V5, ack, ack_with, p,
        subscribe, unsubscribe,
    },
};

/// Messages for a client that takes three at a time.
async fn the_server_heeds_the_receive_maximum(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::new(version, "a").property(p::receive_max(3))).await;
    client.subscribe("t", 2).await;
    let mut publisher = broker.client(version, "publisher").await;
    for n in 0..10 {
        publisher.publish(Publish::new("t", n.to_string()).qos(1 + n % 2)).await;
    }
    let mut open = Vec::new();
    let mut next = 0;
    while next < 10 {
        while open.len() < 3 && next < 10 {
            let message = client.message().await;
            assert_eq!(message.says(), next.to_string());
            open.push(message);
            next += 1;
        }
        // Nothing more comes: PINGRESP is next.
        client.ping().await;
        client.answer(&open.remove(0)).await;
    }
}

async fn other_packets_do_not_wait_for_the_quota(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::new(version, "a").property(p::receive_max(1))).await;
    client.subscribe("t", 2).await;
    let mut publisher = broker.client(version, "publisher").await;
    for n in 0..3 {
        publisher.publish(Publish::new("t", n.to_string()).qos(2)).await;
    }
    let first = client.message().await;
    assert_eq!(client.subscribe("u", 0).await, 0);
    client.unsubscribe("u").await;
    client.ping().await;
    client.send(Publish::new("v", "x").qos(1).id(600).bytes(version)).await;
    client.expect(PUBACK).await;
    client.send(Publish::new("v", "x").qos(2).id(601).bytes(version)).await;
    client.expect(PUBREC).await;
    client.send(ack(PUBREL, 601)).await;
    client.expect(PUBCOMP).await;
    // PUBREL too, and the quota is still used up until PUBCOMP.
    client.send(ack(PUBREC, first.id)).await;
    client.expect(PUBREL).await;
    client.ping().await;
    client.send(ack(PUBCOMP, first.id)).await;
    assert_eq!(client.take().await.says(), "1");
}

async fn the_send_quota_is_at_most_the_receive_maximum(broker: &mut Broker, version: u8) {
    let mut publisher = broker.client(version, "publisher").await;
    for maximum in [1, 2, 5] {
        let connect = Connect::new(version, "a").property(p::receive_max(maximum));
        let mut client = broker.connect(connect).await;
        client.subscribe("t", 1).await;
        for _ in 0..8 {
            publisher.say("t", "x").await;
        }
        for _ in 0..maximum {
            client.message().await;
        }
        client.ping().await;
    }
}

async fn a_used_up_quota_holds_messages_back_and_qos_0_needs_none(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::new(version, "a").property(p::receive_max(2))).await;
    client.subscribe("t", 2).await;
    client.subscribe("u", 0).await;
    let mut publisher = broker.client(version, "publisher").await;
    for n in 0..4 {
        publisher.publish(Publish::new("t", n.to_string()).qos(1)).await;
    }
    let (first, second) = (client.message().await, client.message().await);
    client.ping().await;
    // A negative answer gives its place back like a positive one.
    client.send(ack_with(PUBACK, first.id, 0x80)).await;
    assert_eq!(client.message().await.says(), "2");
    client.ping().await;
    client.answer(&second).await;
    assert_eq!(client.message().await.says(), "3");
}

async fn the_server_answers_all_else_at_quota_zero(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::new(version, "a").property(p::receive_max(1))).await;
    client.subscribe("t", 1).await;
    client.say("t", "held").await;
    client.message().await;
    let all = [
        subscribe(version, 500, &[], &[("x", 0)]),
        unsubscribe(version, 501, &["x"]),
        Publish::new("y", "y").qos(1).id(502).bytes(version),
        vec![0xc0, 0],
    ];
    client.send(all.concat()).await;
    let mut answers = Vec::new();
    for _ in &all {
        answers.push(client.packet().await.unwrap().kind());
    }
    answers.sort_unstable();
    assert_eq!(answers, [PUBACK, SUBACK, UNSUBACK, PINGRESP]);
}

/// More unanswered QoS 2 messages than the server has announced to take.
async fn a_client_that_exceeds_the_receive_maximum_is_closed(broker: &mut Broker, version: u8) {
    let (mut client, connack) = broker.connecting(Connect::new(version, "a")).await;
    let maximum = connack.properties().number(p::RECEIVE_MAX).unwrap_or(65_535) as u16;
    assert!(maximum < 65_535, "a bound is announced");
    for id in 1..=maximum {
        client.send(Publish::new("t", "x").qos(2).id(id).bytes(version)).await;
        assert_eq!(client.expect(PUBREC).await.id(), id);
    }
    client.send(Publish::new("t", "x").qos(2).id(maximum + 1).bytes(version)).await;
    client.closed_for(&[0x93]).await;
}

async fn no_packet_exceeds_the_clients_maximum(broker: &mut Broker, version: u8) {
    let max = 100;
    let mut client = broker.connect(Connect::new(version, "a").property(p::packet_max(max))).await;
    client.subscribe("t", 2).await;
    let mut publisher = broker.client(version, "publisher").await;
    // The header of a QoS 1 PUBLISH to "t": 2 + 3 + 2 + 1 octets.
    for len in 85..100 {
        publisher.publish(Publish::new("t", vec![b'x'; len]).qos(1)).await;
    }
    let mut longest = 0;
    for message in client.drain().await {
        longest = longest.max(message.payload.len());
    }
    assert_eq!(longest, max as usize - 8, "up to the last octet that fits");
}

async fn a_packet_too_large_counts_as_sent(broker: &mut Broker, version: u8) {
    let small = || Connect::durable(version, "a").property(p::packet_max(60)).property(p::receive_max(1));
    let mut client = broker.connect(small()).await;
    client.subscribe("t", 2).await;
    let mut publisher = broker.client(version, "publisher").await;
    for qos in [0, 1, 2] {
        publisher.publish(Publish::new("t", [b'x'; 200]).qos(qos)).await;
    }
    publisher.say("t", "fits").await;
    // It holds up nobody, takes no place, and does not come back.
    let message = client.message().await;
    assert_eq!(message.says(), "fits");
    client.answer(&message).await;
    client.ping().await;
    client.disconnect().await;
    publisher.publish(Publish::new("t", [b'x'; 200]).qos(1)).await;
    let mut client = broker.connect(small()).await;
    assert_eq!(client.heard().await, [""; 0]);
    client.disconnect().await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    assert_eq!(client.heard().await, [""; 0]);
}

async fn reasons_are_kept_back_where_they_are_not_wanted(broker: &mut Broker, version: u8) {
    let mut device = broker.open_device(0, version).await;
    let connack = device.connect(&Connect::new(version, "").property(p::request_problem(0))).await;
    assert_eq!(connack.reason(), 0);
    let foreign = "acme/MU-000002/app/x";
    device.send(Publish::new(foreign, "x").qos(1).id(1).bytes(version)).await;
    let puback = device.expect(PUBACK).await;
    assert!(puback.reason() >= 0x80 && puback.properties().0.is_empty(), "{puback:02x?}");
    device.send(Publish::new(foreign, "x").qos(2).id(2).bytes(version)).await;
    let pubrec = device.expect(PUBREC).await;
    assert!(pubrec.reason() >= 0x80 && pubrec.properties().0.is_empty(), "{pubrec:02x?}");
    device.send(subscribe(version, 3, &[], &[(foreign, 0)])).await;
    let suback = device.expect(SUBACK).await;
    assert!(suback.codes()[0] >= 0x80 && suback.properties().0.is_empty(), "{suback:02x?}");
    device.send(unsubscribe(version, 4, &["acme/MU-000001/app/x"])).await;
    assert!(device.expect(UNSUBACK).await.properties().0.is_empty());
    device.send(ack(PUBREL, 5)).await;
    assert!(device.expect(PUBCOMP).await.properties().0.is_empty());
    device.send(ack(PUBREC, 6)).await;
    assert!(device.expect(PUBREL).await.properties().0.is_empty());
}

async fn no_response_information_where_none_is_asked(broker: &mut Broker, version: u8) {
    for connect in [Connect::new(version, "a"), Connect::new(version, "a").property(p::request_response(0))] {
        let (_, connack) = broker.connecting(connect).await;
        assert_eq!(connack.properties().get(p::RESPONSE_INFORMATION), None);
    }
}

/// An answer with its reason string, and the same to a client for which it is one octet too long.
async fn leaves_out_what_does_not_fit(broker: &Broker, kind: u8, question: &[u8]) {
    let mut lengths = Vec::new();
    for max in [None, Some(1)] {
        let mut connect = Connect::new(V5, "MU-000001");
        if let (Some(_), Some(full)) = (max, lengths.first()) {
            connect = connect.property(p::packet_max(*full as u32 - 1));
        }
        let mut device = broker.open_device(0, V5).await;
        device.send([&connect.bytes()[..], question].concat()).await;
        // CONNACK has to fit too; how small it can be is another test's affair.
        let Some(connack) = device.packet().await else { panic!("even CONNACK is too large") };
        assert_eq!(connack.reason(), 0);
        let answer = device.expect(kind).await;
        assert_eq!(answer.properties().get(p::REASON_STRING).is_some(), max.is_none(), "{answer:02x?}");
        assert!(answer.properties().user().is_empty(), "{answer:02x?}");
        lengths.push(answer.len());
    }
    assert!(lengths[1] < lengths[0]);
}

async fn puback_fits(broker: &mut Broker, _: u8) {
    let publish = Publish::new("acme/MU-000002/app/x", "x").qos(1).id(1);
    leaves_out_what_does_not_fit(broker, PUBACK, &publish.bytes(V5)).await;
}

async fn pubrec_fits(broker: &mut Broker, _: u8) {
    let publish = Publish::new("acme/MU-000002/app/x", "x").qos(2).id(1);
    leaves_out_what_does_not_fit(broker, PUBREC, &publish.bytes(V5)).await;
}

async fn suback_fits(broker: &mut Broker, _: u8) {
    let question = subscribe(V5, 1, &[], &[("acme/MU-000002/app/x", 0)]);
    leaves_out_what_does_not_fit(broker, SUBACK, &question).await;
}

/// Answers without anything to explain, to a client that takes very little.
async fn short_answers_have_no_properties(broker: &Broker, question: &[u8], kind: u8) {
    let mut client = broker.open(V5).await;
    client.connect(&Connect::new(V5, "a").property(p::packet_max(40))).await;
    client.send(question).await;
    let answer = client.expect(kind).await;
    assert!(answer.len() <= 40 && answer.properties().0.is_empty(), "{answer:02x?}");
}

async fn pubrel_fits(broker: &mut Broker, _: u8) {
    short_answers_have_no_properties(broker, &ack(PUBREC, 6), PUBREL).await;
}

async fn pubcomp_fits(broker: &mut Broker, _: u8) {
    short_answers_have_no_properties(broker, &ack(PUBREL, 6), PUBCOMP).await;
}

async fn unsuback_fits(broker: &mut Broker, _: u8) {
    short_answers_have_no_properties(broker, &unsubscribe(V5, 1, &["x"]), UNSUBACK).await;
}

statements! {
    mqtt5_3_3_4_9 => the_server_heeds_the_receive_maximum(V5);
    mqtt5_3_3_4_10 => other_packets_do_not_wait_for_the_quota(V5);
    mqtt5_4_9_0_1 => the_send_quota_is_at_most_the_receive_maximum(V5);
    mqtt5_4_9_0_2 => a_used_up_quota_holds_messages_back_and_qos_0_needs_none(V5);
    mqtt5_4_9_0_3 => the_server_answers_all_else_at_quota_zero(V5);
    mqtt5_3_3_4_7 => a_client_that_exceeds_the_receive_maximum_is_closed(V5);
    mqtt5_3_1_2_24 => no_packet_exceeds_the_clients_maximum(V5);
    mqtt5_3_1_2_25 => a_packet_too_large_counts_as_sent(V5);
    mqtt5_3_1_2_28 => no_response_information_where_none_is_asked(V5);
    mqtt5_3_1_2_29 => reasons_are_kept_back_where_they_are_not_wanted(V5);
    mqtt5_3_4_2_2 => puback_fits(V5);
    mqtt5_3_5_2_2 => pubrec_fits(V5);
    mqtt5_3_6_2_2 => pubrel_fits(V5);
    mqtt5_3_7_2_2 => pubcomp_fits(V5);
    mqtt5_3_9_2_1 => suback_fits(V5);
    mqtt5_3_11_2_1 => unsuback_fits(V5);
}

//! QoS 2, both ways (§4.3.3, §3.5-§3.7).

use crate::{
    broker::Broker,
    packets::{
        Connect, DISCONNECT, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Publish, V3, V5, ack, ack_with, p,
    },
};

async fn qos_2_is_sent_with_an_identifier_and_without_dup(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 2).await;
    client.publish(Publish::new("t", "x").qos(2)).await;
    let packet = client.packet().await.unwrap();
    assert_eq!(packet.first, PUBLISH | 2 << 1);
    assert_ne!(packet.message().id, 0);
}

async fn qos_2_is_unacknowledged_until_pubrec(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 2).await;
    client.publish(Publish::new("t", "x").qos(2)).await;
    let first = client.message().await;
    client.reset();
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    let second = client.message().await;
    assert_eq!((second.id, second.says(), second.dup, second.qos), (first.id, "x", true, 2));
}

async fn pubrec_is_answered_with_pubrel(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 2).await;
    client.publish(Publish::new("t", "x").qos(2)).await;
    let message = client.message().await;
    client.send(ack(PUBREC, message.id)).await;
    let pubrel = client.expect(PUBREL).await;
    assert_eq!((pubrel.first, pubrel.id(), pubrel.reason()), (PUBREL, message.id, 0));
    if version == V5 {
        // A refusal has no PUBREL.
        client.publish(Publish::new("t", "y").qos(2)).await;
        let message = client.message().await;
        client.send(ack_with(PUBREC, message.id, 0x80)).await;
        client.ping().await;
    }
}

async fn pubrel_is_unacknowledged_until_pubcomp(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 2).await;
    client.publish(Publish::new("t", "x").qos(2)).await;
    let message = client.message().await;
    client.send(ack(PUBREC, message.id)).await;
    client.expect(PUBREL).await;
    client.reset();
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    assert_eq!(client.expect(PUBREL).await.id(), message.id);
    client.send(ack(PUBCOMP, message.id)).await;
    client.ping().await;
    client.reset();
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    assert_eq!(client.heard().await, [""; 0], "nor another PUBREL");
}

async fn after_pubrel_the_publish_is_not_sent_again(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 2).await;
    client.publish(Publish::new("t", "x").qos(2)).await;
    let message = client.message().await;
    client.send(ack(PUBREC, message.id)).await;
    client.expect(PUBREL).await;
    for restart in [false, true] {
        if restart {
            broker.restart().await;
        }
        client = broker.connect(Connect::durable(version, "a")).await;
        assert_eq!(client.expect(PUBREL).await.id(), message.id);
        client.ping().await;
    }
    client.send(ack(PUBCOMP, message.id)).await;
    assert_eq!(client.heard().await, [""; 0]);
}

/// The whole sender's side of 3.1.1's one statement about it.
async fn the_server_sends_qos_2_as_told(broker: &mut Broker, version: u8) {
    qos_2_is_sent_with_an_identifier_and_without_dup(broker, version).await;
    pubrec_is_answered_with_pubrel(broker, version).await;
    pubrel_is_unacknowledged_until_pubcomp(broker, version).await;
}

async fn a_message_that_was_sent_does_not_expire(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 2).await;
    client.publish(Publish::new("t", "x").qos(2).property(p::message_expiry(1))).await;
    let first = client.message().await;
    client.reset();
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    let packet = client.packet().await.expect("what was begun");
    assert_eq!((packet.kind(), packet.message().id), (PUBLISH, first.id));
    client.answer(&packet.message()).await;
    client.ping().await;
}

async fn what_is_accepted_at_qos_2_is_answered_with_pubrec(broker: &mut Broker, version: u8) {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("t", 2).await;
    let mut client = broker.client(version, "a").await;
    client.send(Publish::new("t", "x").qos(2).id(9).bytes(version)).await;
    let pubrec = client.expect(PUBREC).await;
    assert_eq!((pubrec.first, pubrec.id()), (PUBREC, 9));
    assert!(pubrec.reason() < 0x80);
    client.reset();
    assert_eq!(listener.take().await.says(), "x", "it is owned");
}

async fn after_a_refusal_the_identifier_is_free(broker: &mut Broker, version: u8) {
    let mut device = broker.device(0, version).await;
    device.subscribe("acme/MU-000001/app/#", 2).await;
    let own = |payload| Publish::new("acme/MU-000001/app/x", payload).qos(2).id(3);
    assert_eq!(device.publish(Publish::new("acme/MU-000002/app/x", "x").qos(2).id(3)).await, 0x87);
    assert!(device.publish(own("mine")).await < 0x80);
    assert_eq!(device.take().await.says(), "mine");
}

async fn until_pubrel_a_repeated_publish_is_answered_and_not_taken(broker: &mut Broker, version: u8) {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("t", 2).await;
    let mut client = broker.client(version, "a").await;
    for _ in 0..3 {
        client.send(Publish::new("t", "x").qos(2).id(5).dup().bytes(version)).await;
        let pubrec = client.expect(PUBREC).await;
        assert_eq!(pubrec.id(), 5);
        assert!(pubrec.reason() < 0x80);
    }
    client.send(ack(PUBREL, 5)).await;
    assert_eq!(client.expect(PUBCOMP).await.id(), 5);
    assert_eq!(listener.heard().await, ["x"], "taken once");
}

async fn pubrel_is_answered_with_pubcomp(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for id in [1, 0x1234, 0xffff] {
        client.send(Publish::new("t", "x").qos(2).id(id).bytes(version)).await;
        client.expect(PUBREC).await;
        client.send(ack(PUBREL, id)).await;
        let pubcomp = client.expect(PUBCOMP).await;
        assert_eq!((pubcomp.first, pubcomp.id(), pubcomp.reason()), (PUBCOMP, id, 0));
    }
}

async fn after_pubcomp_the_same_identifier_is_a_new_message(broker: &mut Broker, version: u8) {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("t", 2).await;
    let mut client = broker.client(version, "a").await;
    for _ in 0..3 {
        client.publish(Publish::new("t", "same").qos(2).id(5)).await;
    }
    client.publish(Publish::new("t", "same").qos(2).id(5).dup()).await;
    assert_eq!(listener.heard().await, ["same"; 4]);
}

/// The whole receiver's side of 3.1.1's one statement about it.
async fn the_server_receives_qos_2_as_told(broker: &mut Broker, version: u8) {
    until_pubrel_a_repeated_publish_is_answered_and_not_taken(broker, version).await;
    pubrel_is_answered_with_pubcomp(broker, version).await;
    after_pubcomp_the_same_identifier_is_a_new_message(broker, version).await;
}

async fn qos_2_goes_on_though_the_message_has_expired(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.send(Publish::new("t", "x").qos(2).id(5).property(p::message_expiry(1)).bytes(version)).await;
    client.expect(PUBREC).await;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    client.send(ack(PUBREL, 5)).await;
    let pubcomp = client.expect(PUBCOMP).await;
    assert_eq!((pubcomp.id(), pubcomp.reason()), (5, 0));
}

async fn pubrel_codes_are_those_of_the_table(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 2).await;
    client.publish(Publish::new("t", "x").qos(2)).await;
    let message = client.message().await;
    client.send(ack(PUBREC, message.id)).await;
    assert_eq!(client.expect(PUBREL).await.reason(), 0);
    client.send(ack(PUBCOMP, message.id)).await;
    // A PUBREC nobody waits for is answered in words: the identifier is not known.
    client.send(ack(PUBREC, 999)).await;
    let pubrel = client.expect(PUBREL).await;
    assert_eq!((pubrel.first, pubrel.id(), pubrel.reason()), (PUBREL, 999, 0x92));
    client.send(ack_with(PUBCOMP, 999, 0x92)).await;
    client.send(ack(PUBACK, 999)).await;
    client.ping().await;
}

async fn pubcomp_codes_are_those_of_the_table(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.publish(Publish::new("t", "x").qos(2).id(4)).await;
    client.send(ack(PUBREL, 4)).await;
    let pubcomp = client.expect(PUBCOMP).await;
    assert_eq!((pubcomp.id(), pubcomp.reason()), (4, 0x92), "not known any more");
    client.ping().await;
}

async fn the_flags_of_pubrel_are_fixed(broker: &mut Broker, version: u8) {
    for first in [0x60, 0x61, 0x63, 0x6f] {
        let mut client = broker.client(version, "a").await;
        client.send(Publish::new("t", "x").qos(2).id(5).bytes(version)).await;
        client.expect(PUBREC).await;
        client.send(ack(first, 5)).await;
        client.closed_for(&[0x81]).await;
    }
    let mut client = broker.client(version, "a").await;
    client.publish(Publish::new("t", "x").qos(2)).await;
    client.send([DISCONNECT, 0]).await;
    assert_eq!(client.closed().await, None);
}

statements! {
    mqtt5_4_3_3_2 => qos_2_is_sent_with_an_identifier_and_without_dup(V5);
    mqtt5_4_3_3_3 => qos_2_is_unacknowledged_until_pubrec(V5);
    mqtt5_4_3_3_4 => pubrec_is_answered_with_pubrel(V5);
    mqtt5_4_3_3_5 => pubrel_is_unacknowledged_until_pubcomp(V5);
    mqtt5_4_3_3_6 => after_pubrel_the_publish_is_not_sent_again(V5);
    mqtt3_4_3_3_1 => the_server_sends_qos_2_as_told(V3);
    mqtt5_4_3_3_7 => a_message_that_was_sent_does_not_expire(V5);
    mqtt5_4_3_3_8 => what_is_accepted_at_qos_2_is_answered_with_pubrec(V5);
    mqtt5_4_3_3_9 => after_a_refusal_the_identifier_is_free(V5);
    mqtt5_4_3_3_10 => until_pubrel_a_repeated_publish_is_answered_and_not_taken(V5);
    mqtt5_4_3_3_11 => pubrel_is_answered_with_pubcomp(V5);
    mqtt5_4_3_3_12 => after_pubcomp_the_same_identifier_is_a_new_message(V5);
    mqtt3_4_3_3_2 => the_server_receives_qos_2_as_told(V3);
    mqtt5_4_3_3_13 => qos_2_goes_on_though_the_message_has_expired(V5);
    mqtt5_3_6_2_1 => pubrel_codes_are_those_of_the_table(V5);
    mqtt5_3_7_2_1 => pubcomp_codes_are_those_of_the_table(V5);
    mqtt5_3_6_1_1 => the_flags_of_pubrel_are_fixed(V5);
    mqtt3_3_6_1_1 => the_flags_of_pubrel_are_fixed(V3);
}

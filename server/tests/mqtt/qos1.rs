//! QoS 0 and 1, both ways (§4.3.1, §4.3.2, §3.3.1.1, §3.4), and packet identifiers (§2.2.1; 3.1.1 §2.3.1).

use crate::{
    broker::Broker,
    packets::{
        Connect, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Publish, SUBACK, UNSUBACK, V3, V5, ack, ack_with,
        p, subscribe, unsubscribe,
    },
};

async fn qos_0_has_no_packet_identifier(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 0).await;
    client.send(Publish::new("t", "x").bytes(version)).await;
    let packet = client.packet().await.unwrap();
    let properties: &[u8] = if version == V5 { &[0] } else { &[] };
    assert_eq!(packet.first, PUBLISH, "QoS 0, DUP 0");
    assert_eq!(packet.body, [&[0, 1, b't'], properties, b"x"].concat());
}

async fn packet_identifiers_of_the_server_are_not_in_use(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 2).await;
    let mut publisher = broker.client(version, "publisher").await;
    for n in 0..20 {
        publisher.publish(Publish::new("t", "x").qos(1 + n % 2)).await;
    }
    let mut ids = Vec::new();
    for _ in 0..20 {
        let message = client.message().await;
        assert_ne!(message.id, 0);
        ids.push(message.id);
        if ids.len() % 5 == 0 && message.qos == 1 {
            // Free again; whether it is used again is the server's to say.
            client.answer(&message).await;
            ids.pop();
        }
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

async fn answers_have_the_identifier_of_what_they_answer(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for id in [1, 2, 0x1234, 0xffff] {
        client.send(Publish::new("t", "x").qos(1).id(id).bytes(version)).await;
        assert_eq!(client.expect(PUBACK).await.id(), id);
        client.send(Publish::new("t", "x").qos(2).id(id).bytes(version)).await;
        assert_eq!(client.expect(PUBREC).await.id(), id);
        client.send(ack(PUBREL, id)).await;
        assert_eq!(client.expect(PUBCOMP).await.id(), id);
    }
    client.subscribe("t", 2).await;
    client.publish(Publish::new("t", "x").qos(2)).await;
    let message = client.message().await;
    client.send(ack(PUBREC, message.id)).await;
    assert_eq!(client.expect(PUBREL).await.id(), message.id);
}

async fn suback_and_unsuback_have_the_identifier_of_the_request(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for id in [1, 0x1234, 0xffff] {
        client.send(subscribe(version, id, &[], &[("t", 1)])).await;
        assert_eq!(client.expect(SUBACK).await.id(), id);
        client.send(unsubscribe(version, id, &["t"])).await;
        assert_eq!(client.expect(UNSUBACK).await.id(), id);
    }
}

async fn a_packet_identifier_of_zero_is_an_error(broker: &mut Broker, version: u8) {
    let packets = [
        Publish::new("t", "x").qos(1).bytes(version),
        Publish::new("t", "x").qos(2).bytes(version),
        subscribe(version, 0, &[], &[("t", 1)]),
        unsubscribe(version, 0, &["t"]),
    ];
    for octets in packets {
        let mut client = broker.client(version, "a").await;
        client.send(&octets).await;
        client.closed_for(&[0x81, 0x82]).await;
    }
}

async fn qos_0_is_never_a_duplicate(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 0).await;
    let mut publisher = broker.client(version, "publisher").await;
    // Even where it was one on its way here.
    publisher.publish(Publish::new("t", "x").qos(1).dup()).await;
    publisher.publish(Publish::new("t", "y").qos(2).dup()).await;
    for _ in 0..2 {
        let message = client.message().await;
        assert_eq!((message.qos, message.dup), (0, false));
    }
}

async fn dup_is_not_passed_on(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 2).await;
    let mut publisher = broker.client(version, "publisher").await;
    for qos in [1, 2] {
        publisher.publish(Publish::new("t", "x").qos(qos).dup()).await;
        let message = client.take().await;
        assert_eq!((message.qos, message.dup), (qos, false));
    }
}

async fn qos_1_is_sent_with_an_identifier_and_without_dup(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1).await;
    client.say("t", "x").await;
    let packet = client.packet().await.unwrap();
    assert_eq!(packet.first, PUBLISH | 1 << 1);
    assert_ne!(packet.message().id, 0);
}

async fn qos_1_is_unacknowledged_until_puback(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 1).await;
    client.say("t", "x").await;
    let first = client.message().await;
    client.reset();
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    let second = client.message().await;
    assert_eq!((second.id, second.says(), second.dup), (first.id, "x", true));
    client.answer(&second).await;
    client.ping().await;
    client.reset();
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    assert_eq!(client.heard().await, [""; 0]);
}

async fn what_is_accepted_at_qos_1_is_acknowledged(broker: &mut Broker, version: u8) {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("t", 1).await;
    let mut client = broker.client(version, "a").await;
    client.send(Publish::new("t", "x").qos(1).id(9).bytes(version)).await;
    let puback = client.expect(PUBACK).await;
    assert_eq!((puback.first, puback.id()), (PUBACK, 9));
    assert!(puback.reason() < 0x80);
    // It is owned: nobody has to say it again.
    client.reset();
    assert_eq!(listener.take().await.says(), "x");
}

async fn after_puback_the_same_identifier_is_a_new_message(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1).await;
    for (dup, payload) in [(false, "one"), (true, "two"), (false, "two"), (true, "two")] {
        let publish = Publish::new("t", payload).qos(1).id(5);
        client.publish(if dup { publish.dup() } else { publish }).await;
        assert_eq!(client.take().await.says(), payload);
    }
}

async fn each_qos_has_its_answer(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.send(Publish::new("t", "x").bytes(version)).await;
    // Nothing but the answer to what comes behind it.
    client.ping().await;
    client.send(Publish::new("t", "x").qos(1).id(1).bytes(version)).await;
    client.expect(PUBACK).await;
    client.send(Publish::new("t", "x").qos(2).id(1).bytes(version)).await;
    client.expect(PUBREC).await;
}

/// The reason codes of PUBACK and PUBREC (MQTT 5.0 §3.4.2.1, §3.5.2.1).
const CODES: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];

/// Asks for what is granted, for what is not the device's, and for what is nobody's.
async fn codes(broker: &Broker, qos: u8) {
    let mut device = broker.device(0, V5).await;
    let publish = |topic: &str| Publish::new(topic, "x").qos(qos);
    let all = [
        publish("acme/MU-000001/app/x"),
        publish("acme/MU-000002/app/x"),
        publish("acme/MU-000001/command/1/request"),
        publish("$SYS/x"),
        publish("x"),
        publish("acme/MU-000001/app/x").property(p::response_topic("acme/MU-000002/app/x")),
    ];
    let mut told = Vec::new();
    for publish in all {
        told.push(device.publish(publish).await);
    }
    assert!(told.iter().all(|code| CODES.contains(code)), "{told:02x?}");
    assert!(told[0] < 0x80, "{told:02x?}");
    assert!(told[1..].iter().all(|code| [0x87, 0x90].contains(code)), "{told:02x?}");
}

async fn puback_codes_are_those_of_the_table(broker: &mut Broker, _: u8) {
    codes(broker, 1).await;
}

async fn pubrec_codes_are_those_of_the_table(broker: &mut Broker, _: u8) {
    codes(broker, 2).await;
}

async fn a_negative_puback_ends_the_delivery(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 2).await;
    client.say("t", "one").await;
    client.publish(Publish::new("t", "two").qos(2)).await;
    let (one, two) = (client.message().await, client.message().await);
    client.send(ack_with(PUBACK, one.id, 0x80)).await;
    client.send(ack_with(PUBREC, two.id, 0x97)).await;
    client.ping().await;
    client.reset();
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    assert_eq!(client.heard().await, [""; 0]);
}

statements! {
    mqtt5_2_2_1_2 => qos_0_has_no_packet_identifier(V5);
    mqtt3_2_3_1_5 => qos_0_has_no_packet_identifier(V3);
    mqtt5_2_2_1_3 => a_packet_identifier_of_zero_is_an_error(V5);
    mqtt3_2_3_1_1 => a_packet_identifier_of_zero_is_an_error(V3);
    mqtt5_2_2_1_4 => packet_identifiers_of_the_server_are_not_in_use(V5);
    mqtt3_2_3_1_4 => packet_identifiers_of_the_server_are_not_in_use(V3);
    mqtt5_2_2_1_5 => answers_have_the_identifier_of_what_they_answer(V5);
    mqtt3_2_3_1_6 => answers_have_the_identifier_of_what_they_answer(V3);
    mqtt5_2_2_1_6 => suback_and_unsuback_have_the_identifier_of_the_request(V5);
    mqtt3_2_3_1_7 => suback_and_unsuback_have_the_identifier_of_the_request(V3);
    mqtt5_3_3_1_2 => qos_0_is_never_a_duplicate(V5);
    mqtt3_3_3_1_2 => qos_0_is_never_a_duplicate(V3);
    mqtt5_3_3_1_3 => dup_is_not_passed_on(V5);
    mqtt3_3_3_1_3 => dup_is_not_passed_on(V3);
    mqtt5_3_3_4_1 => each_qos_has_its_answer(V5);
    mqtt3_3_3_4_1 => each_qos_has_its_answer(V3);
    mqtt5_4_3_2_2 => qos_1_is_sent_with_an_identifier_and_without_dup(V5);
    mqtt5_4_3_2_3 => qos_1_is_unacknowledged_until_puback(V5);
    mqtt3_4_3_2_1 => qos_1_is_unacknowledged_until_puback(V3);
    mqtt5_4_3_2_4 => what_is_accepted_at_qos_1_is_acknowledged(V5);
    mqtt5_4_3_2_5 => after_puback_the_same_identifier_is_a_new_message(V5);
    mqtt3_4_3_2_2 => after_puback_the_same_identifier_is_a_new_message(V3);
    mqtt5_3_4_2_1 => puback_codes_are_those_of_the_table(V5);
    mqtt5_3_5_2_1 => pubrec_codes_are_those_of_the_table(V5);
    mqtt5_4_4_0_2 => a_negative_puback_ends_the_delivery(V5);
}

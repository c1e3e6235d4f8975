//! CONNECT: who is let in, under which name, and what becomes of the session before (MQTT 5.0 §3.1.3, §3.1.4;
//! 3.1.1 the same).

use crate::{
    broker::Broker,
    packets::{CONNACK, Connect, PINGREQ, PINGRESP, Publish, V3, V5, p, subscribe},
};

/// What the 3.1.1 or MQTT 5 client is told when its identifier is refused.
fn identifier_rejected(version: u8) -> u8 {
    if version == V5 { 0x85 } else { 0x02 }
}

async fn the_first_packet_is_connect(broker: &mut Broker, version: u8) {
    let publish = Publish::new("a", "x").bytes(version);
    let subscribe = subscribe(version, 1, &[], &[("a", 0)]);
    for first in [&publish[..], &subscribe, &PINGREQ, &[0xe0, 0], &[0x20, 2, 0, 0], &[0xf0, 0]] {
        let mut client = broker.open(version).await;
        client.send(first).await;
        assert_eq!(client.closed().await, None, "{first:02x?}");
    }
}

async fn a_second_connect_ends_the_session(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "twice").await;
    client.send(Connect::new(version, "twice").bytes()).await;
    client.closed_for(&[0x82]).await;
}

async fn the_client_id_names_the_session(broker: &mut Broker, version: u8) {
    let mut publisher = broker.client(version, "publisher").await;
    for id in ["one", "two"] {
        let mut client = broker.connect(Connect::durable(version, id)).await;
        assert_eq!(client.subscribe(format!("for/{id}"), 1).await, 1);
        client.disconnect().await;
        publisher.say(&format!("for/{id}"), id).await;
    }
    for id in ["two", "one"] {
        let (mut client, connack) = broker.connecting(Connect::durable(version, id)).await;
        assert!(connack.session_present());
        assert_eq!(client.heard().await, [id]);
    }
}

async fn short_client_ids_of_letters_and_digits_are_taken(broker: &mut Broker, version: u8) {
    let all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for id in [&all[..1], &all[61..], &all[..23], &all[23..46], &all[39..]] {
        let mut client = broker.client(version, id).await;
        client.ping().await;
    }
}

async fn an_empty_client_id_is_replaced_by_one_of_its_own(broker: &mut Broker, version: u8) {
    let mut first = broker.client(version, "").await;
    let mut second = broker.client(version, "").await;
    first.subscribe("to/first", 0).await;
    second.subscribe("to/second", 0).await;
    first.say("to/second", "hello").await;
    assert_eq!(second.take().await.says(), "hello");
    // Had they one name, the first would be gone.
    first.ping().await;
}

async fn the_assigned_client_id_is_as_good_as_a_chosen_one(broker: &mut Broker, version: u8) {
    let durable = Connect::durable(version, "");
    let (mut client, connack) = broker.connecting(durable.clone()).await;
    assert!(!connack.session_present());
    let id = connack.properties().text(p::ASSIGNED_ID).expect("an identifier").to_vec();
    let (_other, connack) = broker.connecting(durable).await;
    let other = connack.properties().text(p::ASSIGNED_ID).expect("an identifier").to_vec();
    assert!(!id.is_empty() && id != other);
    client.subscribe("a", 1).await;
    client.say("b", "nobody listens").await;
    client.disconnect().await;
    let mut publisher = broker.client(version, "publisher").await;
    publisher.say("a", "kept").await;
    let (mut client, connack) = broker.connecting(Connect::durable(version, &id)).await;
    assert!(connack.session_present());
    assert_eq!(connack.properties().text(p::ASSIGNED_ID), None, "the client chose it itself now");
    assert_eq!(client.heard().await, ["kept"]);
}

async fn an_empty_client_id_needs_a_clean_session(broker: &mut Broker, version: u8) {
    let mut client = broker.open(version).await;
    let connack = client.connect(&Connect::new(version, "").resume()).await;
    assert_eq!((connack.first, &connack.body[..]), (CONNACK, &[0, 2][..]));
    assert_eq!(client.closed().await, None);
}

async fn a_client_id_that_is_not_its_own_is_rejected(broker: &mut Broker, version: u8) {
    let mut device = broker.open_device(0, version).await;
    let connack = device.connect(&Connect::new(version, "MU-000002")).await;
    assert_eq!((connack.kind(), connack.reason()), (CONNACK, identifier_rejected(version)));
    assert_eq!(device.closed().await, None);
}

async fn a_connect_that_may_not_be_is_closed(broker: &mut Broker, version: u8) {
    // The form is right; the certificate's topics do not hold the will's.
    let mut device = broker.open_device(0, version).await;
    let will = crate::packets::Will::new("acme/MU-000002/app/x", "boo");
    let connack = device.connect(&Connect::new(version, "MU-000001").will(will)).await;
    assert_eq!(connack.reason(), if version == V5 { 0x87 } else { 0x05 });
    assert_eq!(device.closed().await, None);
}

async fn a_client_that_connects_again_takes_over(broker: &mut Broker, version: u8) {
    let mut first = broker.client(version, "same").await;
    let mut second = broker.client(version, "same").await;
    first.closed_for(&[0x8e]).await;
    second.ping().await;
}

async fn a_connect_in_order_is_answered_with_zero(broker: &mut Broker, version: u8) {
    let mut client = broker.open(version).await;
    let connack = client.connect(&Connect::new(version, "fine")).await;
    assert_eq!((connack.first, connack.reason()), (CONNACK, 0));
    client.ping().await;
}

async fn nothing_behind_a_rejected_connect_is_looked_at(broker: &mut Broker, version: u8) {
    let topic = "acme/MU-000001/app/x";
    let mut service = broker.client(version, "listener").await;
    service.subscribe(topic, 1).await;
    let mut device = broker.open_device(0, version).await;
    let publish = Publish::new(topic, "late").qos(1).id(1).bytes(version);
    let connect = Connect::new(version, "MU-000002").bytes();
    device.send([connect, publish, PINGREQ.to_vec()].concat()).await;
    assert_eq!(device.expect(CONNACK).await.reason(), identifier_rejected(version));
    assert_eq!(device.closed().await, None, "no PUBACK, no PINGRESP");
    assert_eq!(service.heard().await, [""; 0]);
}

async fn what_follows_connect_at_once_is_answered(broker: &mut Broker, version: u8) {
    // A client need not wait for CONNACK, and CONNACK still is what the server says first.
    let mut client = broker.open(version).await;
    let subscribe = subscribe(version, 7, &[], &[("a", 0)]);
    client.send([Connect::new(version, "hasty").bytes(), PINGREQ.to_vec(), subscribe].concat()).await;
    client.expect(CONNACK).await;
    client.expect(PINGRESP).await;
    assert_eq!(client.packet().await.unwrap().id(), 7);
}

statements! {
    mqtt5_3_1_0_1 => the_first_packet_is_connect(V5);
    mqtt3_3_1_0_1 => the_first_packet_is_connect(V3);
    mqtt5_3_1_0_2 => a_second_connect_ends_the_session(V5);
    mqtt3_3_1_0_2 => a_second_connect_ends_the_session(V3);
    mqtt5_3_1_3_2 => the_client_id_names_the_session(V5);
    mqtt3_3_1_3_2 => the_client_id_names_the_session(V3);
    mqtt5_3_1_3_5 => short_client_ids_of_letters_and_digits_are_taken(V5);
    mqtt3_3_1_3_5 => short_client_ids_of_letters_and_digits_are_taken(V3);
    mqtt5_3_1_3_6 => an_empty_client_id_is_replaced_by_one_of_its_own(V5);
    mqtt3_3_1_3_6 => an_empty_client_id_is_replaced_by_one_of_its_own(V3);
    mqtt5_3_1_3_7 => the_assigned_client_id_is_as_good_as_a_chosen_one(V5);
    mqtt3_3_1_3_8 => an_empty_client_id_needs_a_clean_session(V3);
    mqtt5_3_1_3_8 => a_client_id_that_is_not_its_own_is_rejected(V5);
    mqtt3_3_1_3_9 => a_client_id_that_is_not_its_own_is_rejected(V3);
    mqtt5_3_1_4_2 => a_connect_that_may_not_be_is_closed(V5);
    mqtt3_3_2_2_5 => a_connect_that_may_not_be_is_closed(V3);
    mqtt5_3_1_4_3 => a_client_that_connects_again_takes_over(V5);
    mqtt3_3_1_4_2 => a_client_that_connects_again_takes_over(V3);
    mqtt5_3_1_4_5 => a_connect_in_order_is_answered_with_zero(V5);
    mqtt3_3_1_4_4 => a_connect_in_order_is_answered_with_zero(V3);
    mqtt5_3_1_4_6 => nothing_behind_a_rejected_connect_is_looked_at(V5);
    mqtt3_3_1_4_5 => nothing_behind_a_rejected_connect_is_looked_at(V3);
    mqtt5_3_2_0_1 => what_follows_connect_at_once_is_answered(V5);
    mqtt3_3_2_0_1 => what_follows_connect_at_once_is_answered(V3);
}

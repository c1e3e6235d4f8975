//! What UNSUBSCRIBE does, and how UNSUBACK answers (§3.10.4, §3.11).

use crate::{
    broker::Broker,
    packets::{PUBCOMP, PUBREC, PUBREL, Publish, UNSUBACK, V3, V5, ack, unsubscribe},
};

async fn filters_are_compared_character_by_character(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t/+", 1).await;
    for filter in ["t/#", "t/x", "T/+", "t/", "t", "#", "t/+/"] {
        client.unsubscribe(filter).await;
        client.say("t/x", filter).await;
        assert_eq!(client.heard().await, [filter], "matches what it is not");
    }
    client.unsubscribe("t/+").await;
    client.say("t/x", "x").await;
    assert_eq!(client.heard().await, [""; 0]);
}

async fn nothing_new_is_added_after_it(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1).await;
    client.subscribe("u", 1).await;
    let mut publisher = broker.client(version, "publisher").await;
    publisher.say("t", "before").await;
    assert_eq!(client.take().await.says(), "before");
    client.unsubscribe("t").await;
    publisher.say("t", "after").await;
    publisher.say("u", "other").await;
    assert_eq!(client.heard().await, ["other"]);
}

async fn what_was_begun_is_completed(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 2).await;
    client.publish(Publish::new("t", "x").qos(2)).await;
    let message = client.message().await;
    client.unsubscribe("t").await;
    client.send(ack(PUBREC, message.id)).await;
    let pubrel = client.expect(PUBREL).await;
    assert_eq!((pubrel.id(), pubrel.reason()), (message.id, 0));
    client.send(ack(PUBCOMP, message.id)).await;
    client.ping().await;
}

async fn it_is_answered_with_unsuback(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 2).await;
    client.send(unsubscribe(version, 0x0708, &["t"])).await;
    let unsuback = client.expect(UNSUBACK).await;
    assert_eq!((unsuback.first, unsuback.id()), (UNSUBACK, 0x0708));
    if version == V3 {
        assert_eq!(unsuback.body.len(), 2, "no payload (3.1.1 §3.11.3)");
    }
}

async fn unsuback_has_its_identifier_even_where_nothing_is_deleted(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    let ids = [7, 0xffff, 1];
    let burst: Vec<u8> = ids.iter().flat_map(|id| unsubscribe(version, *id, &["never", "had"])).collect();
    client.send(burst).await;
    for id in ids {
        assert_eq!(client.expect(UNSUBACK).await.id(), id);
    }
}

async fn many_filters_are_as_many_unsubscribes(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for filter in ["a", "b", "c"] {
        client.subscribe(filter, 1).await;
    }
    client.send(unsubscribe(version, 99, &["a", "x", "c", "a"])).await;
    assert_eq!(client.expect(UNSUBACK).await.id(), 99);
    for topic in ["a", "b", "c"] {
        client.say(topic, topic).await;
    }
    assert_eq!(client.heard().await, ["b"], "one UNSUBACK, three filters fewer");
}

async fn codes_are_in_the_order_of_the_filters(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for filter in ["a", "b", "c"] {
        client.subscribe(filter, 1).await;
    }
    client.send(unsubscribe(version, 99, &["x", "a", "y", "b", "b"])).await;
    let codes = client.expect(UNSUBACK).await.codes();
    assert_eq!(codes, [0x11, 0x00, 0x11, 0x00, 0x11]);
}

/// The reason codes of UNSUBACK (MQTT 5.0 §3.11.3).
const CODES: [u8; 7] = [0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];

async fn unsuback_codes_are_those_of_the_table(broker: &mut Broker, version: u8) {
    let mut device = broker.device(0, version).await;
    device.subscribe("acme/MU-000001/app/x", 0).await;
    let filters =
        ["acme/MU-000001/app/x", "acme/MU-000002/app/x", "#", "$share/g/x", "a/#/b", "+a", "$SYS/#"];
    device.send(unsubscribe(version, 99, &filters)).await;
    let codes = device.expect(UNSUBACK).await.codes();
    assert_eq!((codes.len(), codes[0]), (filters.len(), 0));
    assert!(codes.iter().all(|code| CODES.contains(code)), "{codes:02x?}");
    assert!(codes[1..].iter().all(|code| *code != 0), "{codes:02x?}");
}

statements! {
    mqtt5_3_10_4_1 => filters_are_compared_character_by_character(V5);
    mqtt3_3_10_4_1 => filters_are_compared_character_by_character(V3);
    mqtt5_3_10_4_2 => nothing_new_is_added_after_it(V5);
    mqtt3_3_10_4_2 => nothing_new_is_added_after_it(V3);
    mqtt5_3_10_4_3 => what_was_begun_is_completed(V5);
    mqtt3_3_10_4_3 => what_was_begun_is_completed(V3);
    mqtt5_3_10_4_4 => it_is_answered_with_unsuback(V5);
    mqtt3_3_10_4_4 => it_is_answered_with_unsuback(V3);
    mqtt5_3_10_4_5 => unsuback_has_its_identifier_even_where_nothing_is_deleted(V5);
    mqtt3_3_10_4_5 => unsuback_has_its_identifier_even_where_nothing_is_deleted(V3);
    mqtt5_3_10_4_6 => many_filters_are_as_many_unsubscribes(V5);
    mqtt3_3_10_4_6 => many_filters_are_as_many_unsubscribes(V3);
    mqtt5_3_11_3_1 => codes_are_in_the_order_of_the_filters(V5);
    mqtt5_3_11_3_2 => unsuback_codes_are_those_of_the_table(V5);
}

//! What SUBSCRIBE does, and how SUBACK answers (§3.8.4, §3.9).

use crate::{
    broker::Broker,
    packets::{Connect, DISCONNECT, Publish, SUBACK, V3, V5, p, subscribe},
};

async fn subscribe_is_answered_with_suback(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.send(subscribe(version, 0x0708, &[], &[("t", 0)])).await;
    let suback = client.expect(SUBACK).await;
    assert_eq!((suback.first, suback.codes()), (SUBACK, vec![0]));
}

async fn suback_has_the_identifier_of_its_subscribe(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    let ids = [7, 0xffff, 1, 0x0100];
    let burst: Vec<u8> = ids.iter().flat_map(|id| subscribe(version, *id, &[], &[("t", 0)])).collect();
    client.send(burst).await;
    for id in ids {
        assert_eq!(client.expect(SUBACK).await.id(), id);
    }
}

async fn the_same_filter_replaces_the_subscription(broker: &mut Broker, version: u8) {
    let mut publisher = broker.client(version, "publisher").await;
    let mut client = broker.client(version, "a").await;
    for qos in [2, 0, 1] {
        assert_eq!(client.subscribe("t/+", qos).await, qos);
        publisher.publish(Publish::new("t/x", "x").qos(2)).await;
        let qoses: Vec<_> = client.drain().await.iter().map(|message| message.qos).collect();
        assert_eq!(qoses, [qos], "one copy, as the last asked");
    }
    // Another spelling is another subscription.
    client.unsubscribe("t/#").await;
    publisher.say("t/x", "still").await;
    assert_eq!(client.heard().await, ["still"]);
}

async fn replacing_sends_retained_messages_again_and_loses_none(broker: &mut Broker, version: u8) {
    let mut publisher = broker.client(version, "publisher").await;
    publisher.keep("t/kept", "kept").await;
    let mut client = broker.client(version, "a").await;
    client.subscribe("t/#", 1).await;
    assert_eq!(client.heard().await, ["kept"]);
    // A stream of messages, and the subscription replaced in its midst, again and again.
    let burst: Vec<u8> = (0..100)
        .flat_map(|n: u16| Publish::new("t/x", n.to_string()).qos(1).id(n + 1).bytes(version))
        .collect();
    publisher.send(burst).await;
    for id in 1000..1010 {
        client.send(subscribe(version, id, &[], &[("t/#", 1)])).await;
    }
    let (mut live, mut kept, mut subacks) = (Vec::new(), 0, 0);
    while live.len() < 100 || kept < 10 || subacks < 10 {
        let packet = client.packet().await.unwrap();
        if packet.kind() == SUBACK {
            subacks += 1;
            continue;
        }
        let message = packet.message();
        client.answer(&message).await;
        match message.says() {
            "kept" => kept += 1,
            n => live.push(n.parse::<u16>().unwrap()),
        }
    }
    assert_eq!(live, (0..100).collect::<Vec<_>>());
}

async fn many_filters_are_as_many_subscribes(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    let filters = [("a", 0), ("b", 1), ("c", 2), ("a", 2), ("d/#", 1)];
    assert_eq!(client.subscribe_with(&[], &filters).await, [0, 1, 2, 2, 1]);
    let mut publisher = broker.client(version, "publisher").await;
    for topic in ["a", "b", "c", "d", "e"] {
        publisher.publish(Publish::new(topic, topic).qos(2)).await;
    }
    let all = client.drain().await;
    let all: Vec<_> = all.iter().map(|message| (message.says(), message.qos)).collect();
    assert_eq!(all, [("a", 2), ("b", 1), ("c", 2), ("d", 1)], "the later of the two on a");
}

async fn suback_has_a_code_for_each_filter(broker: &mut Broker, version: u8) {
    let mut device = broker.device(0, version).await;
    let own = "acme/MU-000001/app/x";
    let foreign = "acme/MU-000002/app/x";
    for filters in [
        vec![(own, 0)],
        vec![(own, 0), (foreign, 1), (own, 2)],
        vec![(foreign, 0), (foreign, 1)],
        vec![(own, 1); 20],
    ] {
        let codes = device.subscribe_with(&[], &filters).await;
        assert_eq!(codes.len(), filters.len());
    }
}

async fn a_code_is_the_granted_qos_or_a_failure(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    let mut publisher = broker.client(version, "publisher").await;
    for qos in [0, 1, 2] {
        let granted = client.subscribe("t", qos).await;
        assert!(granted <= qos);
        publisher.publish(Publish::new("t", "x").qos(2)).await;
        assert_eq!(client.take().await.qos, granted);
    }
    let foreign = "acme/MU-000002/app/x";
    let mut device = broker.device(0, version).await;
    device.marks_at("acme/MU-000001/app/mark");
    let failed = if version == V5 { 0x87 } else { 0x80 };
    assert_eq!(device.subscribe(foreign, 1).await, failed);
    publisher.say(foreign, "not its").await;
    assert_eq!(device.heard().await, [""; 0]);
}

async fn codes_are_in_the_order_of_the_filters(broker: &mut Broker, version: u8) {
    let mut device = broker.device(0, version).await;
    let failed = if version == V5 { 0x87 } else { 0x80 };
    let filters = [
        ("acme/MU-000001/app/a", 2),
        ("acme/MU-000002/app/a", 2),
        ("acme/MU-000001/app/b", 0),
        ("other/#", 1),
        ("acme/MU-000001/app/c", 1),
    ];
    assert_eq!(device.subscribe_with(&[], &filters).await, [2, failed, 0, failed, 1]);
}

/// The reason codes of SUBACK: MQTT 5.0 §3.9.3, 3.1.1 §3.9.3.
async fn suback_codes_are_those_of_the_table(broker: &mut Broker, version: u8) {
    let table: &[u8] = if version == V5 {
        &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2]
    } else {
        &[0x00, 0x01, 0x02, 0x80]
    };
    let mut device = broker.device(0, version).await;
    let deep = format!("acme/MU-000001/app/{}", "x/".repeat(100));
    let filters = [
        "acme/MU-000001/#",
        "acme/+/app/x",
        "#",
        "$SYS/#",
        "$share/g/acme/MU-000001/app/x",
        "acme/~all/x",
        deep.as_str(),
    ];
    let filters: Vec<_> = filters.iter().map(|filter| (*filter, 1)).collect();
    let codes = device.subscribe_with(&[], &filters).await;
    assert!(codes.iter().all(|code| table.contains(code)), "{codes:02x?}");
    assert_eq!(codes[0], 1);
    assert!(codes[1..5].iter().all(|code| *code >= 0x80), "{codes:02x?}");
}

async fn user_properties_of_a_subscribe_are_taken(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::new(version, "a")).await;
    let with = [p::user("a", "1"), p::user("a", "2")].concat();
    client.send(subscribe(version, 1, &with, &[("t", 1)])).await;
    let suback = client.expect(SUBACK).await;
    assert_eq!(suback.codes(), [1]);
    assert!(suback.properties().user().is_empty(), "the server has nothing to add");
    client.send([DISCONNECT, 0]).await;
    assert_eq!(client.closed().await, None);
}

statements! {
    mqtt5_3_8_4_1 => subscribe_is_answered_with_suback(V5);
    mqtt3_3_8_4_1 => subscribe_is_answered_with_suback(V3);
    mqtt5_3_8_4_2 => suback_has_the_identifier_of_its_subscribe(V5);
    mqtt3_3_8_4_2 => suback_has_the_identifier_of_its_subscribe(V3);
    mqtt5_3_8_4_3 => the_same_filter_replaces_the_subscription(V5);
    mqtt5_3_8_4_4 => replacing_sends_retained_messages_again_and_loses_none(V5);
    mqtt3_3_8_4_3 => replacing_sends_retained_messages_again_and_loses_none(V3);
    mqtt5_3_8_4_5 => many_filters_are_as_many_subscribes(V5);
    mqtt3_3_8_4_4 => many_filters_are_as_many_subscribes(V3);
    mqtt5_3_8_4_6 => suback_has_a_code_for_each_filter(V5);
    mqtt5_3_8_4_7 => a_code_is_the_granted_qos_or_a_failure(V5);
    mqtt3_3_8_4_5 => a_code_is_the_granted_qos_or_a_failure(V3);
    mqtt5_3_9_3_1 => codes_are_in_the_order_of_the_filters(V5);
    mqtt3_3_9_3_1 => codes_are_in_the_order_of_the_filters(V3);
    mqtt5_3_9_3_2 => suback_codes_are_those_of_the_table(V5);
    mqtt3_3_9_3_2 => suback_codes_are_those_of_the_table(V3);
    mqtt5_3_9_2_2 => user_properties_of_a_subscribe_are_taken(V5);
}

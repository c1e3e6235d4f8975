//! Which messages a client is sent, and how often: matching, overlapping subscriptions, granted QoS, subscription
//! identifiers, no local (MQTT 5.0 §3.3.4, §3.8.3.1, §3.8.4; 3.1.1 §3.3.5, §3.8.4).

use crate::{
    broker::Broker,
    packets::{Connect, PUBLISH, Publish, V3, V5, p},
};

const NO_LOCAL: u8 = 0b100;

async fn only_what_matches_is_sent(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for filter in ["sport/tennis/#", "+/wind", "exact"] {
        client.subscribe(filter, 1).await;
    }
    let mut publisher = broker.client(version, "publisher").await;
    let yes = ["sport/tennis", "sport/tennis/p1", "sport/tennis/p1/x", "a/wind", "/wind", "exact"];
    let no = ["sport", "sport/", "sport/tenni", "sport/tenniss", "wind", "a/b/wind", "exact/", "/exact"];
    for topic in yes.iter().chain(&no) {
        publisher.say(topic, topic).await;
    }
    assert_eq!(client.heard().await, yes);
}

async fn overlapping_subscriptions_deliver_at_the_highest_qos(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for (filter, qos) in [("t/+", 0), ("t/#", 2), ("t/x", 1)] {
        client.subscribe(filter, qos).await;
    }
    let mut publisher = broker.client(version, "publisher").await;
    for qos in [2, 1, 0] {
        publisher.publish(Publish::new("t/x", qos.to_string()).qos(qos)).await;
    }
    // The last one has no answer: what follows it has.
    publisher.ping().await;
    let all = client.drain().await;
    for qos in [2, 1, 0] {
        let copies: Vec<_> = all.iter().filter(|message| message.says() == qos.to_string()).collect();
        assert!(copies.iter().any(|message| message.qos == qos), "at QoS {qos}: {copies:02x?}");
        assert_eq!(copies.len(), 1, "one copy does");
    }
}

async fn a_subscription_identifier_comes_with_the_message(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe_with(&p::subscription_id(7), &[("t/+", 1)]).await;
    client.subscribe("t/#", 1).await;
    client.say("t/x", "x").await;
    assert_eq!(client.take().await.properties.subscriptions(), [7]);
    client.say("t/x/y", "x").await;
    assert!(client.take().await.properties.subscriptions().is_empty(), "the other has none");
    // The largest there is, and a new one in the place of the old.
    client.subscribe_with(&p::subscription_id(268_435_455), &[("t/+", 1)]).await;
    client.say("t/x", "x").await;
    assert_eq!(client.take().await.properties.subscriptions(), [268_435_455]);
    client.subscribe("t/+", 1).await;
    client.say("t/x", "x").await;
    assert!(client.take().await.properties.subscriptions().is_empty(), "taken away");
}

async fn one_copy_has_every_subscription_identifier(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for (filter, id) in [("t/+", 1), ("t/#", 20_000), ("t/x", 3), ("u", 4)] {
        client.subscribe_with(&p::subscription_id(id), &[(filter, 1)]).await;
    }
    client.subscribe("#", 1).await;
    client.say("t/x", "x").await;
    assert_eq!(client.take().await.properties.subscriptions(), [1, 3, 20_000]);
    // The same for who was away.
    client.disconnect().await;
    let mut client = broker.connect(Connect::durable(version, "b")).await;
    for (filter, id) in [("t/+", 1), ("t/#", 20_000)] {
        client.subscribe_with(&p::subscription_id(id), &[(filter, 1)]).await;
    }
    client.disconnect().await;
    let mut publisher = broker.client(version, "publisher").await;
    publisher.say("t/x", "x").await;
    let mut client = broker.connect(Connect::durable(version, "b")).await;
    assert_eq!(client.take().await.properties.subscriptions(), [1, 20_000]);
}

async fn a_client_does_not_send_subscription_identifiers(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.send(Publish::new("t", "x").property(p::subscription_id(1)).bytes(version)).await;
    client.closed_for(&[0x82]).await;
}

async fn no_local_keeps_a_message_from_its_sender(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 1 | NO_LOCAL).await;
    client.subscribe("u", 1).await;
    let mut other = broker.client(version, "b").await;
    other.subscribe("t", 1).await;
    client.say("t", "own").await;
    client.say("u", "own, and wanted").await;
    other.say("t", "another's").await;
    assert_eq!(client.heard().await, ["own, and wanted", "another's"]);
    assert_eq!(other.heard().await, ["own", "another's"]);
    // The client id counts, not the connection.
    client.disconnect().await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.say("t", "own again").await;
    assert_eq!(client.heard().await, [""; 0]);
}

async fn the_lower_qos_is_used(broker: &mut Broker, version: u8) {
    let mut publisher = broker.client(version, "publisher").await;
    for granted in [0, 1, 2] {
        let mut client = broker.client(version, "a").await;
        assert_eq!(client.subscribe("t", granted).await, granted);
        for published in [0, 1, 2] {
            publisher.publish(Publish::new("t", "x").qos(published)).await;
            publisher.ping().await;
            let message = client.take().await;
            assert_eq!(message.qos, granted.min(published), "granted {granted}, published {published}");
        }
    }
}

async fn an_unauthorised_publish_is_not_delivered(broker: &mut Broker, version: u8) {
    let foreign = "acme/MU-000002/app/x";
    let mut service = broker.client(version, "listener").await;
    service.subscribe(foreign, 1).await;
    for qos in 0..=2 {
        let mut device = broker.device(0, version).await;
        device.send(Publish::new(foreign, "x").qos(qos).id(1).bytes(version)).await;
        // 3.1.1 has no word for it: an answer as ever, or the close.
        assert_eq!(device.closed().await, None);
    }
    assert_eq!(service.heard().await, [""; 0]);
}

async fn qos_0_is_sent_without_dup(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 0).await;
    let mut publisher = broker.client(version, "publisher").await;
    for qos in [0, 1, 2] {
        publisher.publish(Publish::new("t", "x").qos(qos)).await;
        publisher.ping().await;
        assert_eq!(client.packet().await.unwrap().first, PUBLISH);
    }
}

statements! {
    mqtt5_3_3_2_3 => only_what_matches_is_sent(V5);
    mqtt3_3_3_2_3 => only_what_matches_is_sent(V3);
    mqtt5_3_3_4_2 => overlapping_subscriptions_deliver_at_the_highest_qos(V5);
    mqtt3_3_3_5_1 => overlapping_subscriptions_deliver_at_the_highest_qos(V3);
    mqtt5_3_3_4_3 => a_subscription_identifier_comes_with_the_message(V5);
    mqtt5_3_3_4_4 => one_copy_has_every_subscription_identifier(V5);
    mqtt5_3_3_4_6 => a_client_does_not_send_subscription_identifiers(V5);
    mqtt5_3_8_3_3 => no_local_keeps_a_message_from_its_sender(V5);
    mqtt5_3_8_4_8 => the_lower_qos_is_used(V5);
    mqtt3_3_8_4_6 => the_lower_qos_is_used(V3);
    mqtt3_3_3_5_2 => an_unauthorised_publish_is_not_delivered(V3);
    mqtt5_4_3_1_1 => qos_0_is_sent_without_dup(V5);
    mqtt3_4_3_1_1 => qos_0_is_sent_without_dup(V3);
}

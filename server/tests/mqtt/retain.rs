//! Retained messages: stored, replaced, removed, and who is sent them when (§3.3.1.3, §3.8.3.1).

use crate::{
    broker::Broker,
    client::Client,
    packets::{Publish, V3, V5},
};

/// Retain handling, and retain as published.
const SEND: u8 = 0 << 4;
const SEND_IF_NEW: u8 = 1 << 4;
const DO_NOT_SEND: u8 = 2 << 4;
const AS_PUBLISHED: u8 = 1 << 3;

/// What a new subscriber to `filter` is sent: topic, payload, QoS, in the order of the topics.
async fn kept(broker: &Broker, version: u8, filter: &str) -> Vec<(String, String, u8)> {
    let mut late = broker.client(version, "late").await;
    late.subscribe(filter, 2).await;
    let all = late.drain().await;
    late.disconnect().await;
    assert!(all.iter().all(|message| message.retain && !message.dup), "{all:02x?}");
    let mut all: Vec<_> = all.iter().map(|m| (m.topic().to_owned(), m.says().to_owned(), m.qos)).collect();
    all.sort();
    all
}

fn row(topic: &str, payload: &str, qos: u8) -> (String, String, u8) {
    (topic.to_owned(), payload.to_owned(), qos)
}

async fn publisher(broker: &Broker, version: u8) -> Client {
    broker.client(version, "publisher").await
}

async fn a_retained_message_is_stored_and_replaces_the_one_before(broker: &mut Broker, version: u8) {
    let mut publisher = publisher(broker, version).await;
    publisher.publish(Publish::new("t/a", "first").qos(1).retain()).await;
    assert_eq!(kept(broker, version, "t/#").await, [row("t/a", "first", 1)]);
    publisher.publish(Publish::new("t/a", "second").qos(2).retain()).await;
    publisher.publish(Publish::new("t/b", "other").qos(1).retain()).await;
    let both = [row("t/a", "second", 2), row("t/b", "other", 1)];
    assert_eq!(kept(broker, version, "t/#").await, both);
    broker.restart().await;
    assert_eq!(kept(broker, version, "t/#").await, both, "it outlives the server");
}

async fn a_new_subscription_is_sent_the_last_of_each_topic(broker: &mut Broker, version: u8) {
    let mut publisher = publisher(broker, version).await;
    for (topic, payload) in [("t/a", "1"), ("t/a", "2"), ("t/b", "3"), ("u", "4"), ("t/a/c", "5")] {
        publisher.keep(topic, payload).await;
    }
    assert_eq!(kept(broker, version, "t/+").await, [row("t/a", "2", 1), row("t/b", "3", 1)]);
    assert_eq!(
        kept(broker, version, "t/#").await,
        [row("t/a", "2", 1), row("t/a/c", "5", 1), row("t/b", "3", 1)]
    );
    assert_eq!(kept(broker, version, "none").await, []);
}

async fn a_retained_message_at_qos_0_discards_the_one_before(broker: &mut Broker, version: u8) {
    let mut publisher = publisher(broker, version).await;
    publisher.keep("t", "old").await;
    publisher.publish(Publish::new("t", "new").retain()).await;
    // Behind it, and acknowledged.
    publisher.say("u", "x").await;
    assert_eq!(kept(broker, version, "t").await, [row("t", "new", 0)], "kept, as the server may");
}

async fn what_a_subscription_is_sent_as_retained_says_so(broker: &mut Broker, version: u8) {
    publisher(broker, version).await.keep("t", "kept").await;
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1).await;
    let message = client.take().await;
    assert_eq!((message.says(), message.retain), ("kept", true));
}

async fn an_established_subscription_is_sent_messages_without_retain(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 2).await;
    let mut publisher = publisher(broker, version).await;
    for qos in [0, 1, 2] {
        publisher.publish(Publish::new("t", "x").qos(qos).retain()).await;
        publisher.ping().await;
        let message = client.take().await;
        assert_eq!((message.qos, message.retain), (qos, false));
    }
}

async fn an_empty_retained_message_removes_what_there_is(broker: &mut Broker, version: u8) {
    let mut publisher = publisher(broker, version).await;
    let mut client = broker.client(version, "a").await;
    client.subscribe("t/#", 1).await;
    for qos in [0, 1, 2] {
        publisher.keep("t/a", "kept").await;
        publisher.keep("t/b", "kept").await;
        publisher.publish(Publish::new("t/a", "").qos(qos).retain()).await;
        publisher.say("u", "x").await;
        assert_eq!(kept(broker, version, "t/#").await, [row("t/b", "kept", 1)]);
        let heard: Vec<_> = client.drain().await.iter().map(|m| m.payload.len()).collect();
        assert_eq!(heard, [4, 4, 0], "and is a message like any other");
    }
}

async fn an_empty_retained_message_is_not_stored(broker: &mut Broker, version: u8) {
    let mut publisher = publisher(broker, version).await;
    for qos in [0, 1, 2] {
        publisher.publish(Publish::new("t", "").qos(qos).retain()).await;
    }
    publisher.say("u", "x").await;
    assert_eq!(kept(broker, version, "#").await, []);
    broker.restart().await;
    assert_eq!(kept(broker, version, "#").await, []);
}

async fn without_retain_nothing_is_stored_or_removed(broker: &mut Broker, version: u8) {
    let mut publisher = publisher(broker, version).await;
    publisher.keep("t", "kept").await;
    for (topic, payload) in [("t", "other"), ("t", ""), ("u", "x")] {
        publisher.say(topic, payload).await;
    }
    assert_eq!(kept(broker, version, "#").await, [row("t", "kept", 1)]);
}

async fn retain_handling_0_sends_them_each_time(broker: &mut Broker, version: u8) {
    publisher(broker, version).await.keep("t", "kept").await;
    let mut client = broker.client(version, "a").await;
    for _ in 0..3 {
        client.subscribe("t", 1 | SEND).await;
        assert_eq!(client.heard().await, ["kept"]);
    }
}

async fn retain_handling_1_sends_them_to_new_subscriptions(broker: &mut Broker, version: u8) {
    publisher(broker, version).await.keep("t", "kept").await;
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1 | SEND_IF_NEW).await;
    assert_eq!(client.heard().await, ["kept"]);
    client.subscribe("t", 1 | SEND_IF_NEW).await;
    client.subscribe("t", 2 | SEND_IF_NEW).await;
    assert_eq!(client.heard().await, [""; 0], "it was there");
    client.subscribe("+", 1 | SEND_IF_NEW).await;
    assert_eq!(client.heard().await, ["kept"], "another filter");
    client.unsubscribe("t").await;
    client.subscribe("t", 1 | SEND_IF_NEW).await;
    assert_eq!(client.heard().await, ["kept"], "new again");
}

async fn retain_handling_2_sends_none(broker: &mut Broker, version: u8) {
    let mut publisher = publisher(broker, version).await;
    publisher.keep("t", "kept").await;
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1 | DO_NOT_SEND).await;
    client.subscribe("t", 1 | DO_NOT_SEND).await;
    assert_eq!(client.heard().await, [""; 0]);
    publisher.keep("t", "live").await;
    assert_eq!(client.heard().await, ["live"]);
}

async fn unless_asked_retain_is_not_passed_on(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1).await;
    let mut publisher = publisher(broker, version).await;
    publisher.keep("t", "x").await;
    publisher.say("t", "y").await;
    assert!(client.drain().await.iter().all(|message| !message.retain));
}

async fn retain_as_published_passes_it_on(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1 | AS_PUBLISHED).await;
    let mut publisher = publisher(broker, version).await;
    publisher.keep("t", "x").await;
    publisher.say("t", "y").await;
    let retain: Vec<_> = client.drain().await.iter().map(|message| message.retain).collect();
    assert_eq!(retain, [true, false]);
    // For who was away the same.
    client.disconnect().await;
    let durable = || crate::packets::Connect::durable(version, "b");
    let mut client = broker.connect(durable()).await;
    client.subscribe("t", 1 | AS_PUBLISHED | DO_NOT_SEND).await;
    client.disconnect().await;
    publisher.keep("t", "x").await;
    publisher.say("t", "y").await;
    let mut client = broker.connect(durable()).await;
    let retain: Vec<_> = client.drain().await.iter().map(|message| message.retain).collect();
    assert_eq!(retain, [true, false]);
}

statements! {
    mqtt5_3_3_1_5 => a_retained_message_is_stored_and_replaces_the_one_before(V5);
    mqtt3_3_3_1_5 => a_retained_message_is_stored_and_replaces_the_one_before(V3);
    mqtt3_3_3_1_6 => a_new_subscription_is_sent_the_last_of_each_topic(V3);
    mqtt3_3_3_1_7 => a_retained_message_at_qos_0_discards_the_one_before(V3);
    mqtt3_3_3_1_8 => what_a_subscription_is_sent_as_retained_says_so(V3);
    mqtt3_3_3_1_9 => an_established_subscription_is_sent_messages_without_retain(V3);
    mqtt5_3_3_1_6 => an_empty_retained_message_removes_what_there_is(V5);
    mqtt3_3_3_1_10 => an_empty_retained_message_removes_what_there_is(V3);
    mqtt5_3_3_1_7 => an_empty_retained_message_is_not_stored(V5);
    mqtt3_3_3_1_11 => an_empty_retained_message_is_not_stored(V3);
    mqtt5_3_3_1_8 => without_retain_nothing_is_stored_or_removed(V5);
    mqtt3_3_3_1_12 => without_retain_nothing_is_stored_or_removed(V3);
    mqtt5_3_3_1_9 => retain_handling_0_sends_them_each_time(V5);
    mqtt5_3_3_1_10 => retain_handling_1_sends_them_to_new_subscriptions(V5);
    mqtt5_3_3_1_11 => retain_handling_2_sends_none(V5);
    mqtt5_3_3_1_12 => unless_asked_retain_is_not_passed_on(V5);
    mqtt5_3_3_1_13 => retain_as_published_passes_it_on(V5);
}

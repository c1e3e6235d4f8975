//! Session state: started, kept, resumed, ended (MQTT 5.0 §3.1.2.4, §3.1.2.11.2, §4.1; 3.1.1 §3.1.2.4, §4.1).

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    broker::Broker,
    client::Client,
    packets::{Connect, DISCONNECT, PUBREC, PUBREL, Publish, V3, V5, ack, disconnect, p},
};

async fn publisher(broker: &Broker, version: u8) -> Client {
    broker.client(version, "publisher").await
}

/// A session with a subscription to `topic`, away.
async fn away(broker: &Broker, connect: Connect, topic: &str) {
    let mut client = broker.connect(connect).await;
    client.subscribe(topic, 1).await;
    client.disconnect().await;
}

async fn a_clean_start_discards_what_was(broker: &mut Broker, version: u8) {
    away(broker, Connect::durable(version, "a"), "t").await;
    let mut publisher = publisher(broker, version).await;
    publisher.say("t", "before").await;
    let (mut client, connack) = broker.connecting(Connect::durable(version, "a").clean()).await;
    assert!(!connack.session_present());
    publisher.say("t", "while clean").await;
    assert_eq!(client.heard().await, [""; 0], "neither what waited nor the subscription");
    client.disconnect().await;
    publisher.say("t", "after").await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    assert_eq!(client.heard().await, [""; 0]);
}

async fn a_session_goes_on_where_it_was(broker: &mut Broker, version: u8) {
    away(broker, Connect::durable(version, "a"), "t").await;
    let mut publisher = publisher(broker, version).await;
    publisher.say("t", "while away").await;
    let (mut client, connack) = broker.connecting(Connect::durable(version, "a")).await;
    assert!(connack.session_present());
    assert_eq!(client.take().await.says(), "while away");
    publisher.say("t", "back").await;
    assert_eq!(client.take().await.says(), "back", "nobody subscribed again");
}

async fn where_there_is_no_session_one_is_made(broker: &mut Broker, version: u8) {
    let (mut client, connack) = broker.connecting(Connect::durable(version, "new")).await;
    assert!(!connack.session_present());
    client.subscribe("t", 1).await;
    client.say("t", "x").await;
    assert_eq!(client.take().await.says(), "x");
    client.disconnect().await;
    let (_, connack) = broker.connecting(Connect::durable(version, "new")).await;
    assert!(connack.session_present());
}

/// Subscriptions, what came meanwhile, and both halves of QoS 2 outlive connection and server.
async fn a_session_outlives_its_connection(broker: &mut Broker, version: u8) {
    away(broker, Connect::durable(version, "a"), "t").await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.send(Publish::new("up", "x").qos(2).id(7).bytes(version)).await;
    client.expect(PUBREC).await;
    client.reset();
    let mut publisher = publisher(broker, version).await;
    publisher.say("t", "one").await;
    publisher.publish(Publish::new("t", "two").qos(2)).await;
    let (mut client, connack) = broker.connecting(Connect::durable(version, "a")).await;
    assert!(connack.session_present());
    assert_eq!(client.heard().await, ["one", "two"]);
    client.subscribe("up", 1).await;
    // The server still knows the packet identifier: the message is not taken twice.
    client.send(Publish::new("up", "x").qos(2).id(7).dup().bytes(version)).await;
    client.expect(PUBREC).await;
    assert_eq!(client.heard().await, [""; 0]);
}

async fn a_session_outlives_the_server(broker: &mut Broker, version: u8) {
    away(broker, Connect::durable(version, "a"), "t").await;
    publisher(broker, version).await.say("t", "before").await;
    broker.restart().await;
    publisher(broker, version).await.say("t", "after").await;
    let (mut client, connack) = broker.connecting(Connect::durable(version, "a")).await;
    assert!(connack.session_present());
    assert_eq!(client.heard().await, ["before", "after"]);
}

async fn the_server_stores_qos_1_and_2_for_who_is_away(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t/+", 2).await;
    client.disconnect().await;
    let mut publisher = publisher(broker, version).await;
    for (qos, payload) in [(1, "one"), (2, "two"), (2, "three"), (1, "four")] {
        publisher.publish(Publish::new(format!("t/{payload}"), payload).qos(qos)).await;
    }
    publisher.say("other", "not its").await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    let all = client.drain().await;
    let mut all: Vec<_> = all.iter().map(|message| (message.says(), message.qos)).collect();
    all.sort_unstable();
    assert_eq!(all, [("four", 1), ("one", 1), ("three", 2), ("two", 2)]);
}

async fn a_clean_session_leaves_nothing(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 2).await;
    // Not on a topic of its own subscription: that message may come before the PUBREC.
    client.send(Publish::new("up", "x").qos(2).id(7).bytes(version)).await;
    client.expect(PUBREC).await;
    client.reset();
    publisher(broker, version).await.say("t", "while away").await;
    let (mut client, connack) = broker.connecting(Connect::durable(version, "a")).await;
    assert!(!connack.session_present());
    client.subscribe("t", 2).await;
    // Its packet identifiers are forgotten too: this is a new message.
    client.publish(Publish::new("t", "again").qos(2).id(7)).await;
    assert_eq!(client.heard().await, ["again"]);
}

async fn retained_messages_stay_when_the_session_ends(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.keep("t", "kept").await;
    client.disconnect().await;
    let mut client = broker.client(version, "a").await;
    client.subscribe("t", 1).await;
    assert_eq!(client.take().await.says(), "kept");
}

/// An open connection keeps its session, however short its expiry.
async fn a_session_lives_while_its_connection_does(broker: &mut Broker, version: u8) {
    let connect = match version {
        V5 => Connect::new(version, "a").property(p::session_expiry(1)),
        _ => Connect::new(version, "a"),
    };
    let mut client = broker.connect(connect).await;
    client.subscribe("t", 2).await;
    client.send(Publish::new("up", "x").qos(2).id(7).bytes(version)).await;
    client.expect(PUBREC).await;
    sleep(Duration::from_secs(2)).await;
    publisher(broker, version).await.say("t", "still").await;
    assert_eq!(client.take().await.says(), "still");
    client.send(ack(PUBREL, 7)).await;
    assert_eq!(client.packet().await.unwrap().body[..2], [0, 7], "and with success");
}

async fn a_session_ends_when_its_expiry_has_passed(broker: &mut Broker, version: u8) {
    let brief = |id| Connect::new(version, id).resume().property(p::session_expiry(1));
    away(broker, brief("a"), "t").await;
    // Zero, or none: with the connection.
    away(broker, Connect::new(version, "b").resume().property(p::session_expiry(0)), "t").await;
    away(broker, Connect::new(version, "c").resume(), "t").await;
    // DISCONNECT may say another.
    let mut client = broker.connect(Connect::durable(version, "d")).await;
    client.subscribe("t", 1).await;
    client.send(disconnect(0, &p::session_expiry(0))).await;
    assert_eq!(client.closed().await, None);
    let mut client = broker.connect(brief("e")).await;
    client.subscribe("t", 1).await;
    client.send(disconnect(0, &p::session_expiry(600))).await;
    assert_eq!(client.closed().await, None);
    sleep(Duration::from_secs(3)).await;
    publisher(broker, version).await.say("t", "late").await;
    for id in ["a", "b", "c", "d"] {
        let (mut client, connack) = broker.connecting(Connect::durable(version, id)).await;
        assert!(!connack.session_present(), "{id}");
        assert_eq!(client.heard().await, [""; 0], "{id}");
    }
    let (mut client, connack) = broker.connecting(Connect::durable(version, "e")).await;
    assert!(connack.session_present());
    assert_eq!(client.heard().await, ["late"]);
}

async fn clean_start_is_processed_for_whoever_is_let_in(broker: &mut Broker, version: u8) {
    // Taken over rather than come back: the session is the same.
    let mut first = broker.connect(Connect::durable(version, "a")).await;
    first.subscribe("t", 1).await;
    let (mut second, connack) = broker.connecting(Connect::durable(version, "a")).await;
    assert!(connack.session_present());
    second.say("t", "x").await;
    assert_eq!(second.take().await.says(), "x");
    let (mut third, connack) = broker.connecting(Connect::durable(version, "a").clean()).await;
    assert!(!connack.session_present());
    third.say("t", "x").await;
    assert_eq!(third.heard().await, [""; 0]);
}

/// What was accepted is in the session before the publisher has its answer.
async fn what_is_accepted_is_in_the_session(broker: &mut Broker, version: u8) {
    for id in ["a", "b"] {
        away(broker, Connect::durable(version, id), "t/#").await;
    }
    let mut publisher = publisher(broker, version).await;
    for n in 0..20 {
        publisher.say(&format!("t/{n}"), n.to_string()).await;
    }
    publisher.send([DISCONNECT, 0]).await;
    broker.restart().await;
    for id in ["a", "b"] {
        let mut client = broker.connect(Connect::durable(version, id)).await;
        let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(client.heard().await, expected);
    }
}

statements! {
    mqtt5_3_1_2_4 => a_clean_start_discards_what_was(V5);
    mqtt3_3_1_2_6 => a_clean_session_leaves_nothing(V3);
    mqtt5_3_1_2_5 => a_session_goes_on_where_it_was(V5);
    mqtt3_3_1_2_4 => a_session_goes_on_where_it_was(V3);
    mqtt5_3_1_2_6 => where_there_is_no_session_one_is_made(V5);
    mqtt3_3_2_2_3 => where_there_is_no_session_one_is_made(V3);
    mqtt5_3_1_2_23 => a_session_outlives_its_connection(V5);
    mqtt3_4_1_0_1 => a_session_outlives_the_server(V3);
    mqtt3_3_1_2_5 => the_server_stores_qos_1_and_2_for_who_is_away(V3);
    mqtt3_3_1_2_7 => retained_messages_stay_when_the_session_ends(V3);
    mqtt5_4_1_0_1 => a_session_lives_while_its_connection_does(V5);
    mqtt3_4_1_0_2 => a_session_lives_while_its_connection_does(V3);
    mqtt5_4_1_0_2 => a_session_ends_when_its_expiry_has_passed(V5);
    mqtt5_3_1_4_4 => clean_start_is_processed_for_whoever_is_let_in(V5);
    mqtt3_3_1_4_3 => clean_start_is_processed_for_whoever_is_let_in(V3);
    mqtt5_4_5_0_1 => what_is_accepted_is_in_the_session(V5);
    mqtt3_4_5_0_1 => what_is_accepted_is_in_the_session(V3);
}

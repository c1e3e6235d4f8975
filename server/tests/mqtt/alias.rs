//! Topic aliases, both ways (MQTT 5.0 §3.1.2.11.5, §3.2.2.3.8, §3.3.2.3.4).

use std::collections::BTreeMap;

use crate::{
    broker::Broker,
    client::Client,
    packets::{Connect, Publish, V5, p},
};

/// How many aliases the server takes.
async fn with_maximum(broker: &Broker, id: &str) -> (Client, u16) {
    let (client, connack) = broker.connecting(Connect::new(V5, id)).await;
    (client, connack.properties().number(p::ALIAS_MAX).unwrap_or(0) as u16)
}

fn aliased(topic: &str, alias: u16, payload: &str) -> Publish {
    Publish::new(topic, payload).qos(1).property(p::alias(alias))
}

/// Twelve topics, each twice, to a client that takes `maximum` aliases: what each message was about, and
/// every alias used.
async fn aliases_used(broker: &Broker, maximum: Option<u16>) -> Vec<u32> {
    let mut connect = Connect::new(V5, "listener");
    if let Some(maximum) = maximum {
        connect = connect.property(p::alias_max(maximum));
    }
    let mut client = broker.connect(connect).await;
    client.subscribe("topic/#", 1).await;
    let mut publisher = broker.client(V5, "publisher").await;
    let topics: Vec<_> = (0..24).map(|n| format!("topic/of/some/length/{}", n % 12)).collect();
    let (mut known, mut used): (BTreeMap<u32, String>, _) = (BTreeMap::new(), Vec::new());
    for topic in &topics {
        publisher.say(topic, topic).await;
        let message = client.take().await;
        let alias = message.properties.number(p::ALIAS);
        if let (Some(alias), false) = (alias, message.topic.is_empty()) {
            known.insert(alias, message.topic().to_owned());
        }
        let meant = if message.topic.is_empty() { &known[&alias.unwrap()] } else { message.topic() };
        assert_eq!(meant, topic);
        assert_eq!(message.says(), topic);
        used.extend(alias);
    }
    used
}

async fn the_server_uses_no_alias_beyond_the_clients_maximum(broker: &mut Broker, _: u8) {
    for maximum in [1, 3, 65_535] {
        let used = aliases_used(broker, Some(maximum)).await;
        assert!(used.iter().all(|alias| (1..=u32::from(maximum)).contains(alias)), "{used:?}");
    }
}

async fn the_server_uses_no_alias_where_none_is_taken(broker: &mut Broker, _: u8) {
    assert_eq!(aliases_used(broker, None).await, [0; 0]);
    assert_eq!(aliases_used(broker, Some(0)).await, [0; 0]);
}

async fn aliases_are_of_one_connection(broker: &mut Broker, version: u8) {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("t", 1).await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.publish(aliased("t", 1, "named")).await;
    client.publish(aliased("", 1, "by alias")).await;
    assert_eq!(listener.heard().await, ["named", "by alias"]);
    client.disconnect().await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.send(aliased("", 1, "of before").id(9).bytes(version)).await;
    client.closed_for(&[0x82]).await;
    assert_eq!(listener.heard().await, [""; 0]);
    // The server's own likewise: each connection is told a topic's name before its alias.
    let mut client = broker.connect(Connect::durable(version, "b").property(p::alias_max(5))).await;
    client.subscribe("u", 1).await;
    let mut publisher = broker.client(version, "publisher").await;
    for _ in 0..2 {
        publisher.say("u", "x").await;
        client.take().await;
    }
    client.disconnect().await;
    publisher.say("u", "x").await;
    let mut client = broker.connect(Connect::durable(version, "b").property(p::alias_max(5))).await;
    assert_eq!(client.take().await.topic(), "u");
}

async fn alias_zero_is_an_error(broker: &mut Broker, version: u8) {
    for topic in ["t", ""] {
        let mut client = broker.client(version, "a").await;
        client.send(aliased(topic, 0, "x").id(1).bytes(version)).await;
        client.closed_for(&[0x94, 0x82]).await;
    }
}

async fn an_alias_beyond_the_servers_maximum_is_an_error(broker: &mut Broker, version: u8) {
    let (mut client, maximum) = with_maximum(broker, "a").await;
    client.send(aliased("t", maximum + 1, "x").id(1).bytes(version)).await;
    client.closed_for(&[0x94]).await;
}

async fn every_alias_up_to_the_maximum_is_taken(broker: &mut Broker, version: u8) {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("t/#", 1).await;
    let (mut client, maximum) = with_maximum(broker, "a").await;
    assert!(maximum > 0, "aliases are offered");
    for alias in 1..=maximum {
        client.publish(aliased(&format!("t/{alias}"), alias, "named")).await;
    }
    for alias in (1..=maximum).rev() {
        client.publish(aliased("", alias, "by alias")).await;
    }
    // One may be given to another topic.
    client.publish(aliased("t/new", 1, "named")).await;
    client.publish(aliased("", 1, "by alias")).await;
    let heard: Vec<_> = listener.drain().await.iter().map(|m| m.topic().to_owned()).collect();
    let all = (1..=maximum).chain((1..=maximum).rev()).map(|alias| format!("t/{alias}"));
    assert_eq!(heard, all.chain(["t/new".to_owned(), "t/new".to_owned()]).collect::<Vec<_>>());
}

async fn a_topic_without_a_name_needs_an_alias(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.send(Publish::new("", "x").qos(1).id(1).bytes(version)).await;
    client.closed_for(&[0x81, 0x82, 0x90]).await;
    let mut client = broker.client(version, "a").await;
    client.send(aliased("", 2, "never named").id(1).bytes(version)).await;
    client.closed_for(&[0x82]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_names_nothing_is_an_error() {
    let mut broker = Broker::start().await;
    a_topic_without_a_name_needs_an_alias(&mut broker, V5).await;
    broker.stop().await;
}

statements! {
    mqtt5_3_1_2_26 => the_server_uses_no_alias_beyond_the_clients_maximum(V5);
    mqtt5_3_1_2_27 => the_server_uses_no_alias_where_none_is_taken(V5);
    mqtt5_3_3_2_7 => aliases_are_of_one_connection(V5);
    mqtt5_3_3_2_8 => alias_zero_is_an_error(V5);
    mqtt5_3_3_2_9 => an_alias_beyond_the_servers_maximum_is_an_error(V5);
    mqtt5_3_3_2_12 => every_alias_up_to_the_maximum_is_taken(V5);
}

//! Wills: when they are published, when not, and as what (MQTT 5.0 §3.1.2.5-§3.1.2.7, §3.1.3.2; 3.1.1 §3.1.2.5).

use crate::{
    broker::Broker,
    client::Client,
    packets::{Connect, DISCONNECT, V3, V5, Will, disconnect, p, packet},
};

const TOPIC: &str = "the/will";

async fn listener(broker: &Broker, version: u8) -> Client {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe(TOPIC, 2).await;
    listener
}

/// Connects with this will, and is gone without a goodbye.
async fn lost(broker: &Broker, connect: Connect) {
    broker.connect(connect).await.reset();
}

fn mourned(version: u8) -> Connect {
    Connect::new(version, "mourned").will(Will::new(TOPIC, "gone").qos(1))
}

async fn a_will_is_kept_until_the_connection_is_lost(broker: &mut Broker, version: u8) {
    let mut listener = listener(broker, version).await;
    let mut client = broker.connect(mourned(version)).await;
    client.ping().await;
    assert_eq!(listener.heard().await, [""; 0], "not while the client is there");
    client.reset();
    let will = listener.take().await;
    assert_eq!((will.topic(), will.says(), will.qos), (TOPIC, "gone", 1));
}

async fn a_will_is_published_however_the_connection_ends(broker: &mut Broker, version: u8) {
    let mut listener = listener(broker, version).await;
    lost(broker, mourned(version)).await;
    assert_eq!(listener.take().await.says(), "gone", "reset");
    let mut client = broker.connect(mourned(version)).await;
    client.send(packet(0x36, &[&[0, 1, b'a', 0, 1]])).await;
    client.closed_for(&[0x81]).await;
    assert_eq!(listener.take().await.says(), "gone", "closed by the server for an error");
    let mut silent = broker.connect(mourned(version).keep_alive(1)).await;
    silent.closed_for(&[0x8d]).await;
    assert_eq!(listener.take().await.says(), "gone", "keep-alive");
    broker.connect(mourned(version)).await.disconnect().await;
    assert_eq!(listener.heard().await, [""; 0], "left in order");
}

async fn the_will_delay_passes_first(broker: &mut Broker, version: u8) {
    let mut listener = listener(broker, version).await;
    let will = |delay| Will::new(TOPIC, "gone").qos(1).property(p::will_delay(delay));
    // The session outlives the connection for long: the delay decides.
    lost(broker, Connect::durable(version, "a").will(will(2))).await;
    assert_eq!(listener.heard().await, [""; 0], "not at once");
    assert_eq!(listener.take().await.says(), "gone");
    // The session ends sooner than the delay: its end decides.
    let short = Connect::new(version, "b").property(p::session_expiry(1)).will(will(600));
    lost(broker, short).await;
    assert_eq!(listener.take().await.says(), "gone");
    // The session ends with its connection.
    lost(broker, Connect::new(version, "c").will(will(600))).await;
    assert_eq!(listener.take().await.says(), "gone");
}

async fn a_will_is_published_once_and_gone_after_a_goodbye(broker: &mut Broker, version: u8) {
    let mut listener = listener(broker, version).await;
    let again = || Connect::durable(version, "a");
    lost(broker, again().will(Will::new(TOPIC, "gone").qos(1))).await;
    assert_eq!(listener.take().await.says(), "gone");
    // The session goes on without a will.
    lost(broker, again()).await;
    broker.connect(again()).await.disconnect().await;
    assert_eq!(listener.heard().await, [""; 0]);
    let client = broker.connect(again().will(Will::new(TOPIC, "second").qos(1))).await;
    client.disconnect().await;
    lost(broker, again()).await;
    broker.connect(again()).await.disconnect().await;
    assert_eq!(listener.heard().await, [""; 0], "taken along by DISCONNECT");
}

async fn without_a_will_flag_there_is_no_will(broker: &mut Broker, version: u8) {
    let mut listener = broker.client(version, "listener").await;
    listener.subscribe("#", 0).await;
    lost(broker, Connect::new(version, "a")).await;
    let client = broker.connect(Connect::new(version, "a")).await;
    client.disconnect().await;
    assert_eq!(listener.heard().await, [""; 0]);
}

async fn an_unretained_will_is_not_retained(broker: &mut Broker, version: u8) {
    let mut watch = listener(broker, version).await;
    lost(broker, mourned(version)).await;
    assert!(!watch.take().await.retain);
    drop(watch);
    assert_eq!(listener(broker, version).await.heard().await, [""; 0]);
}

async fn a_retained_will_is_retained(broker: &mut Broker, version: u8) {
    let mut watch = listener(broker, version).await;
    lost(broker, Connect::new(version, "a").will(Will::new(TOPIC, "gone").qos(1).retain())).await;
    assert_eq!(watch.take().await.says(), "gone");
    drop(watch);
    let late = listener(broker, version).await.take().await;
    assert_eq!((late.says(), late.retain), ("gone", true));
}

async fn a_client_that_is_back_in_time_is_not_mourned(broker: &mut Broker, version: u8) {
    let mut listener = listener(broker, version).await;
    let will = Will::new(TOPIC, "gone").qos(1).property(p::will_delay(2));
    lost(broker, Connect::durable(version, "a").will(will)).await;
    let mut back = broker.connect(Connect::durable(version, "a")).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    back.ping().await;
    assert_eq!(listener.heard().await, [""; 0]);
}

async fn the_wills_properties_go_with_it_in_order(broker: &mut Broker, version: u8) {
    let mut listener = listener(broker, version).await;
    let mut will = Will::new(TOPIC, "gone").qos(1);
    let pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("c", ""), ("a", "0")];
    for (key, value) in pairs {
        will = will.property(p::user(key, value));
    }
    will = will.property(p::content_type("text/plain")).property(p::correlation([0, 1, 0xff]));
    will = will.property(p::response_topic("the/answer")).property(p::payload_format(1));
    lost(broker, Connect::new(version, "a").will(will)).await;
    let properties = listener.take().await.properties;
    let user: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(properties.user(), user);
    assert_eq!(properties.text(p::CONTENT_TYPE), Some(&b"text/plain"[..]));
    assert_eq!(properties.text(p::CORRELATION), Some(&[0, 1, 0xff][..]));
    assert_eq!(properties.text(p::RESPONSE_TOPIC), Some(&b"the/answer"[..]));
    assert_eq!(properties.number(p::PAYLOAD_FORMAT), Some(1));
}

async fn disconnect_discards_the_will(broker: &mut Broker, version: u8) {
    let mut listener = listener(broker, version).await;
    let mut client = broker.connect(mourned(version)).await;
    client.send([DISCONNECT, 0]).await;
    assert_eq!(client.closed().await, None);
    if version == V5 {
        let mut client = broker.connect(mourned(version)).await;
        client.send(disconnect(0, &[])).await;
        assert_eq!(client.closed().await, None);
    }
    assert_eq!(listener.heard().await, [""; 0]);
    if version == V5 {
        // Any other reason asks for it.
        let mut client = broker.connect(mourned(version)).await;
        client.send(disconnect(0x04, &[])).await;
        assert_eq!(client.closed().await, None);
        assert_eq!(listener.take().await.says(), "gone");
    }
}

statements! {
    mqtt5_3_1_2_7 => a_will_is_kept_until_the_connection_is_lost(V5);
    mqtt3_3_1_2_8 => a_will_is_published_however_the_connection_ends(V3);
    mqtt5_3_1_2_8 => the_will_delay_passes_first(V5);
    mqtt5_3_1_2_10 => a_will_is_published_once_and_gone_after_a_goodbye(V5);
    mqtt3_3_1_2_10 => a_will_is_published_once_and_gone_after_a_goodbye(V3);
    mqtt3_3_1_2_12 => without_a_will_flag_there_is_no_will(V3);
    mqtt5_3_1_2_14 => an_unretained_will_is_not_retained(V5);
    mqtt3_3_1_2_16 => an_unretained_will_is_not_retained(V3);
    mqtt5_3_1_2_15 => a_retained_will_is_retained(V5);
    mqtt3_3_1_2_17 => a_retained_will_is_retained(V3);
    mqtt5_3_1_3_9 => a_client_that_is_back_in_time_is_not_mourned(V5);
    mqtt5_3_1_3_10 => the_wills_properties_go_with_it_in_order(V5);
    mqtt5_3_14_4_3 => disconnect_discards_the_will(V5);
    mqtt3_3_14_4_3 => disconnect_discards_the_will(V3);
}

//! Message expiry (MQTT 5.0 §3.3.2.3.3).

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    broker::Broker,
    packets::{Connect, Publish, V5, p},
};

fn lasting(payload: &str, seconds: u32) -> Publish {
    Publish::new("t", payload).qos(1).property(p::message_expiry(seconds))
}

async fn what_has_expired_is_not_delivered(broker: &mut Broker, version: u8) {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 1).await;
    client.disconnect().await;
    let mut publisher = broker.client(version, "publisher").await;
    publisher.publish(lasting("brief", 1)).await;
    publisher.publish(lasting("long", 600)).await;
    publisher.publish(lasting("brief and kept", 1).retain()).await;
    sleep(Duration::from_millis(2500)).await;
    publisher.say("t", "for ever").await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    assert_eq!(client.heard().await, ["long", "for ever"]);
    let mut late = broker.client(version, "late").await;
    late.subscribe("t", 1).await;
    assert_eq!(late.heard().await, [""; 0], "nor as a retained message");
}

async fn what_is_left_of_the_interval_is_passed_on(broker: &mut Broker, version: u8) {
    let mut there = broker.client(version, "there").await;
    there.subscribe("t", 1).await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t", 1).await;
    client.disconnect().await;
    let mut publisher = broker.client(version, "publisher").await;
    publisher.publish(lasting("x", 1000).retain()).await;
    let left = there.take().await.properties.number(p::MESSAGE_EXPIRY);
    assert!((990..=1000).contains(&left.unwrap()), "{left:?}");
    sleep(Duration::from_secs(3)).await;
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    let mut late = broker.client(version, "late").await;
    late.subscribe("t", 1).await;
    for message in [client.take().await, late.take().await] {
        let left = message.properties.number(p::MESSAGE_EXPIRY).unwrap();
        assert!((900..=997).contains(&left), "{left}");
    }
}

statements! {
    mqtt5_3_3_2_5 => what_has_expired_is_not_delivered(V5);
    mqtt5_3_3_2_6 => what_is_left_of_the_interval_is_passed_on(V5);
}

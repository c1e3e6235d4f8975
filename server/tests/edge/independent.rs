//! A client library that is not ours: rumqttc, in both versions.

use std::{future::Future, sync::Arc, time::Duration};

use muster_server::edge::{Delivered, Downlink};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::{
    client::tls_of,
    site::{PATIENCE, Site},
};

const TELEMETRY: &str = "acme/MU-000001/telemetry/climate";
const REQUEST: &str = "acme/MU-000001/command/1/request";

fn transport(config: Arc<ClientConfig>) -> Transport {
    Transport::tls_with_config(TlsConfiguration::Rustls(config))
}

async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_speaks_3_1_1_with_the_edge() {
    let site = Site::with(1).await;
    let mut options = MqttOptions::new("MU-000001", "localhost", site.addr.port());
    options.set_transport(transport(tls_of(&site.devices[0]))).set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 64);
    client.subscribe("acme/MU-000001/command/+/request", QoS::AtLeastOnce).await.unwrap();
    for n in 0..10u8 {
        client.publish(TELEMETRY, QoS::AtLeastOnce, false, vec![n; 300]).await.unwrap();
    }
    let (mut acks, mut subscribed) = (0, false);
    while acks < 10 || !subscribed {
        match in_time(events.poll()).await.unwrap() {
            Event::Incoming(Packet::PubAck(_)) => acks += 1,
            Event::Incoming(Packet::SubAck(ack)) => {
                assert_eq!(ack.return_codes, [rumqttc::SubscribeReasonCode::Success(QoS::AtLeastOnce)]);
                subscribed = true;
            }
            _ => {}
        }
    }
    assert_eq!(site.stored().await.len(), 10);
    let message = Downlink::direct(REQUEST.into(), "do".into(), 1);
    let sent = tokio::spawn(site.roster.deliver(site.key(0), message));
    while !sent.is_finished() {
        if let Event::Incoming(Packet::Publish(got)) = in_time(events.poll()).await.unwrap() {
            assert_eq!(
                (got.topic.as_str(), got.payload.as_ref(), got.qos),
                (REQUEST, &b"do"[..], QoS::AtLeastOnce)
            );
        }
    }
    assert_eq!(sent.await.unwrap(), Ok(Delivered::Acknowledged));
    client.disconnect().await.unwrap();
    while events.poll().await.is_ok() {}
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_speaks_5_with_the_edge() {
    use rumqttc::v5::{
        AsyncClient, Event, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Packet, PubAckReason},
        },
    };
    let site = Site::with(1).await;
    let mut options = MqttOptions::new("MU-000001", "localhost", site.addr.port());
    options.set_transport(transport(tls_of(&site.devices[0]))).set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 64);
    client.subscribe("acme/MU-000001/#", QoS::AtLeastOnce).await.unwrap();
    for n in 0..10u8 {
        client.publish(TELEMETRY, QoS::AtLeastOnce, false, vec![n; 300]).await.unwrap();
    }
    client.publish("acme/MU-000009/telemetry/x", QoS::AtLeastOnce, false, "x").await.unwrap();
    let mut reasons = Vec::new();
    let mut limits = None;
    while reasons.len() < 11 {
        match in_time(events.poll()).await.unwrap() {
            Event::Incoming(Packet::ConnAck(ack)) => limits = ack.properties,
            Event::Incoming(Packet::PubAck(ack)) => {
                let text = ack.properties.and_then(|properties| properties.reason_string);
                reasons.push((ack.reason, text));
            }
            _ => {}
        }
    }
    assert!(reasons[..10].iter().all(|(reason, _)| *reason == PubAckReason::Success), "{reasons:?}");
    assert_eq!(reasons[10].0, PubAckReason::NotAuthorized);
    assert_eq!(reasons[10].1.as_deref(), Some("M210 topic is not the device's"));
    let limits = limits.expect("properties of CONNACK");
    assert_eq!((limits.max_qos, limits.retain_available), (None, None), "QoS 2 and retain");
    let message = Downlink::direct(REQUEST.into(), "do".into(), 1);
    let sent = tokio::spawn(site.roster.deliver(site.key(0), message));
    while !sent.is_finished() {
        in_time(events.poll()).await.unwrap();
    }
    assert_eq!(sent.await.unwrap(), Ok(Delivered::Acknowledged));
    client.disconnect().await.unwrap();
    while events.poll().await.is_ok() {}
    site.stop().await;
}

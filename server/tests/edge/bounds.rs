//! Bounds an operator sets, over real sockets: the longest silence, the longest topic.

use std::sync::Arc;

use muster_pki::testing::{self, Credential};
use muster_server::edge::{Limits, Service, SessionLimits, Trust};
use muster_shared::Code;

use crate::{
    client::{Client, V3, V5, code_in, connect_with, packet, publish, text, tls_of},
    site::{HIERARCHY, Site, now_s},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_mqtt_5_is_told_the_longest_keep_alive_and_ended_by_it() {
    let limits = Limits { keep_alive_max_s: Some(1), ..Limits::default() };
    let site = Site::limited(3, limits).await;
    let mut silent = Vec::new();
    for (device, asked_s) in [(0, 0), (1, 60)] {
        let mut client = Client::open(&site, tls_of(&site.devices[device]), V5).await.unwrap();
        client.send(&connect_with(V5, 0b10, asked_s, &[&text("")])).await;
        let connack = client.packet().await.unwrap();
        assert_eq!(connack[3], 0, "{connack:02x?}");
        assert!(connack.windows(3).any(|property| property == [0x13, 0, 1]), "{connack:02x?}");
        assert_eq!(site.roster.is_online(site.key(device)).unwrap().arrival.keep_alive_s, 1, "in force");
        silent.push(client);
    }
    // One that asks for no more is not told; and 3.1.1 has no word for it.
    let mut content = Client::open(&site, tls_of(&site.devices[2]), V5).await.unwrap();
    content.send(&connect_with(V5, 0b10, 1, &[&text("")])).await;
    let connack = content.packet().await.unwrap();
    assert!(!connack.windows(3).any(|property| property == [0x13, 0, 1]), "{connack:02x?}");
    let mut old = Client::open(&site, tls_of(&site.devices[2]), V3).await.unwrap();
    old.send(&connect_with(V3, 0b10, 0, &[&text("")])).await;
    assert_eq!(old.packet().await.unwrap(), [0x20, 2, 0, 0]);
    for mut client in silent {
        let said = client.packet().await.unwrap();
        assert_eq!((said[0], said[2], code_in(&said)), (0xe0, 0x8d, Some(Code::KeepAliveTimeout)));
    }
    assert_eq!(old.publish(1, "acme/MU-000003/telemetry/x", b"still here").await, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sets_what_a_session_may_take() {
    let sessions = SessionLimits {
        receive_max: 3,
        topic_alias_max: 2,
        subscriptions_max: 2,
        will_max: 300,
        expiry_max_s: 60,
        ..SessionLimits::default()
    };
    let site = Site::limited(1, Limits { sessions: sessions.into(), ..Limits::default() }).await;
    let head = [&[0, 4][..], b"MQTT", &[V5, 0b10, 0, 60]].concat();
    let asks_for_ten_minutes = packet(0x10, &[&head, &[5, 0x11, 0, 0, 2, 88], &text("")]);
    let own = "acme/MU-000001/app/x";
    let open = async || {
        let mut client = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
        client.send(&asks_for_ten_minutes).await;
        let connack = client.packet().await.unwrap();
        assert_eq!(connack[3], 0, "{connack:02x?}");
        (client, connack)
    };
    let (mut client, connack) = open().await;
    for said in [&[0x11, 0, 0, 0, 60][..], &[0x21, 0, 3], &[0x22, 0, 2]] {
        assert!(connack.windows(said.len()).any(|octets| octets == said), "{said:02x?} in {connack:02x?}");
    }
    assert_eq!([client.subscribe(own).await, client.subscribe("acme/MU-000001/app/y").await], [1, 1]);
    assert_eq!(client.subscribe("acme/MU-000001/app/z").await, 0x97);
    // The third alias, then the fourth message that is not released.
    client.send(&packet(0x30, &[&text(own), &[3, 0x23, 0, 3], b"x"])).await;
    assert_eq!(client.packet().await.unwrap()[2], 0x94);
    let (mut client, _) = open().await;
    for id in 1..=4 {
        client.send(&publish(V5, 2, id, own, b"x")).await;
    }
    let said = loop {
        let packet = client.packet().await.unwrap();
        if packet[0] & 0xf0 != 0x50 && packet[0] & 0xf0 != 0x30 {
            break packet;
        }
    };
    assert_eq!((said[0], code_in(&said)), (0xe0, Some(Code::ReceiveMaximumExceeded)));
    let mut heir = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
    let will = [vec![0], text(own), text(&"x".repeat(300))].concat();
    heir.send(&connect_with(V5, 0b110, 60, &[&text(""), &will])).await;
    let connack = heir.packet().await.unwrap();
    assert_eq!((connack[3], code_in(&connack)), (0x95, Some(Code::PacketTooLarge)));
    site.stop().await;
}

fn historian() -> Credential {
    testing::named(&HIERARCHY.service, "historian", now_s())
}

fn trust(topic_max: usize) -> Trust {
    let service = Service::new("historian".parse().unwrap(), None, ["#"], ["#"]).unwrap();
    let service = Arc::new(service.with_topics_up_to(topic_max));
    Trust::default().services(HIERARCHY.service.certificate(), [service], [])
}

/// The next packet is a PUBLISH on this topic: whether it is retained.
async fn came(client: &mut Client, topic: &str, payload: &[u8]) -> bool {
    let said = client.packet().await.unwrap();
    let at = said.len() - topic.len() - payload.len() - if said[0] & 0b110 == 0 { 1 } else { 3 };
    assert_eq!(said[0] & 0xf0, 0x30, "{:02x?}", &said[..said.len().min(40)]);
    assert!(said[at..].starts_with(topic.as_bytes()) && said.ends_with(payload));
    said[0] & 1 == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_a_service_may_be_as_long_as_a_packet_and_a_device_s_may_not() {
    let site = Site::trusting(1, trust(65_535)).await;
    let long = format!("acme/{}", "x/".repeat(500) + &"y".repeat(60_000));
    let filter = format!("acme/{}", "x/".repeat(500) + "+");
    let (mut writer, connack) = Client::connecting(&site, &historian(), V5).await;
    assert_eq!(connack[3], 0, "{connack:02x?}");
    assert_eq!(writer.subscribe(&filter).await, 1);
    // PUBACK and the message itself come in either order.
    let mut retained = publish(V5, 1, 7, &long, b"one");
    retained[0] |= 1;
    writer.send(&retained).await;
    for _ in 0..2 {
        let said = writer.packet().await.unwrap();
        match said[0] & 0xf0 {
            0x40 => assert!(said.len() == 4 || said[4] == 0, "{said:02x?}"),
            _ => assert!(said.ends_with(b"one") && said.len() > long.len()),
        }
    }
    // The log, the retained messages and a session's state hold it across a restart.
    let site = site.restarted(trust(65_535)).await;
    let stored = site.stored().await;
    assert_eq!((stored.len(), &stored[0].topic[..]), (1, long.as_bytes()));
    let (mut reader, _) = Client::connecting(&site, &historian(), V5).await;
    reader.send(&packet(0x82, &[&[0, 9, 0], &text(&filter), &[0]])).await;
    assert_eq!(reader.packet().await.unwrap()[0], 0x90);
    assert!(came(&mut reader, &long, b"one").await, "retained");
    // A device is held to what its buffer holds, and not handed more.
    let mut device = Client::connected(&site, &site.devices[0], V5).await;
    let its = |octets: usize| {
        let head = "acme/MU-000001/app/";
        format!("{head}{}", "x".repeat(octets - head.len()))
    };
    assert_eq!(device.publish(1, &its(256), b"x").await, 0);
    assert_eq!(device.publish(2, &its(257), b"x").await, 0x87);
    assert_eq!(device.subscribe(&its(257)).await, 0x8f);
    assert_eq!(device.subscribe("acme/MU-000001/app/#").await, 1);
    let (mut writer, _) = Client::connecting(&site, &historian(), V3).await;
    assert_eq!(writer.publish(1, &its(257), b"too long").await, 0);
    assert_eq!(writer.publish(2, &its(256), b"fits").await, 0);
    assert!(!came(&mut device, &its(256), b"fits").await);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_s_topic_beyond_the_configured_bound_is_refused() {
    let site = Site::trusting(1, trust(300)).await;
    let (mut client, _) = Client::connecting(&site, &historian(), V5).await;
    for (octets, reason) in [(300, 0), (301, 0x87)] {
        assert_eq!(client.publish(1, &"x".repeat(octets), b"x").await, reason);
    }
    assert_eq!(
        (client.subscribe(&"y".repeat(300)).await, client.subscribe(&"y".repeat(301)).await),
        (1, 0x8f)
    );
    assert_eq!(client.publish(1, &"x/".repeat(100), b"x").await, 0);
    site.stop().await;
}

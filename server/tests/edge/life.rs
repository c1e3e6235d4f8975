//! What goes well: connect, publish, be acknowledged, be sent something, be taken over, be stopped.

use std::time::Duration;

use muster_server::{
    edge::{DeliverError, Delivered, Downlink, Protocol},
    registry::{DeviceState, DisconnectReason},
};
use muster_shared::{
    Code,
    telemetry::{Boot, TelemetryBatch},
};

use crate::{
    client::{Client, End, V3, V5, code_in, connect_with, publish, text, tls_of},
    site::{Site, broker},
};

const TELEMETRY: &str = "acme/MU-000001/telemetry/climate";

fn batch(seq: u64) -> Vec<u8> {
    let mut buffer = [0; 64];
    TelemetryBatch::new(Boot { install: 7, count: 1 }, seq, 0).write(&mut buffer).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_connects_becomes_active_and_what_it_publishes_is_on_disk_before_puback() {
    for version in [V3, V5] {
        let site = Site::with(1).await;
        assert_eq!(site.detail(0).await.row.state, DeviceState::Registered);
        let mut client = Client::connected(&site, &site.devices[0], version).await;
        assert_eq!(site.detail(0).await.row.state, DeviceState::Active);
        for n in 1..=20 {
            assert_eq!(client.publish(n, TELEMETRY, &batch(n.into())).await, 0);
            assert_eq!(site.stored().await.len(), usize::from(n), "it is there when PUBACK is");
        }
        let stored = site.stored().await;
        assert_eq!(stored[4].topic, TELEMETRY);
        assert_eq!((stored[4].payload.as_ref(), stored[4].qos), (&batch(5)[..], 1));
        assert_eq!(stored[4].name, Some((Boot { install: 7, count: 1 }, 5)));
        let info = site.roster.is_online(site.key(0)).expect("online");
        assert_eq!((info.received, info.arrival.keep_alive_s), (20, 60));
        assert_eq!(info.arrival.protocol, if version == V5 { Protocol::V5 } else { Protocol::V3 });
        client.send(&[0xe0, 0]).await;
        assert_eq!(client.end().await, End::Clean);
        let session = site.detail(0).await.sessions[0].clone();
        assert_eq!(session.ended.map(|(_, why)| why), Some(DisconnectReason::ClientInitiated));
        assert_eq!(session.protocol, version);
        assert_eq!(site.roster.count(), 0);
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_message_is_acknowledged_and_stored_once() {
    let site = Site::with(1).await;
    let mut client = Client::connected(&site, &site.devices[0], V5).await;
    for _ in 0..3 {
        assert_eq!(client.publish(1, TELEMETRY, &batch(9)).await, 0);
    }
    assert_eq!(site.stored().await.len(), 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pubacks_of_a_burst_come_in_order() {
    let site = Site::with(1).await;
    let mut client = Client::connected(&site, &site.devices[0], V5).await;
    let burst: Vec<u8> = (1..=100u16)
        .flat_map(|id| {
            let topic = if id % 10 == 0 { "acme/MU-000002/telemetry/x" } else { TELEMETRY };
            publish(V5, 1, id, topic, &batch(id.into()))
        })
        .collect();
    client.send(&burst).await;
    for id in 1..=100u16 {
        let puback = client.packet().await.unwrap();
        assert_eq!((puback[0], &puback[2..4]), (0x40, &id.to_be_bytes()[..]));
        assert_eq!(code_in(&puback), (id % 10 == 0).then_some(Code::TopicNotIts));
    }
    assert_eq!(site.stored().await.len(), 90);
    let refusals = site.detail(0).await.refusals;
    assert_eq!(
        refusals.iter().map(|row| (row.code, row.count)).collect::<Vec<_>>(),
        [(Code::TopicNotIts, 10)]
    );
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_the_device_is_acknowledged_by_it() {
    let site = Site::with(1).await;
    let request = || Downlink::direct("acme/MU-000001/command/7/request".into(), "reboot".into(), 1);
    let deliver = || site.roster.deliver(site.key(0), request());
    assert_eq!(deliver().await, Err(DeliverError::Offline));
    let mut client = Client::connected(&site, &site.devices[0], V5).await;
    assert_eq!(deliver().await, Err(DeliverError::NotSubscribed));
    assert_eq!(client.subscribe("acme/MU-000001/command/+/request").await, 1);
    assert_eq!(site.roster.is_online(site.key(0)).unwrap().subscriptions, 1);
    let waiting = tokio::spawn(deliver());
    let packet = client.packet().await.unwrap();
    assert_eq!(packet, publish(V5, 1, 1, "acme/MU-000001/command/7/request", b"reboot"));
    assert!(!waiting.is_finished(), "not delivered before PUBACK");
    client.send(&[0x40, 2, 0, 1]).await;
    assert_eq!(waiting.await.unwrap(), Ok(Delivered::Acknowledged));
    // More than the device may have in flight waits, and comes as it acknowledges.
    let many: Vec<_> = (0..50).map(|_| tokio::spawn(deliver())).collect();
    for _ in 0..50 {
        let packet = client.packet().await.unwrap();
        let at = 4 + "acme/MU-000001/command/7/request".len();
        client.send(&[0x40, 2, packet[at], packet[at + 1]]).await;
    }
    for one in many {
        assert_eq!(one.await.unwrap(), Ok(Delivered::Acknowledged));
    }
    let lost = tokio::spawn(deliver());
    client.packet().await.unwrap();
    drop(client);
    assert_eq!(lost.await.unwrap(), Err(DeliverError::Ended));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_takes_over_and_it_is_recorded() {
    for version in [V3, V5] {
        let site = Site::with(1).await;
        let mut first = Client::connected(&site, &site.devices[0], version).await;
        let mut second = Client::connected(&site, &site.devices[0], version).await;
        if version == V5 {
            let said = first.packet().await.unwrap();
            assert_eq!((said[0], said[2], code_in(&said)), (0xe0, 0x8e, Some(Code::SessionTakenOver)));
        }
        assert_eq!(first.end().await, End::Clean);
        assert_eq!(second.publish(1, TELEMETRY, b"still here").await, 0);
        assert_eq!(site.roster.count(), 1);
        let sessions = site.detail(0).await.sessions;
        assert_eq!(sessions.len(), 2);
        assert_eq!(sessions[0].ended, None);
        assert_eq!(sessions[1].ended.map(|(_, why)| why), Some(DisconnectReason::SessionTakenOver));
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_takeovers_at_once_leave_one_session() {
    let site = std::sync::Arc::new(Site::with(1).await);
    let all: Vec<_> = (0..12)
        .map(|_| {
            let site = site.clone();
            tokio::spawn(async move { Client::connecting(&site, &site.devices[0], V5).await })
        })
        .collect();
    let mut clients = Vec::new();
    for one in all {
        clients.push(one.await.unwrap());
    }
    let said: Vec<_> = clients.iter().map(|(_, connack)| connack[3]).collect();
    assert_eq!(site.roster.count(), 1, "{said:02x?}");
    let mut answers = Vec::new();
    for (client, connack) in &mut clients {
        if connack[3] == 0 {
            client.send(&[0xc0, 0]).await;
            answers.push(client.packet().await);
        }
    }
    let alive = answers.iter().filter(|answer| answer.as_deref() == Ok(&[0xd0, 0])).count();
    assert_eq!(alive, 1, "{said:02x?}: {answers:02x?}");
    let sessions = site.detail(0).await.sessions;
    let open = sessions.iter().filter(|session| session.ended.is_none()).count();
    assert_eq!(open, 1, "{sessions:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_acknowledges_what_it_took_and_says_why_it_goes() {
    let mut site = Site::with(2).await;
    let mut client = Client::connected(&site, &site.devices[0], V5).await;
    let mut idle = Client::connected(&site, &site.devices[1], V3).await;
    let mut unfinished = Client::open(&site, tls_of(&site.devices[1]), V5).await.unwrap();
    let burst: Vec<u8> =
        (1..=100u16).flat_map(|id| publish(V5, 1, id, TELEMETRY, &batch(id.into()))).collect();
    client.send(&burst).await;
    let edge = site.edge.take().unwrap();
    let stop = tokio::spawn(edge.stop(Duration::from_secs(20)));
    let mut acked = 0;
    loop {
        match client.packet().await.unwrap() {
            packet if packet[0] == 0x40 => acked += 1,
            packet => {
                assert_eq!(
                    (packet[0], packet[2], code_in(&packet)),
                    (0xe0, 0x8b, Some(Code::ServerStopping))
                );
                break;
            }
        }
    }
    assert_eq!(client.end().await, End::Clean);
    assert_eq!(idle.end().await, End::Clean);
    unfinished.send(&crate::client::connect(V5, "")).await;
    if let Ok(connack) = unfinished.packet().await {
        assert_eq!(connack[3], 0x8b, "whoever comes late is told so");
    }
    stop.await.unwrap();
    assert!(tokio::net::TcpStream::connect(site.addr).await.is_err(), "nobody listens any more");
    assert_eq!(site.stored().await.len(), acked, "every message it took, and no other, is acknowledged");
    let ended = site.detail(0).await.sessions[0].ended.map(|(_, why)| why);
    assert_eq!(ended, Some(DisconnectReason::ServerShutdown));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_stored_when_the_connection_breaks_and_not_when_it_is_closed() {
    let site = Site::with(1).await;
    let will = connect_with(
        V5,
        0b0000_1110,
        60,
        &[&text(""), &[0], &text("acme/MU-000001/app/will"), &text("gone")],
    );
    for (goodbye, stored) in [(Some([0xe0, 0]), 0), (None, 1)] {
        let mut client = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
        client.send(&will).await;
        assert_eq!(client.packet().await.unwrap()[3], 0);
        if let Some(goodbye) = goodbye {
            client.send(&goodbye).await;
            assert_eq!(client.end().await, End::Clean);
        }
        drop(client);
        while site.roster.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Behind the will in the log, where there is one.
        let mut client = Client::connected(&site, &site.devices[0], V5).await;
        assert_eq!(client.publish(1, "acme/MU-000001/app/mark", b"").await, 0);
        client.send(&[0xe0, 0]).await;
        assert_eq!(client.end().await, End::Clean);
        let wills = site.stored().await.iter().filter(|m| m.topic.ends_with(b"/will")).count();
        assert_eq!(wills, stored);
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_broker_certificate_is_shown_to_new_connections_and_live_ones_stay() {
    let site = Site::with(2).await;
    let shown = |client: &Client| client.server_leaf();
    let mut before = Client::connected(&site, &site.devices[0], V5).await;
    let renewed = broker();
    let leaf = renewed.chain[0].to_vec();
    site.edge.as_ref().unwrap().present(renewed).unwrap();
    let after = Client::connected(&site, &site.devices[1], V5).await;
    assert_eq!(shown(&after), leaf);
    assert_ne!(shown(&before), leaf);
    assert_eq!(before.publish(1, TELEMETRY, b"still here").await, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_too_fast_is_slowed_and_loses_nothing() {
    let limits = muster_server::edge::Limits { messages_per_s: 20, ..Default::default() };
    let site = Site::limited(1, limits).await;
    let mut client = Client::connected(&site, &site.devices[0], V5).await;
    let started = std::time::Instant::now();
    for id in 1..=230u16 {
        assert_eq!(client.publish(id, TELEMETRY, &batch(id.into())).await, 0);
    }
    assert!(started.elapsed() >= Duration::from_millis(1400), "200 at once, then 20 a second");
    assert_eq!(site.stored().await.len(), 230);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_change_its_keys() {
    let site = Site::with(1).await;
    let mut client = Client::connected(&site, &site.devices[0], V5).await;
    for id in 1..=5 {
        client.update_keys();
        assert_eq!(client.publish(id, TELEMETRY, b"x").await, 0);
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_back_proves_itself_again() {
    let site = Site::with(1).await;
    // One configuration: a client library that was given a ticket would use it.
    let config = tls_of(&site.devices[0]);
    for _ in 0..3 {
        let mut client = Client::open(&site, config.clone(), V5).await.unwrap();
        assert_eq!(client.let_in().await, 0);
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
    site.stop().await;
}

//! What must not outlive a decision about a device.

use std::sync::Arc;

use muster_server::registry::Act;
use muster_shared::Code;
use rustls::{HandshakeKind, client::Resumption};

use crate::{
    client::{Client, End, V5, code_in, connect_with, packet, text, tls_of},
    siege::{Siege, withstands},
};

/// The device leaves and is revoked.
async fn gone(siege: &Siege, round: usize, mut client: Client, act: Act) {
    client.send(&[0xe0, 0]).await;
    assert_eq!(client.end().await, End::Clean);
    siege.site.decide(round + 1, act).await.unwrap().enforced().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_after_revoke() {
    withstands(async |siege, round| {
        let mut client = siege.connected(round).await;
        let own = siege.own(round);
        client.send(&packet(0x33, &[&text(&own), &[0, 1, 0], b"kept"])).await;
        assert_eq!(client.packet().await.unwrap()[..2], [0x40, 2]);
        let mut watch = siege.watch().await;
        assert_eq!(watch.subscribe(&own).await, 1);
        assert!(watch.packet().await.unwrap().ends_with(b"kept"));
        drop(watch);
        gone(siege, round, client, Act::Revoke).await;
        let mut watch = siege.watch().await;
        assert_eq!(watch.subscribe(&own).await, 1);
        watch.send(&[0xc0, 0]).await;
        assert_eq!(watch.packet().await.unwrap(), [0xd0, 0], "nothing is kept of it");
    })
    .await;
}

/// CONNECT that goes on with a session and keeps it for an hour.
fn durable() -> Vec<u8> {
    let expiry = [0x11, 0, 0, 14, 16];
    let head = [&[0, 4][..], b"MQTT", &[5, 0, 0, 60, expiry.len() as u8], &expiry].concat();
    packet(0x10, &[&head, &text("")])
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_or_session_surviving_revoke() {
    withstands(async |siege, round| {
        let own = siege.own(round);
        let mut client = siege.open(round).await;
        client.send(&durable()).await;
        assert_eq!(client.packet().await.unwrap()[2..4], [0, 0]);
        assert_eq!(client.subscribe(&own).await, 1);
        client.send(&[0xe0, 0]).await;
        assert_eq!(client.end().await, End::Clean);
        let mut watch = siege.watch().await;
        assert_eq!(watch.publish(1, &own, b"waits").await & 0x80, 0);
        // Suspended and let in again: the one decision that can be taken back shows what was purged.
        siege.site.decide(round + 1, Act::Suspend).await.unwrap().enforced().await.unwrap();
        siege.site.decide(round + 1, Act::Resume).await.unwrap();
        let mut client = siege.open(round).await;
        client.send(&durable()).await;
        assert_eq!(client.packet().await.unwrap()[2..4], [0, 0], "no session present");
        assert_eq!(watch.publish(2, &own, b"later").await & 0x80, 0);
        client.send(&[0xc0, 0]).await;
        assert_eq!(client.packet().await.unwrap(), [0xd0, 0], "no queue, no subscription");
        gone(siege, round, client, Act::Revoke).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resumption_after_revoke() {
    withstands(async |siege, round| {
        let mut config = tls_of(siege.attacker(round)).as_ref().clone();
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        for _ in 0..3 {
            let mut client = Client::open(&siege.site, Arc::clone(&config), V5).await.unwrap();
            client.send(&connect_with(V5, 0b10, 60, &[&text("")])).await;
            assert_eq!(client.packet().await.unwrap()[3], 0);
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full), "no ticket is given out");
            client.send(&[0xe0, 0]).await;
            assert_eq!(client.end().await, End::Clean);
        }
        siege.site.decide(round + 1, Act::Revoke).await.unwrap().enforced().await.unwrap();
        let mut client = Client::open(&siege.site, Arc::clone(&config), V5).await.unwrap();
        client.send(&connect_with(V5, 0b10, 60, &[&text("")])).await;
        let connack = client.packet().await.unwrap();
        assert_eq!(code_in(&connack), Some(Code::CertificateRevoked));
        assert_eq!(client.end().await, End::Clean);
    })
    .await;
}

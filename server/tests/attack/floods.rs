//! Too much, too slow, too often.

use std::{sync::Arc, time::Duration};

use muster_server::{edge::Limits, registry::DisconnectReason};
use muster_shared::Code;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    client::{Client, End, V5, connect, packet, publish, text, tls_of},
    siege::{withstands, withstands_with},
    site::PATIENCE,
};

#[tokio::test(flavor = "multi_thread")]
async fn unacknowledged_qos_2_flood() {
    withstands(async |siege, round| {
        let mut client = siege.connected(round).await;
        let own = siege.own(round);
        let all: Vec<u8> =
            (1..=5000_u16).flat_map(|id| publish(V5, 2, id, &own, b"never released")).collect();
        client.send(&all).await;
        let mut taken = 0;
        let said = loop {
            match client.packet().await.unwrap() {
                pubrec if pubrec[0] == 0x50 => taken += 1,
                said => break said,
            }
        };
        assert_eq!((said[0], said[2]), (0xe0, 0x93), "{said:02x?}");
        assert!(taken <= 200, "{taken} at once");
        assert_eq!(client.end().await, End::Clean);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn byte_a_second_handshake() {
    let limits = Limits { handshake: Duration::from_secs(3), ..Limits::default() };
    withstands_with(limits, async |siege, _| {
        let mut all = JoinSet::new();
        for _ in 0..200 {
            let addr = siege.site.addr;
            all.spawn(async move {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                // A record of 16 KiB, begun.
                for octet in [0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc].iter().cycle() {
                    if stream.write_all(&[*octet]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_secs(1)).await;
                }
            });
        }
        timeout(PATIENCE, all.join_all()).await.expect("each is cut off");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshake_storm() {
    withstands(async |siege, round| {
        let mut all = JoinSet::new();
        let config = tls_of(siege.attacker(round));
        for n in 0..150 {
            let (site, config) = (Arc::clone(&siege.site), Arc::clone(&config));
            all.spawn(async move {
                // Some finish, some go away in the middle.
                match n % 3 {
                    0 => drop(Client::open(&site, config, V5).await),
                    1 => {
                        let mut stream = TcpStream::connect(site.addr).await.unwrap();
                        let _ = stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await;
                    }
                    _ => drop(TcpStream::connect(site.addr).await),
                }
            });
        }
        all.join_all().await;
        // Whoever comes behind it is served.
        let _client = siege.connected(round).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_window_reader() {
    withstands(async |siege, round| {
        let own = siege.own(round);
        let mut deaf = siege.connected(round).await;
        assert_eq!(deaf.subscribe(&own).await, 1);
        // Large messages to who reads nothing: until the server has enough of it, and at least as many as
        // it keeps in memory for everybody (16 MiB), which are not the attack's to give back.
        let mut watch = siege.watch().await;
        let payload = vec![7; 60_000];
        let until = Instant::now() + PATIENCE;
        let key = siege.site.key(round + 1);
        let mut sent = 0;
        while sent < 300 || siege.site.roster.is_online(key).is_some() {
            assert!(Instant::now() < until, "a reader that does not read is kept");
            watch.send(&publish(V5, 0, 0, &own, &payload)).await;
            watch.send(&[0xc0, 0]).await;
            assert_eq!(watch.packet().await.unwrap(), [0xd0, 0]);
            sent += 1;
        }
        let detail = siege.site.detail(round + 1).await;
        assert_eq!(detail.sessions[0].ended.map(|(_, why)| why), Some(DisconnectReason::Throttled));
        let codes: Vec<_> = detail.refusals.iter().map(|row| row.code).collect();
        assert_eq!(codes, [Code::ReaderTooSlow], "what is wrong with it, on its record");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn takeover_flapping() {
    withstands(async |siege, round| {
        // Two holders of one identity, each coming back as often as it is thrown out.
        let mut seats = Vec::new();
        let mut let_in = 0;
        for _ in 0..30 {
            let mut client = siege.open(round).await;
            client.send(&connect(V5, "")).await;
            let Ok(connack) = client.packet().await else { continue };
            let_in += usize::from(connack[3] == 0);
            seats.push(client);
        }
        assert!((1..=10).contains(&let_in), "{let_in} of 30: there is an end to it");
        let sessions = siege.site.detail(round + 1).await.sessions.len();
        assert!(sessions <= let_in, "{sessions}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_without_end() {
    withstands(async |siege, round| {
        let mut client = siege.connected(round).await;
        let mut granted = 0;
        for n in 0..300 {
            let filter = format!("acme/{}/app/{n}", siege.name(round));
            client.send(&packet(0x82, &[&[0, 9, 0], &text(&filter), &[1]])).await;
            let suback = client.packet().await.unwrap();
            let code = *suback.last().unwrap();
            assert!(code == 1 || code == 0x97, "{suback:02x?}");
            granted += usize::from(code == 1);
        }
        assert!((1..300).contains(&granted), "{granted}");
    })
    .await;
}

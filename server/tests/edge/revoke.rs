//! Decisions against live sessions.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use muster_server::registry::{Act, DisconnectReason};
use muster_shared::Code;
use rustls::AlertDescription;

use crate::{
    client::{Client, End, V3, V5, code_in, connect_with, publish, text, tls_of},
    site::{Site, now_s},
};

const TELEMETRY: &str = "acme/MU-000001/telemetry/climate";

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_ends_the_live_session_and_says_why() {
    for (act, why, code) in [
        (Act::Suspend, DisconnectReason::DeviceSuspended, Code::DeviceSuspended),
        (Act::Quarantine, DisconnectReason::DeviceQuarantined, Code::DeviceQuarantined),
        (Act::Revoke, DisconnectReason::CertificateRevoked, Code::CertificateRevoked),
    ] {
        let site = Site::with(1).await;
        let will = connect_with(
            V5,
            0b0000_1110,
            60,
            &[&text(""), &[0], &text("acme/MU-000001/app/will"), &text("gone")],
        );
        let mut client = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
        client.send(&will).await;
        assert_eq!(client.packet().await.unwrap()[3], 0);
        let enforced = site.decide(0, act).await.unwrap().enforced().await.unwrap().unwrap();
        assert_eq!(enforced.closed_sessions, 1);
        assert_eq!(site.roster.count(), 0, "the wait ends when the session has");
        let said = client.packet().await.unwrap();
        assert_eq!((said[0], said[2], code_in(&said)), (0xe0, 0x98, Some(code)));
        assert_eq!(client.end().await, End::Clean);
        let (_, connack) = Client::connecting(&site, &site.devices[0], V5).await;
        assert_eq!(code_in(&connack), Some(code));
        assert_eq!(site.detail(0).await.sessions[0].ended.map(|(_, why)| why), Some(why));
        assert_eq!(site.stored().await, [], "a kicked session takes its will along");
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_session_ends_with_its_certificate() {
    let not_after_s = now_s() + 4;
    let site = Site::ending(not_after_s).await;
    let mut client = Client::connected(&site, &site.devices[0], V5).await;
    assert_eq!(client.publish(1, TELEMETRY, b"in time").await, 0);
    let said = client.packet().await.unwrap();
    assert!(now_s() > not_after_s, "not a second early");
    assert_eq!((said[0], said[2], code_in(&said)), (0xe0, 0x98, Some(Code::CertificateExpired)));
    assert_eq!(client.end().await, End::Clean);
    let ended = site.detail(0).await.sessions[0].ended.map(|(_, why)| why);
    assert_eq!(ended, Some(DisconnectReason::CertificateExpired));
    let again = Client::open(&site, tls_of(&site.devices[0]), V5).await;
    let end = match again {
        Ok(mut client) => client.end().await,
        Err(error) => crate::client::end(&error),
    };
    assert_eq!(end, End::Alert(AlertDescription::CertificateExpired));
    assert_eq!(site.stored().await.len(), 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_after_the_decision_is_enforced() {
    for version in [V3, V5] {
        let site = Arc::new(Site::with(1).await);
        let mut client = Client::connected(&site, &site.devices[0], version).await;
        let decided = Arc::new(AtomicBool::new(false));
        let publisher = tokio::spawn({
            let decided = decided.clone();
            async move {
                let mut accepted_late = 0;
                for id in 1..=u16::MAX {
                    let late = decided.load(Ordering::SeqCst);
                    client.send(&publish(version, 1, id, TELEMETRY, &id.to_be_bytes())).await;
                    match client.packet().await {
                        Ok(packet)
                            if packet[0] == 0x40 && packet.get(4).is_none_or(|reason| *reason < 0x80) =>
                        {
                            accepted_late += usize::from(late);
                        }
                        _ => break,
                    }
                }
                accepted_late
            }
        });
        while site.stored().await.len() < 20 {
            tokio::task::yield_now().await;
        }
        let answer = site.decide(0, Act::Revoke).await.unwrap();
        decided.store(true, Ordering::SeqCst);
        let held = site.stored().await.len();
        answer.enforced().await.unwrap();
        assert_eq!(publisher.await.unwrap(), 0);
        assert_eq!(site.stored().await.len(), held, "not one more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_while_the_decision_falls_leaves_no_session_behind() {
    let site = Arc::new(Site::with(20).await);
    let racers: Vec<_> = (0..20)
        .map(|device| {
            let site = site.clone();
            tokio::spawn(async move {
                let connecting = Client::connecting(&site, &site.devices[device], V5);
                let deciding = async {
                    site.decide(device, Act::Suspend).await.unwrap().enforced().await.unwrap();
                };
                let ((mut client, connack), ()) = tokio::join!(connecting, deciding);
                if connack[3] == 0 {
                    let said = client.packet().await.unwrap();
                    assert_eq!((said[0], said[2]), (0xe0, 0x98));
                } else {
                    assert_eq!(code_in(&connack), Some(Code::DeviceSuspended));
                }
                assert_eq!(client.end().await, End::Clean);
            })
        })
        .collect();
    for racer in racers {
        racer.await.unwrap();
    }
    assert_eq!(site.roster.count(), 0);
}

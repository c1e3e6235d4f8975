//! Decisions against live sessions.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use muster_server::{
    registry::{Act, DisconnectReason},
    uplink::Position,
};
use muster_shared::Code;
use rustls::AlertDescription;
use tokio::task::JoinSet;

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

/// Devices that are decided about while they publish, so many at a time.
const DEVICES: usize = 300;
const AT_A_TIME: usize = 8;

/// Publishes over its own socket until it is ended; the decision falls some messages later. Where the log
/// ended when the decision was answered.
async fn decided_while_it_publishes(site: &Site, device: usize) -> Position {
    let version = if device.is_multiple_of(2) { V3 } else { V5 };
    let mut client = Client::connected(site, &site.devices[device], version).await;
    let (decided, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let publishing = async {
        let topic = format!("acme/MU-{:06}/telemetry/climate", device + 1);
        for id in 1..=u16::MAX {
            let late = decided.load(Ordering::SeqCst);
            client.send(&publish(version, 1, id, &topic, &id.to_be_bytes())).await;
            match client.packet().await {
                Ok(packet) if packet[0] == 0x40 && packet.get(4).is_none_or(|reason| *reason < 0x80) => {
                    assert!(!late, "device {device}: acknowledged after the answer");
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                _ => return,
            }
        }
    };
    let deciding = async {
        while acknowledged.load(Ordering::SeqCst) < 1 + device % 17 {
            tokio::task::yield_now().await;
        }
        let act = if device.is_multiple_of(3) { Act::Suspend } else { Act::Revoke };
        let answer = site.decide(device, act).await.unwrap();
        let end = site.uplink.position();
        decided.store(true, Ordering::SeqCst);
        answer.enforced().await.unwrap();
        end
    };
    tokio::join!(publishing, deciding).1
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_after_the_decision_was_answered() {
    let site = Arc::new(Site::with(DEVICES).await);
    let (mut running, mut ends) = (JoinSet::new(), BTreeMap::new());
    for device in 0..DEVICES {
        if running.len() >= AT_A_TIME {
            ends.extend(running.join_next().await.map(Result::unwrap));
        }
        let site = Arc::clone(&site);
        running.spawn(async move { (device, decided_while_it_publishes(&site, device).await) });
    }
    ends.extend(running.join_all().await);
    assert_eq!(ends.len(), DEVICES);
    let mut stored = 0;
    for (position, message) in site.positions().await {
        let Some((_, id)) = message.device() else { continue };
        let device = id.as_str().trim_start_matches("MU-").parse::<usize>().unwrap() - 1;
        assert!(position <= ends[&device], "device {device}: one more behind the answer");
        stored += 1;
    }
    assert!(stored > DEVICES, "{stored}");
    assert_eq!(site.roster.count(), 0);
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

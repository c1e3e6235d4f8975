//! Services at the door: who is let through the handshake, and what CONNACK says.

use std::sync::Arc;

use muster_pki::testing::{self, Credential};
use muster_server::edge::{Service, Trust};
use muster_shared::Code;
use rustls::AlertDescription;

use crate::{
    client::{Client, End, V3, V5, code_in, connect, end, packet, text, tls_of},
    site::{HIERARCHY, Site, now_s},
};

const DAY_S: i64 = 86_400;

fn service(name: &str) -> Arc<Service> {
    Arc::new(Service::new(name.parse().unwrap(), None, ["#"], ["#"]).unwrap())
}

fn of(name: &str) -> Credential {
    testing::named(&HIERARCHY.service, name, now_s())
}

/// How the connection ends for who shows this.
async fn ends(site: &Site, credential: &Credential) -> End {
    match Client::open(site, tls_of(credential), V5).await {
        Ok(mut client) => {
            client.send(&connect(V5, "x")).await;
            client.end().await
        }
        Err(error) => end(&error),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_nobody_configured_is_told_so() {
    let trust = Trust::default().services(HIERARCHY.service.certificate(), [service("historian")], []);
    let site = Site::trusting(1, trust).await;
    let (mut v5, connack) = Client::connecting(&site, &of("planner"), V5).await;
    assert_eq!((connack[3], code_in(&connack)), (0x87, Some(Code::ServiceUnknown)), "{connack:02x?}");
    assert_eq!(v5.end().await, End::Clean);
    let (mut v3, connack) = Client::connecting(&site, &of("planner"), V3).await;
    assert_eq!(connack[3], 5, "not authorised (3.1.1 §3.2.2.3)");
    assert_eq!(v3.end().await, End::Clean);
    assert_eq!(site.roster.count(), 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_certificate_of_a_service_is_told_so() {
    let withdrawn = of("historian");
    let id = muster_pki::ServiceIdentity::from_certificate(&withdrawn.chain[0]).unwrap().id;
    let trust = Trust::default().services(HIERARCHY.service.certificate(), [service("historian")], [id]);
    let site = Site::trusting(1, trust).await;
    let (mut client, connack) = Client::connecting(&site, &withdrawn, V5).await;
    assert_eq!(code_in(&connack), Some(Code::CertificateRevoked), "{connack:02x?}");
    assert!(connack[3] >= 0x80);
    assert_eq!(client.end().await, End::Clean);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_another_authority_or_time_gets_its_alert() {
    // An authority that has been there for a while: its first services have ended.
    let old = testing::hierarchy(now_s() - 200 * DAY_S);
    let trust = Trust::default().services(old.service.certificate(), [service("historian")], []);
    let site = Site::trusting(1, trust).await;
    let named = |made_s: i64| testing::named(&old.service, "historian", made_s);
    for (what, who, alert) in [
        ("another house", of("historian"), AlertDescription::UnknownCA),
        ("a person", testing::named(&old.operator, "historian", now_s()), AlertDescription::UnknownCA),
        ("ended", named(now_s() - 91 * DAY_S), AlertDescription::CertificateExpired),
        ("to come", named(now_s() + DAY_S), AlertDescription::CertificateExpired),
    ] {
        assert_eq!(ends(&site, &who).await, End::Alert(alert), "{what}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_service_authority_there_are_no_services() {
    let site = Site::with(1).await;
    assert_eq!(ends(&site, &of("historian")).await, End::Alert(AlertDescription::UnknownCA));
    drop(Client::connected(&site, &site.devices[0], V5).await);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_reads_slowly_gets_everything_at_qos_0() {
    let trust = Trust::default().services(HIERARCHY.service.certificate(), [service("historian")], []);
    let site = Site::trusting(1, trust).await;
    let (mut slow, connack) = Client::connecting(&site, &of("historian"), V3).await;
    assert_eq!(connack, [0x20, 2, 0, 0]);
    slow.send(&packet(0x82, &[&[0, 1], &text("acme/+/app/#"), &[0]])).await;
    assert_eq!(slow.packet().await.unwrap()[0], 0x90);
    let mut device = Client::connected(&site, &site.devices[0], V3).await;
    // Far more than the sockets between hold.
    let payload = vec![7; 32 * 1024];
    for id in 1..=400 {
        assert_eq!(device.publish(id, "acme/MU-000001/app/blob", &payload).await, 0);
    }
    for n in 1..=400 {
        let got = slow.packet().await.unwrap();
        assert_eq!((got[0], got.len() > payload.len()), (0x30, true), "message {n}");
    }
    site.stop().await;
}

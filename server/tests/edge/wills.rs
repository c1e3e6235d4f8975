//! Wills that wait for their delay while the server is not there: each is authorised when it is due, by what is
//! true then.

use std::{sync::Arc, time::Duration};

use muster_pki::{
    ServiceIdentity,
    testing::{self, Credential},
};
use muster_server::{
    edge::{Limits, Service, Trust},
    registry::{Act, Group},
};

use crate::{
    client::{Client, V5, packet, text, tls_of},
    site::{HIERARCHY, PATIENCE, Site, now_s},
};

/// Longer than it takes to stop a server.
const DELAY_S: u8 = 5;

fn entry(name: &str, publish: &str) -> Arc<Service> {
    Arc::new(Service::new(name.parse().unwrap(), None, [publish], ["#"]).unwrap())
}

fn of(name: &str) -> Credential {
    testing::named(&HIERARCHY.service, name, now_s())
}

fn certificate(credential: &Credential) -> muster_shared::CertificateId {
    ServiceIdentity::from_certificate(&credential.chain[0]).unwrap().id
}

/// Connects with a will that waits, and is gone without a goodbye. `id`: its client id.
async fn lost(site: &Site, credential: &Credential, id: &str, topic: &str) {
    let session = [5, 0x11, 0, 0, 0x0e, 0x10];
    let delay = [5, 0x18, 0, 0, 0, DELAY_S];
    let head = [&[0, 4][..], b"MQTT", &[5, 0b0000_1110, 0, 60]].concat();
    let mut client = Client::open(site, tls_of(credential), V5).await.unwrap();
    let connect = packet(0x10, &[&head, &session, &text(id), &delay, &text(topic), &text("gone")]);
    client.send(&connect).await;
    let connack = client.packet().await.unwrap();
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
}

/// Stopped until every will's time is over, and started again with these.
async fn restarted_late(site: Site, trust: Trust) -> Site {
    assert!(site.stored().await.is_empty(), "the server has stopped in time");
    let (dir, devices) = site.shut().await;
    tokio::time::sleep(Duration::from_secs(u64::from(DELAY_S) + 1)).await;
    let mut site = Site::on(dir, 0, Limits::default(), trust).await;
    site.devices = devices;
    site
}

/// The topics on which something was published, when `last` is among them.
async fn published(site: &Site, last: &str) -> Vec<String> {
    let topics = async || -> Vec<String> {
        let stored = site.stored().await;
        stored.iter().map(|one| String::from_utf8(one.topic.to_vec()).unwrap()).collect()
    };
    let wait = async {
        while !topics().await.iter().any(|topic| topic == last) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the will that may be published is");
    // What was due with it came with it, or not at all: all are looked for in one go, four times a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut topics = topics().await;
    topics.sort();
    topics
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_of_a_service_that_lost_its_right_is_not_published_after_a_restart() {
    let names = ["keeper", "removed", "narrowed", "withdrawn", "revoked"];
    let ca = HIERARCHY.service.certificate();
    let trust = Trust::default().services(ca, names.map(|name| entry(name, "#")), []);
    let site = Site::trusting(1, trust).await;
    let credentials = names.map(of);
    for (name, credential) in names.iter().zip(&credentials) {
        lost(&site, credential, name, &format!("wills/{name}")).await;
    }
    let revoked = Group::Certificate(certificate(&credentials[4]));
    site.decide_group(&revoked, Act::Revoke).await.unwrap().enforced().await.unwrap();
    let entries =
        [entry("keeper", "#"), entry("narrowed", "other/#"), entry("withdrawn", "#"), entry("revoked", "#")];
    let trust = Trust::default().services(ca, entries, [certificate(&credentials[3])]);
    let site = restarted_late(site, trust).await;
    assert_eq!(published(&site, "wills/keeper").await, ["wills/keeper"]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_of_a_withdrawn_authoritys_service_is_not_published_after_a_restart() {
    let ca = HIERARCHY.service.certificate();
    let trust = Trust::default().services(ca, [entry("historian", "#")], []);
    let site = Site::trusting(2, trust.clone()).await;
    lost(&site, &of("historian"), "one", "wills/historian").await;
    lost(&site, &site.devices[0], "", "acme/MU-000001/app/will").await;
    lost(&site, &site.devices[1], "", "acme/MU-000002/app/will").await;
    let ca = Group::Ca(ca.key_id());
    site.decide_group(&ca, Act::Revoke).await.unwrap().enforced().await.unwrap();
    site.decide(1, Act::Suspend).await.unwrap().enforced().await.unwrap();
    let site = restarted_late(site, trust).await;
    let last = "acme/MU-000001/app/will";
    assert_eq!(published(&site, last).await, [last], "the device's that may talk, and no other");
    site.stop().await;
}

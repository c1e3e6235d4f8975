//! Who is not let in, and what each is told.

use std::collections::BTreeMap;

use muster_pki::testing::{self, OddDevice, Refused};
use muster_server::{
    edge::{Trust, Verify},
    registry::{Act, DisconnectReason},
};
use muster_shared::Code;
use rustls::{AlertDescription, ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::CertificateDer;

use crate::{
    client::{Client, End, V3, V5, code_in, connect, connect_with, publish, text, tls, tls_of},
    site::{HIERARCHY, PATIENCE, Site, now_s, unknown},
};

/// Connects and says CONNECT; how the connection ends.
async fn handshake(site: &Site, config: std::sync::Arc<ClientConfig>) -> End {
    match Client::open(site, config, V5).await {
        Ok(mut client) => {
            client.send(&connect(V5, "")).await;
            client.end().await
        }
        Err(error) => crate::client::end(&error),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_odd_certificate_gets_its_alert() {
    for verify in [Verify::Pinned, Verify::Chain] {
        every_odd_certificate(Site::trusting(1, Trust::new(verify)).await).await;
    }
}

async fn every_odd_certificate(site: Site) {
    let subject = testing::subject("MU-000500");
    for odd in OddDevice::ALL.iter().filter(|odd| odd.refused_by() != Refused::Tenant) {
        let made = odd.make(&HIERARCHY, &subject, now_s());
        let end = handshake(&site, tls(&made.chain[..1], made.key_pkcs8)).await;
        let expected = match odd.refused_by() {
            // The last two are operational certificates the registry never issued.
            Refused::Issuer | Refused::Time => AlertDescription::UnknownCA,
            // A key that fits no signature we take is not shown at all.
            _ if *odd == OddDevice::OtherCurve => AlertDescription::CertificateRequired,
            Refused::Profile => AlertDescription::BadCertificate,
            Refused::Tenant => unreachable!("told in CONNACK, below"),
        };
        assert_eq!(end, End::Alert(expected), "{odd:?}");
    }
    assert_eq!(site.roster.count(), 0);
    drop(Client::connected(&site, &site.devices[0], V5).await);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_registered_factory_is_refused_outside_its_time() {
    let site = Site::with(1).await;
    let factory = &HIERARCHY.stations[0].factory;
    let day = 86_400;
    let early = testing::device_with(factory, &testing::subject("MU-000501"), testing::key(), now_s() + day);
    let end = handshake(&site, tls_of(&early)).await;
    assert_eq!(
        end,
        End::Alert(AlertDescription::CertificateExpired),
        "\"or is not currently valid\" (RFC 8446 §6.2)"
    );
    site.registry.facts().flush().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_a_client_sends_along_changes_nothing() {
    let site = Site::with(1).await;
    let odd = OddDevice::WrongRoot.make(&HIERARCHY, &testing::subject("MU-000001"), now_s());
    assert!(odd.chain.len() > 1);
    assert_eq!(
        handshake(&site, tls(&odd.chain, odd.key_pkcs8)).await,
        End::Alert(AlertDescription::UnknownCA)
    );
    let known = &site.devices[0];
    let mut client = Client::open(&site, tls(&known.chain, known.key_pkcs8()), V5).await.unwrap();
    client.send(&connect(V5, "")).await;
    assert_eq!(client.packet().await.unwrap()[3], 0, "issuer sent along");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_certificate_without_its_key_gets_nowhere() {
    let site = Site::with(1).await;
    let thief = unknown("MU-000099");
    let config = tls(&site.devices[0].chain[..1], thief.key_pkcs8());
    assert_eq!(handshake(&site, config).await, End::Alert(AlertDescription::DecryptError));
    assert_eq!(site.roster.count(), 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_and_old_tls_are_refused() {
    let site = Site::with(1).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(HIERARCHY.broker.certificate().der())).unwrap();
    let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    assert_eq!(handshake(&site, config.into()).await, End::Alert(AlertDescription::CertificateRequired));
    site.stop().await;
}

/// What CONNACK says to this device, in both versions.
async fn told(site: &Site, credential: &testing::Credential) -> Code {
    let (mut client, connack) = Client::connecting(site, credential, V3).await;
    assert_eq!(connack, [0x20, 2, 0, 5]);
    assert_eq!(client.end().await, End::Clean);
    let (mut client, connack) = Client::connecting(site, credential, V5).await;
    let code = code_in(&connack).expect("a reason string");
    assert_eq!(connack[3], code.entry().mqtt);
    assert_eq!(client.end().await, End::Clean);
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_may_not_talk_is_told_why() {
    let site = Site::with(4).await;
    for (device, act, code) in [
        (0, Act::Suspend, Code::DeviceSuspended),
        (1, Act::Quarantine, Code::DeviceQuarantined),
        (2, Act::Revoke, Code::CertificateRevoked),
    ] {
        site.decide(device, act).await.unwrap();
        assert_eq!(told(&site, &site.devices[device]).await, code);
        let refusals = site.detail(device).await.refusals;
        assert!(refusals.iter().all(|row| row.code == code));
        assert_eq!(refusals.iter().map(|row| row.count).sum::<u64>(), 2);
    }
    site.decide(2, Act::Decommission).await.unwrap();
    let code = told(&site, &site.devices[2]).await;
    assert!(matches!(code, Code::DeviceDecommissioned | Code::CertificateRevoked), "{code}");
    site.decide(0, Act::Resume).await.unwrap();
    let _back = Client::connected(&site, &site.devices[0], V5).await;
    assert_eq!(site.roster.list().len(), 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_of_a_registered_factory_are_told_what_is_missing() {
    let site = Site::with(1).await;
    assert_eq!(told(&site, &unknown("MU-000077")).await, Code::DeviceNotRegistered);
    assert_eq!(told(&site, &unknown("MU-000001")).await, Code::SerialTaken, "same serial, another key");
    let foreign = OddDevice::OtherTenant.make(&HIERARCHY, &testing::subject("MU-000078"), now_s());
    let mut client = Client::open(&site, tls(&foreign.chain[..1], foreign.key_pkcs8), V5).await.unwrap();
    client.send(&connect(V5, "")).await;
    assert_eq!(code_in(&client.packet().await.unwrap()), Some(Code::TenantForeign));
    let held: Vec<_> = site.detail(0).await.refusals.iter().map(|row| (row.code, row.count)).collect();
    assert_eq!(held, [(Code::SerialTaken, 2)], "an impostor is seen where the operator looks");
    // The one it claims to be is none the worse for it.
    Client::connected(&site, &site.devices[0], V5).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_client_ids_and_foreign_wills_are_refused() {
    let site = Site::with(2).await;
    let mut client = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
    client.send(&connect(V5, "MU-000002")).await;
    let connack = client.packet().await.unwrap();
    assert_eq!((connack[3], code_in(&connack)), (0x85, Some(Code::ClientIdForeign)));
    let mut client = Client::open(&site, tls_of(&site.devices[0]), V3).await.unwrap();
    client.send(&connect(V3, "MU-000002")).await;
    assert_eq!(client.packet().await.unwrap(), [0x20, 2, 0, 2]);
    let mut client = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
    let will = connect_with(V5, 0b110, 60, &[&text(""), &[0], &text("acme/MU-000002/app/x"), &text("boo")]);
    client.send(&will).await;
    let connack = client.packet().await.unwrap();
    assert_eq!((connack[3], code_in(&connack)), (0x87, Some(Code::TopicNotIts)));
    assert_eq!(site.roster.count(), 0);
    assert_eq!(site.stored().await, []);
    let codes: Vec<_> = site.detail(0).await.refusals.iter().map(|row| (row.code, row.count)).collect();
    assert!(
        codes.contains(&(Code::ClientIdForeign, 2)) && codes.contains(&(Code::TopicNotIts, 1)),
        "{codes:?}"
    );
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_topic_is_refused_with_a_reason_or_a_close() {
    let site = Site::with(2).await;
    let foreign = "acme/MU-000002/telemetry/x";
    let mut v5 = Client::connected(&site, &site.devices[0], V5).await;
    assert_eq!(v5.publish(1, foreign, b"x").await, 0x87);
    assert_eq!(v5.subscribe("acme/MU-000002/#").await, 0x87);
    assert_eq!(v5.subscribe("#").await, 0x87);
    assert_eq!(v5.publish(2, "acme/MU-000001/telemetry/x", b"x").await, 0, "and goes on");
    v5.send(&publish(V5, 0, 0, foreign, b"x")).await;
    let said = v5.packet().await.unwrap();
    assert_eq!((said[0], said[2], code_in(&said)), (0xe0, 0x87, Some(Code::TopicNotIts)));
    assert_eq!(v5.end().await, End::Clean);
    let mut v3 = Client::connected(&site, &site.devices[0], V3).await;
    v3.send(&publish(V3, 1, 1, foreign, b"x")).await;
    assert_eq!(v3.end().await, End::Clean);
    assert_eq!(site.stored().await.len(), 1);
    let ended = site.detail(0).await.sessions[0].ended.map(|(_, why)| why);
    assert_eq!(ended, Some(DisconnectReason::TopicRefused));
    site.stop().await;
}

/// Refusals on the first device's record, by code.
async fn counted(site: &Site) -> BTreeMap<&'static str, u64> {
    let mut counted = BTreeMap::new();
    for row in site.detail(0).await.refusals {
        *counted.entry(row.code.id()).or_default() += row.count;
    }
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_running_session_is_on_its_devices_record_with_its_code() {
    let site = Site::with(1).await;
    let foreign = "acme/MU-000002/telemetry/x";
    let flood: Vec<u8> = (1..=200).flat_map(|id| publish(V5, 2, id, "acme/MU-000001/app/x", b"x")).collect();
    let faults = [
        (V5, vec![0x36, 2, 0, 0], "M107"),
        (V3, vec![0x36, 2, 0, 0], "M107"),
        (V5, vec![0x30, 0xff, 0xff, 0xff, 0x7f], "M108"),
        (V5, connect(V5, ""), "M109"),
        (V5, publish(V5, 0, 0, foreign, b"x"), "M210"),
        (V3, publish(V3, 0, 0, foreign, b"x"), "M210"),
        (V3, publish(V3, 1, 1, foreign, b"x"), "M210"),
        (V5, flood, "M228"),
    ];
    let mut expected = BTreeMap::new();
    for (version, octets, code) in faults {
        let mut client = Client::connected(&site, &site.devices[0], version).await;
        client.send(&octets).await;
        while client.packet().await.is_ok() {}
        *expected.entry(code).or_default() += 1;
        assert_eq!(counted(&site).await, expected, "{octets:02x?}");
    }
    let page = site.registry.timeline(&site.devices[0].identity().serial, None, 100).await.unwrap();
    let mut lines: Vec<_> = page.items.iter().filter_map(|event| event.code).map(Code::id).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["M107", "M108", "M109", "M210", "M228"], "one line a code and day");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subscription_that_is_refused_is_on_its_devices_record() {
    let site = Site::with(1).await;
    for (version, said) in [(V5, [0x8f, 0x9e, 0x87, 0x97]), (V3, [0x80; 4])] {
        let mut client = Client::connected(&site, &site.devices[0], version).await;
        assert_eq!(client.subscribe("acme/MU-000001/app/a#").await, said[0]);
        assert_eq!(client.subscribe("$share/group/acme/MU-000001/app/#").await, said[1]);
        assert_eq!(client.subscribe("acme/MU-000002/#").await, said[2]);
        for n in 0..32 {
            assert_eq!(client.subscribe(&format!("acme/MU-000001/app/{n}")).await, 1);
        }
        assert_eq!(client.subscribe("acme/MU-000001/app/32").await, said[3]);
    }
    let expected = ["M210", "M223", "M224", "M225"].map(|code| (code, 2));
    assert_eq!(counted(&site).await, BTreeMap::from(expected));
    site.stop().await;
}

/// Waits until the first device's record has so many refusals of this code: the alert leaves before them.
async fn recorded(site: &Site, code: Code, count: u64) {
    let until = async {
        loop {
            let refusals = site.detail(0).await.refusals;
            // The minute may have changed between two of them.
            let of_code = refusals.iter().filter(|row| row.code == code);
            if of_code.map(|row| row.count).sum::<u64>() == count {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, until).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_alert_is_on_the_record_of_who_has_the_certificate() {
    let site = Site::ending(now_s() - 5).await;
    let expired = End::Alert(AlertDescription::CertificateExpired);
    assert_eq!(handshake(&site, tls_of(&site.devices[0])).await, expired);
    assert_eq!(handshake(&site, tls_of(&site.devices[0])).await, expired);
    recorded(&site, Code::CertificateExpired, 2).await;
    site.stop().await;
    let site = Site::with(1).await;
    let thief = unknown("MU-000099");
    let stolen = tls(&site.devices[0].chain[..1], thief.key_pkcs8());
    assert_eq!(handshake(&site, stolen).await, End::Alert(AlertDescription::DecryptError));
    let strange = OddDevice::WrongRoot.make(&HIERARCHY, &testing::subject("MU-000001"), now_s());
    let end = handshake(&site, tls(&strange.chain[..1], strange.key_pkcs8)).await;
    assert_eq!(end, End::Alert(AlertDescription::UnknownCA));
    recorded(&site, Code::KeyNotProven, 1).await;
    let held: Vec<_> = site.detail(0).await.refusals.iter().map(|row| row.code).collect();
    assert_eq!(held, [Code::KeyNotProven], "what only claims its name is not held against it");
    site.stop().await;
}

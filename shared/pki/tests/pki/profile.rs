//! Each profile, octet by octet where it matters, read by x509-parser and verified by webpki.

use muster_pki::{
    Ca, CaCertificate, DeviceIdentity, Profile, Purpose, ServiceIdentity,
    ca::CaError,
    lint::{self, Kind},
    profile::{BACKDATE_S, NO_END_S, ServerName},
    testing,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{der_parser::asn1_rs::Tag, oid_registry as oid, prelude::*};

use crate::NOW_S;

const DAY_S: i64 = 86_400;

fn read(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).expect("a certificate");
    assert!(rest.is_empty());
    certificate
}

fn extensions(certificate: &X509Certificate<'_>) -> Vec<(String, bool)> {
    certificate.extensions().iter().map(|e| (e.oid.to_id_string(), e.critical)).collect()
}

fn findings(der: &[u8], kind: Kind) -> Vec<String> {
    lint::certificate(der, kind).iter().map(ToString::to_string).collect()
}

#[test]
fn birth_certificate() {
    let hierarchy = testing::hierarchy(NOW_S);
    let device = testing::device(&hierarchy, &testing::subject("MU-000117"), NOW_S);
    let certificate = read(&device.chain[0]);
    assert_eq!(extensions(&certificate), [("2.5.29.35".into(), false), ("2.5.29.15".into(), true)]);
    assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
    assert_eq!(certificate.key_usage().unwrap().unwrap().value.flags, 1);
    assert_eq!(certificate.validity().not_after.timestamp(), NO_END_S);
    assert_eq!(certificate.validity().not_before.timestamp(), NOW_S - BACKDATE_S);
    // The octets of the end: GeneralizedTime, as RFC 5280 §4.1.2.5 spells "no well-defined end".
    assert!(device.chain[0].windows(17).any(|window| window == b"\x18\x0f99991231235959Z"));
    let attributes: Vec<_> = certificate.subject().iter_attributes().collect();
    let forms: Vec<_> = attributes.iter().map(|a| (a.attr_type().clone(), a.attr_value().tag())).collect();
    assert_eq!(
        forms,
        [
            (oid::OID_X509_ORGANIZATION_NAME, Tag::Utf8String),
            (oid::OID_X509_COMMON_NAME, Tag::Utf8String),
            (oid::OID_X509_SERIALNUMBER, Tag::PrintableString),
        ]
    );
    let values: Vec<_> = attributes.iter().map(|a| a.as_str().unwrap()).collect();
    assert_eq!(values, ["acme", "MU-000117", "MU-000117"]);
    assert_eq!(certificate.raw_serial().len(), 16);
    assert!(device.chain[0].len() < 700, "{} octets", device.chain[0].len());
    assert_eq!(findings(&device.chain[0], Kind::Leaf(Profile::Birth)), [""; 0]);

    let identity = device.identity();
    assert_eq!(identity.subject(), testing::subject("MU-000117"));
    assert_eq!(identity.profile, Profile::Birth);
    assert_eq!(identity.issuer_key_id, hierarchy.stations[0].factory.certificate().key_id());
    assert_eq!(identity.issuer_name, hierarchy.stations[0].factory.certificate().name_der());
    assert_eq!(identity.spki[..], *certificate.public_key().raw);
    assert_eq!(identity.not_after_s, NO_END_S);
}

#[test]
fn operational_certificate() {
    let hierarchy = testing::hierarchy(NOW_S);
    let device = testing::operational(&hierarchy, &testing::subject("MU-000117"), NOW_S);
    let certificate = read(&device.chain[0]);
    assert_eq!(
        extensions(&certificate),
        [("2.5.29.35".into(), false), ("2.5.29.15".into(), true), ("2.5.29.37".into(), false)]
    );
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert_eq!(certificate.validity().not_after.timestamp(), NOW_S + 90 * DAY_S);
    assert_eq!(device.identity().profile, Profile::Operational);
    assert_eq!(findings(&device.chain[0], Kind::Leaf(Profile::Operational)), [""; 0]);
}

#[test]
fn broker_certificate_lives_thirty_days_and_is_found_by_its_san() {
    let hierarchy = testing::hierarchy(NOW_S);
    let names: Vec<ServerName> =
        ["Localhost", "muster.local", "127.0.0.1", "::1"].map(|n| n.parse().unwrap()).into();
    let broker = testing::server(&hierarchy.broker, &names, NOW_S);
    let certificate = read(&broker.chain[0]);
    let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert_eq!(life, 30 * DAY_S);
    let san = certificate.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(
        san.general_names,
        [
            GeneralName::DNSName("localhost"),
            GeneralName::DNSName("muster.local"),
            GeneralName::IPAddress(&[127, 0, 0, 1]),
            GeneralName::IPAddress(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ]
    );
    assert_eq!(findings(&broker.chain[0], Kind::Leaf(Profile::Broker)), [""; 0]);
    assert!(DeviceIdentity::from_certificate(&broker.chain[0]).is_err(), "a broker is no device");
}

#[test]
fn other_leaves_fit_their_profiles() {
    let hierarchy = testing::hierarchy(NOW_S);
    for (ca, profile) in [(&hierarchy.service, Profile::Service), (&hierarchy.operator, Profile::Operator)] {
        let leaf = testing::named(ca, "ana", NOW_S);
        assert_eq!(findings(&leaf.chain[0], Kind::Leaf(profile)), [""; 0]);
    }
    let https = testing::server(&hierarchy.https, &["localhost".parse().unwrap()], NOW_S);
    assert_eq!(findings(&https.chain[0], Kind::Leaf(Profile::Https)), [""; 0]);
    for station in &hierarchy.stations {
        assert_eq!(findings(&station.manifest_certificate, Kind::Leaf(Profile::StationManifest)), [""; 0]);
        hierarchy.station.certificate().vouches_for(&station.manifest_certificate).unwrap();
    }
}

fn cas(hierarchy: &muster_pki::hierarchy::Hierarchy) -> Vec<&Ca> {
    let mut all = vec![
        &hierarchy.root,
        &hierarchy.station,
        &hierarchy.broker,
        &hierarchy.operational,
        &hierarchy.https,
        &hierarchy.service,
        &hierarchy.operator,
    ];
    all.extend(hierarchy.stations.iter().map(|station| &station.factory));
    all
}

#[test]
fn every_ca_has_one_purpose_and_path_len_zero() {
    let hierarchy = testing::hierarchy(NOW_S);
    let root = hierarchy.root.certificate();
    for ca in cas(&hierarchy) {
        let ca = ca.certificate();
        let certificate = read(ca.der());
        let basic = certificate.basic_constraints().unwrap().unwrap().value;
        assert!(basic.ca);
        let expected = if ca.purpose() == Purpose::Root { 1 } else { 0 };
        assert_eq!(basic.path_len_constraint, Some(expected), "{}", ca.name());
        assert_eq!(findings(ca.der(), Kind::Ca(ca.purpose())), [""; 0], "{}", ca.name());
        for purpose in Purpose::ALL {
            let read = CaCertificate::issuing(ca.der(), purpose, root);
            let right = purpose == ca.purpose() && purpose != Purpose::Root;
            assert_eq!(read.is_ok(), right, "{} as {purpose}", ca.name());
        }
    }
    let keys: std::collections::BTreeSet<_> =
        cas(&hierarchy).iter().map(|ca| *ca.certificate().key()).collect();
    assert_eq!(keys.len(), cas(&hierarchy).len(), "each CA has a key of its own");
}

#[test]
fn a_ca_of_another_root_is_refused() {
    let (ours, theirs) = (testing::hierarchy(NOW_S), testing::hierarchy(NOW_S));
    let read =
        CaCertificate::issuing(theirs.broker.certificate().der(), Purpose::Broker, ours.root.certificate());
    assert_eq!(read, Err(CaError::OtherIssuer));
    let read = CaCertificate::root(ours.broker.certificate().der());
    assert!(matches!(read, Err(CaError::Purpose { .. })), "{read:?}");
    assert_eq!(
        Ca::new(ours.broker.certificate().clone(), theirs.broker.key().clone()).err(),
        Some(CaError::OtherKey)
    );
}

#[test]
fn every_octet_of_a_ca_certificate_counts() {
    let hierarchy = testing::hierarchy(NOW_S);
    let root = hierarchy.root.certificate();
    for at in 0..hierarchy.broker.certificate().der().len() {
        let mut der = hierarchy.broker.certificate().der().to_vec();
        der[at] ^= 1;
        assert!(CaCertificate::issuing(&der, Purpose::Broker, root).is_err(), "octet {at}");
    }
    for at in 0..root.der().len() {
        let mut der = root.der().to_vec();
        der[at] ^= 1;
        assert!(CaCertificate::root(&der).is_err(), "octet {at}");
    }
}

/// webpki's opinion of a chain below one trust anchor.
fn webpki(chain: &[Vec<u8>], anchor: &[u8], usage: KeyUsage, at_s: i64) -> Result<(), webpki::Error> {
    let anchor = CertificateDer::from(anchor);
    let anchors = [webpki::anchor_from_trusted_cert(&anchor).unwrap()];
    let leaf = CertificateDer::from(chain[0].as_slice());
    let between: Vec<_> = chain[1..].iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at_s.try_into().unwrap()));
    let leaf = EndEntityCert::try_from(&leaf)?;
    let algorithms = &[webpki::aws_lc_rs::ECDSA_P256_SHA256];
    leaf.verify_for_usage(algorithms, &anchors, &between, at, usage, None, None).map(|_| ())
}

#[test]
fn webpki_agrees_with_what_is_issued() {
    let hierarchy = testing::hierarchy(NOW_S);
    let root = hierarchy.root.certificate().der();
    let subject = testing::subject("MU-000117");
    let birth = testing::device(&hierarchy, &subject, NOW_S);
    webpki(&birth.chain, root, KeyUsage::client_auth(), NOW_S).unwrap();
    webpki(&birth.chain, root, KeyUsage::client_auth(), NOW_S + 200 * 365 * DAY_S).unwrap();
    let operational = testing::operational(&hierarchy, &subject, NOW_S);
    webpki(&operational.chain, root, KeyUsage::client_auth(), NOW_S).unwrap();
    assert!(webpki(&operational.chain, root, KeyUsage::client_auth(), NOW_S + 91 * DAY_S).is_err());
    assert!(webpki(&operational.chain, root, KeyUsage::server_auth(), NOW_S).is_err());
    let broker = testing::server(&hierarchy.broker, &["localhost".parse().unwrap()], NOW_S);
    let pinned = hierarchy.broker.certificate().der();
    webpki(&broker.chain, pinned, KeyUsage::server_auth(), NOW_S).unwrap();
    assert!(webpki(&broker.chain, pinned, KeyUsage::client_auth(), NOW_S).is_err());
    assert!(webpki(&birth.chain[..1], pinned, KeyUsage::server_auth(), NOW_S).is_err());
}

#[test]
fn a_service_is_read_from_its_own_profile_alone() {
    let hierarchy = testing::hierarchy(NOW_S);
    let service = testing::named(&hierarchy.service, "historian", NOW_S);
    let identity = ServiceIdentity::from_certificate(&service.chain[0]).unwrap();
    assert_eq!(identity.name.as_str(), "historian");
    assert_eq!(identity.issuer_key_id, hierarchy.service.certificate().key_id());
    assert_eq!(identity.not_after_s, NOW_S + 90 * DAY_S);
    assert_eq!(identity.not_before_s, NOW_S - BACKDATE_S);
    let subject = testing::subject("MU-000117");
    let others = [
        testing::device(&hierarchy, &subject, NOW_S),
        testing::operational(&hierarchy, &subject, NOW_S),
        testing::server(&hierarchy.broker, &["localhost".parse().unwrap()], NOW_S),
        testing::named(&hierarchy.station, "S-07", NOW_S),
    ];
    for other in others {
        assert!(ServiceIdentity::from_certificate(&other.chain[0]).is_err());
    }
    assert!(ServiceIdentity::from_certificate(hierarchy.service.certificate().der()).is_err());
    assert!(DeviceIdentity::from_certificate(&service.chain[0]).is_err());
}

//! Every odd chain is refused by whoever has to notice it, and is right in all else.

use muster_pki::{
    DeviceIdentity, Profile,
    lint::{self, Kind},
    testing::{self, OddDevice, OddServer, Refused},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::NOW_S;

#[test]
fn every_odd_device_is_refused_where_it_should_be() {
    let hierarchy = testing::hierarchy(NOW_S);
    let subject = testing::subject("MU-000117");
    let trusted = [&hierarchy.stations[0].factory, &hierarchy.operational];
    for odd in OddDevice::ALL {
        let chain = odd.make(&hierarchy, &subject, NOW_S).chain;
        let identity = DeviceIdentity::from_certificate(&chain[0]);
        let vouched = trusted.iter().any(|ca| ca.certificate().vouches_for(&chain[0]).is_ok());
        match (odd.refused_by(), identity) {
            (Refused::Profile, identity) => assert!(identity.is_err(), "{odd:?}"),
            (_, Err(error)) => panic!("{odd:?} should have the right form: {error}"),
            (Refused::Issuer, Ok(_)) => assert!(!vouched, "{odd:?}"),
            (Refused::Tenant, Ok(identity)) => {
                assert!(vouched && identity.tenant != hierarchy.stations[0].record.tenant, "{odd:?}");
            }
            (Refused::Time, Ok(identity)) => {
                let now = identity.not_before_s <= NOW_S && NOW_S <= identity.not_after_s;
                assert!(vouched && !now, "{odd:?}");
            }
        }
    }
}

/// The linter reads with other code; both must say no to the same certificates.
#[test]
fn the_linter_agrees_with_the_strict_reader() {
    let hierarchy = testing::hierarchy(NOW_S);
    let subject = testing::subject("MU-000117");
    let kinds = [Kind::Leaf(Profile::Birth), Kind::Leaf(Profile::Operational)];
    for odd in OddDevice::ALL {
        let chain = odd.make(&hierarchy, &subject, NOW_S).chain;
        let strict = DeviceIdentity::from_certificate(&chain[0]).is_ok();
        let lint = kinds.iter().any(|kind| lint::certificate(&chain[0], *kind).is_empty());
        assert_eq!(strict, lint, "{odd:?}: {:?}", lint::certificate(&chain[0], kinds[0]));
    }
}

#[test]
fn every_octet_of_a_device_certificate_counts() {
    let hierarchy = testing::hierarchy(NOW_S);
    let device = testing::device(&hierarchy, &testing::subject("MU-000117"), NOW_S);
    let factory = hierarchy.stations[0].factory.certificate();
    for at in 0..device.chain[0].len() {
        for bit in [0, 3, 7] {
            let mut der = device.chain[0].clone();
            der[at] ^= 1 << bit;
            let accepted =
                DeviceIdentity::from_certificate(&der).is_ok() && factory.vouches_for(&der).is_ok();
            assert!(!accepted, "octet {at} bit {bit}");
        }
    }
    for end in 0..device.chain[0].len() {
        assert!(DeviceIdentity::from_certificate(&device.chain[0][..end]).is_err(), "cut at {end}");
    }
}

/// What a complete verifier says of a server's chain, pinned to the broker CA.
fn accepted(chain: &[Vec<u8>], anchor: &[u8]) -> bool {
    let anchor = CertificateDer::from(anchor);
    let anchors = [webpki::anchor_from_trusted_cert(&anchor).unwrap()];
    let leaf = CertificateDer::from(chain[0].as_slice());
    let between: Vec<_> = chain[1..].iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW_S.try_into().unwrap()));
    let algorithms = &[webpki::aws_lc_rs::ECDSA_P256_SHA256];
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let Ok(leaf) = EndEntityCert::try_from(&leaf) else { return false };
    let usage = KeyUsage::server_auth();
    leaf.verify_for_usage(algorithms, &anchors, &between, at, usage, None, None).is_ok()
        && leaf.verify_is_valid_for_subject_name(&name).is_ok()
}

#[test]
fn every_odd_server_is_refused_by_webpki_and_a_right_one_is_not() {
    let hierarchy = testing::hierarchy(NOW_S);
    let anchor = hierarchy.broker.certificate().der();
    let name = "localhost".parse().unwrap();
    let right = testing::server(&hierarchy.broker, std::slice::from_ref(&name), NOW_S);
    assert!(accepted(&right.chain, anchor));
    let mut let_through = Vec::new();
    for odd in OddServer::ALL {
        let made = odd.make(&hierarchy, &name, NOW_S);
        assert!(!made.key_pkcs8.is_empty());
        if accepted(&made.chain, anchor) {
            let_through.push(*odd);
        }
    }
    // A trust anchor has no pathLen for webpki, so a CA below the pinned one passes: a device takes a leaf
    // directly below its anchor and no chain. webpki does not look at keyUsage either, and takes a key of
    // P-384, since the signature on it is P-256: those two the profile and the handshake refuse.
    assert_eq!(let_through, [OddServer::TooDeep, OddServer::CertSignOnly, OddServer::OtherCurve]);
    let let_through = [OddServer::CertSignOnly, OddServer::OtherCurve];
    for odd in let_through {
        let made = odd.make(&hierarchy, &name, NOW_S);
        assert!(!lint::certificate(&made.chain[0], Kind::Leaf(Profile::Broker)).is_empty(), "{odd:?}");
    }
}

#[test]
fn every_odd_leaf_of_a_server_is_named_by_the_linter() {
    let hierarchy = testing::hierarchy(NOW_S);
    let name = "localhost".parse().unwrap();
    for odd in [
        OddServer::ClientAuthOnly,
        OddServer::CertSignOnly,
        OddServer::NameInCnOnly,
        OddServer::UnknownCritical,
        OddServer::LeafIsCa,
        OddServer::OtherCurve,
        OddServer::DeviceCertificate,
    ] {
        let made = odd.make(&hierarchy, &name, NOW_S);
        let findings = lint::certificate(&made.chain[0], Kind::Leaf(Profile::Broker));
        assert!(!findings.is_empty(), "{odd:?}");
    }
}

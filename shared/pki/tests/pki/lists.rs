//! Revocation lists: what the CA signed, to the last octet, and webpki takes them.

use muster_pki::{
    CertificateSerial,
    crl::{Crl, CrlError, RevocationReason, Revoked},
    testing,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{BorrowedCertRevocationList, EndEntityCert, KeyUsage, RevocationOptionsBuilder};

use crate::NOW_S;

fn list(serials: &[CertificateSerial]) -> Crl {
    let reasons = [
        RevocationReason::KeyCompromise,
        RevocationReason::Unspecified,
        RevocationReason::Superseded,
        RevocationReason::CessationOfOperation,
        RevocationReason::PrivilegeWithdrawn,
    ];
    let revoked = serials.iter().zip(reasons.iter().cycle());
    Crl {
        number: 7,
        this_update_s: NOW_S,
        next_update_s: NOW_S + 86_400,
        revoked: revoked.map(|(&serial, &reason)| Revoked { serial, at_s: NOW_S - 60, reason }).collect(),
    }
}

#[test]
fn what_is_written_is_read() {
    let hierarchy = testing::hierarchy(NOW_S);
    let serials: Vec<_> = (0..6).map(|_| CertificateSerial::draw().unwrap()).collect();
    for count in [0, 1, 6] {
        let list = list(&serials[..count]);
        let der = list.sign(&hierarchy.operational).unwrap();
        assert_eq!(Crl::verify(&der, hierarchy.operational.certificate()).unwrap(), list);
    }
}

#[test]
fn every_octet_of_a_list_counts_and_only_its_issuer_signs_it() {
    let hierarchy = testing::hierarchy(NOW_S);
    let der = list(&[CertificateSerial::draw().unwrap()]).sign(&hierarchy.operational).unwrap();
    let ca = hierarchy.operational.certificate();
    for at in 0..der.len() {
        let mut odd = der.clone();
        odd[at] ^= 1;
        assert!(Crl::verify(&odd, ca).is_err(), "octet {at}");
    }
    assert!(Crl::verify(&[&der[..], &[0]].concat(), ca).is_err());
    assert!(matches!(Crl::verify(&der, hierarchy.broker.certificate()), Err(CrlError::Ca(_))));
    let other = testing::hierarchy(NOW_S);
    assert!(matches!(Crl::verify(&der, other.operational.certificate()), Err(CrlError::Ca(_))));
}

#[test]
fn a_list_that_ends_before_it_begins_is_not_signed() {
    let hierarchy = testing::hierarchy(NOW_S);
    let odd = Crl { next_update_s: NOW_S, ..list(&[]) };
    assert_eq!(odd.sign(&hierarchy.operational), Err(CrlError::Validity));
}

#[test]
fn webpki_refuses_what_is_on_the_list() {
    let hierarchy = testing::hierarchy(NOW_S);
    let (one, other) = (testing::subject("MU-000001"), testing::subject("MU-000002"));
    let revoked = testing::operational(&hierarchy, &one, NOW_S);
    let fine = testing::operational(&hierarchy, &other, NOW_S);
    let der = list(&[revoked.identity().certificate_serial]).sign(&hierarchy.operational).unwrap();
    let crl = BorrowedCertRevocationList::from_der(&der).unwrap().into();
    let lists = [&crl];
    let anchor = CertificateDer::from(hierarchy.operational.certificate().der());
    let anchors = [webpki::anchor_from_trusted_cert(&anchor).unwrap()];
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW_S.try_into().unwrap()));
    for (unit, expected) in [(&revoked, Err(webpki::Error::CertRevoked)), (&fine, Ok(()))] {
        let leaf = CertificateDer::from(unit.chain[0].as_slice());
        let leaf = EndEntityCert::try_from(&leaf).unwrap();
        let options = RevocationOptionsBuilder::new(&lists).unwrap().build();
        let algorithms = &[webpki::aws_lc_rs::ECDSA_P256_SHA256];
        let usage = KeyUsage::client_auth();
        let verified = leaf.verify_for_usage(algorithms, &anchors, &[], at, usage, Some(options), None);
        assert_eq!(verified.map(|_| ()), expected);
    }
}

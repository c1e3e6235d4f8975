//! Only a well-formed request of the right subject, signed by its own P-256 key, becomes a `VerifiedCsr`.

use muster_pki::{Signer, SoftKey, VerifiedCsr, csr::CsrError, testing};
use muster_shared::{factory::Subject, limits::CSR_MAX};
use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, DnValue, KeyPair, KeyUsagePurpose, SigningKey};

const SERIAL: [u64; 4] = [2, 5, 4, 5];

fn subject() -> Subject {
    testing::subject("MU-000117")
}

/// A request as somebody else's code would make it.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "acme");
    params.distinguished_name.push(DnType::CommonName, "MU-000117");
    let serial = DnValue::PrintableString("MU-000117".try_into().unwrap());
    params.distinguished_name.push(DnType::CustomDnType(SERIAL.to_vec()), serial);
    params
}

fn request(params: &CertificateParams, key: &impl SigningKey) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

#[test]
fn a_right_request_proves_its_key() {
    let key = testing::key();
    let csr = VerifiedCsr::verify(&testing::csr(&subject(), &key), &subject()).unwrap();
    assert_eq!((csr.subject(), csr.key()), (&subject(), key.public_key()));
    let pair = p256();
    let csr = VerifiedCsr::verify(&request(&params(), &pair), &subject()).unwrap();
    assert_eq!(csr.key().point(), rcgen::PublicKeyData::der_bytes(&pair));
}

#[test]
fn another_subject_is_refused() {
    let csr = testing::csr(&subject(), &testing::key());
    for other in [
        testing::subject("MU-000118"),
        testing::subject_of("other", "MU-000117"),
        Subject { device_id: "mu-000117".parse().unwrap(), ..subject() },
        Subject { serial: "MU-00011".parse().unwrap(), ..subject() },
    ] {
        assert_eq!(VerifiedCsr::verify(&csr, &other), Err(CsrError::OtherSubject), "{other:?}");
    }
}

type Change<'a> = &'a dyn Fn(&mut rcgen::DistinguishedName);

#[test]
fn odd_subjects_are_refused() {
    let custom = |oid: &[u64]| DnType::CustomDnType(oid.to_vec());
    let change: [(&str, Change<'_>); 7] = [
        ("two CN", &|name| name.push(custom(&[2, 5, 4, 3]), "MU-000118")),
        ("two O", &|name| name.push(custom(&[2, 5, 4, 10]), "other")),
        ("OU", &|name| name.push(DnType::OrganizationalUnitName, "x")),
        ("no serial", &|name| assert!(name.remove(custom(&SERIAL)))),
        ("serial as UTF8String", &|name| name.push(custom(&SERIAL), "MU-000117")),
        ("CN ~all", &|name| name.push(DnType::CommonName, "~all")),
        ("CN with NUL", &|name| name.push(DnType::CommonName, "MU-000117\0")),
    ];
    for (what, change) in change {
        let mut params = params();
        change(&mut params.distinguished_name);
        let verified = VerifiedCsr::verify(&request(&params, &p256()), &subject());
        assert!(matches!(verified, Err(CsrError::Subject(_))), "{what}: {verified:?}");
    }
}

#[test]
fn other_curves_and_algorithms_are_refused() {
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let csr = request(&params(), &KeyPair::generate_for(algorithm).unwrap());
        assert_eq!(VerifiedCsr::verify(&csr, &subject()), Err(CsrError::NotP256), "{algorithm:?}");
    }
    // A P-256 key, said to be signed over SHA-384.
    let mut csr = testing::csr(&subject(), &testing::key());
    let at = csr.windows(8).rposition(|window| window == [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]).unwrap();
    csr[at + 7] = 3;
    assert_eq!(VerifiedCsr::verify(&csr, &subject()), Err(CsrError::WrongSignature));
}

/// Signs with one key under the name of another.
struct Impostor<'a> {
    signs: &'a SoftKey,
    claims: &'a SoftKey,
}

impl rcgen::PublicKeyData for Impostor<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.claims.public_key().point()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Impostor<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Signer::sign(self.signs, message).unwrap())
    }
}

#[test]
fn somebody_elses_key_is_not_proved() {
    let (signs, claims) = (testing::key(), testing::key());
    let csr = request(&params(), &Impostor { signs: &signs, claims: &claims });
    assert_eq!(VerifiedCsr::verify(&csr, &subject()), Err(CsrError::WrongSignature));
}

#[test]
fn a_key_that_is_no_point_is_refused() {
    let key = testing::key();
    let csr = testing::csr(&subject(), &key);
    let at = csr.windows(65).position(|window| window == key.public_key().point()).unwrap();
    let mut off_curve = csr.clone();
    off_curve[at + 64] ^= 1;
    assert_eq!(VerifiedCsr::verify(&off_curve, &subject()), Err(CsrError::NotP256));
    let mut compressed = csr;
    compressed[at] = 0x02;
    assert_eq!(VerifiedCsr::verify(&compressed, &subject()), Err(CsrError::NotP256));
}

#[test]
fn what_is_asked_for_besides_is_refused() {
    let mut asks = params();
    asks.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let verified = VerifiedCsr::verify(&request(&asks, &p256()), &subject());
    assert_eq!(verified, Err(CsrError::Attributes));
    let mut asks = params();
    asks.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    assert_eq!(VerifiedCsr::verify(&request(&asks, &p256()), &subject()), Err(CsrError::Attributes));
}

#[test]
fn length_and_trailing_octets() {
    let csr = testing::csr(&subject(), &testing::key());
    let trailing = [&csr[..], &[0]].concat();
    assert_eq!(VerifiedCsr::verify(&trailing, &subject()), Err(CsrError::Malformed));
    assert_eq!(VerifiedCsr::verify(&[], &subject()), Err(CsrError::Malformed));
    let long = vec![0x30; CSR_MAX + 1];
    assert_eq!(VerifiedCsr::verify(&long, &subject()), Err(CsrError::TooLong(CSR_MAX + 1)));
    for end in 0..csr.len() {
        assert_eq!(VerifiedCsr::verify(&csr[..end], &subject()), Err(CsrError::Malformed), "cut at {end}");
    }
}

#[test]
fn every_octet_of_a_request_counts() {
    let csr = testing::csr(&subject(), &testing::key());
    for at in 0..csr.len() {
        for bit in 0..8 {
            let mut odd = csr.clone();
            odd[at] ^= 1 << bit;
            assert!(VerifiedCsr::verify(&odd, &subject()).is_err(), "octet {at} bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..CSR_MAX)) {
        prop_assert!(VerifiedCsr::verify(&octets, &subject()).is_err());
    }
}

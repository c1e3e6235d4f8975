//! Intent before signature, one intent one certificate, one CA one profile.

use std::{cell::RefCell, sync::Arc};

use muster_pki::{
    Authority, Ca, CertificateSerial, DeviceIdentity, Intent, Issued, Ledger, MemoryLedger, Profile,
    PublicKey, Request, Signer, SoftKey, VerifiedCsr, authority::IssueError, ca::CaCertificate,
    key::KeyError, profile::ServerName, testing,
};
use muster_shared::factory::Subject;

use crate::NOW_S;

const DAY_S: i64 = 86_400;

fn fresh() -> CertificateSerial {
    CertificateSerial::draw().unwrap()
}

fn csr(serial: &str, key: &SoftKey) -> VerifiedCsr {
    let subject = testing::subject(serial);
    VerifiedCsr::verify(&testing::csr(&subject, key), &subject).unwrap()
}

fn birth<L: Ledger>(
    ca: &Ca,
    csr: &VerifiedCsr,
    ledger: &mut L,
    now_s: i64,
) -> Result<Issued, IssueError<L::Error>> {
    Authority::new(ca).issue(&Request::Device(csr), ledger, fresh(), now_s)
}

/// Writes down the order of things; may refuse one of them.
#[derive(Default)]
struct Diary {
    kept: RefCell<Vec<&'static str>>,
    refuse: Option<&'static str>,
    memory: MemoryLedger,
}

#[derive(Debug, thiserror::Error)]
#[error("the disk is full")]
struct Full;

impl Diary {
    fn note(&self, what: &'static str) -> Result<(), Full> {
        self.kept.borrow_mut().push(what);
        if self.refuse == Some(what) { Err(Full) } else { Ok(()) }
    }
}

impl Ledger for Diary {
    type Error = Full;
    fn find(&self, profile: Profile, subject: &Subject) -> Result<Option<Intent>, Full> {
        self.note("find")?;
        Ok(self.memory.find(profile, subject).unwrap_or_default())
    }
    fn intend(&mut self, intent: &Intent) -> Result<(), Full> {
        self.note("intend")?;
        let _ = self.memory.intend(intent);
        Ok(())
    }
    fn issued(&mut self, intent: &Intent, certificate: &[u8]) -> Result<(), Full> {
        self.note("issued")?;
        let _ = self.memory.issued(intent, certificate);
        Ok(())
    }
}

/// A key that counts its signatures; or does not sign; or signs something else.
struct Watched {
    key: Arc<SoftKey>,
    signed: std::sync::atomic::AtomicUsize,
    manner: Manner,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Signs,
    Refuses,
    SignsAnotherThing,
}

impl Signer for Watched {
    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.signed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match self.manner {
            Manner::Signs => self.key.sign(message),
            Manner::Refuses => Err(KeyError::NotSigned),
            Manner::SignsAnotherThing => self.key.sign(b"another thing"),
        }
    }
}

fn watched(manner: Manner) -> (Authority, Arc<Watched>) {
    let hierarchy = testing::hierarchy(NOW_S);
    let factory = &hierarchy.stations[0].factory;
    let key = Arc::new(Watched { key: factory.key().clone(), signed: 0.into(), manner });
    (Authority::with_signer(factory.certificate().clone(), key.clone()).unwrap(), key)
}

#[test]
fn intent_is_kept_before_the_key_is_touched() {
    let csr = csr("MU-000117", &testing::key());
    for (refuse, signatures, kept) in [
        (Some("find"), 0, vec!["find"]),
        (Some("intend"), 0, vec!["find", "intend"]),
        (Some("issued"), 1, vec!["find", "intend", "issued"]),
        (None, 1, vec!["find", "intend", "issued"]),
    ] {
        let (authority, key) = watched(Manner::Signs);
        let mut diary = Diary { refuse, ..Diary::default() };
        let issued = authority.issue(&Request::Device(&csr), &mut diary, fresh(), NOW_S);
        assert_eq!(issued.is_ok(), refuse.is_none());
        assert_eq!(key.signed.load(std::sync::atomic::Ordering::Relaxed), signatures, "{refuse:?}");
        assert_eq!(*diary.kept.borrow(), kept, "{refuse:?}");
    }
}

#[test]
fn what_was_not_signed_or_signed_wrongly_is_not_handed_out() {
    let csr = csr("MU-000117", &testing::key());
    for manner in [Manner::Refuses, Manner::SignsAnotherThing] {
        let (authority, _) = watched(manner);
        let mut diary = Diary::default();
        let issued = authority.issue(&Request::Device(&csr), &mut diary, fresh(), NOW_S);
        match manner {
            Manner::Refuses => assert!(matches!(issued, Err(IssueError::Key(KeyError::NotSigned)))),
            _ => assert!(matches!(issued, Err(IssueError::Reverify(_)))),
        }
        assert_eq!(*diary.kept.borrow(), ["find", "intend"], "nothing is recorded as issued");
    }
}

#[test]
fn one_tenant_serial_and_key_gives_one_certificate_for_ever() {
    let hierarchy = testing::hierarchy(NOW_S);
    let factory = &hierarchy.stations[0].factory;
    let csr = csr("MU-000117", &testing::key());
    let mut ledger = MemoryLedger::default();
    let first = birth(factory, &csr, &mut ledger, NOW_S).unwrap();
    assert!(!first.again);
    for later in [0, 1, 10 * 365 * DAY_S] {
        let again = birth(factory, &csr, &mut ledger, NOW_S + later).unwrap();
        assert!(again.again);
        assert_eq!((again.certificate, again.id), (first.certificate.clone(), first.id));
    }
}

#[test]
fn a_crash_between_intent_and_certificate_leads_to_the_same_certificate() {
    let hierarchy = testing::hierarchy(NOW_S);
    let authority = Authority::new(&hierarchy.stations[0].factory);
    let csr = csr("MU-000117", &testing::key());
    let mut diary = Diary { refuse: Some("issued"), ..Diary::default() };
    assert!(authority.issue(&Request::Device(&csr), &mut diary, fresh(), NOW_S).is_err());
    let intent = diary.memory.find(Profile::Birth, csr.subject()).unwrap().unwrap();
    let lost = authority.sign::<Full>(&intent).unwrap();
    diary.refuse = None;
    let issued = authority.issue(&Request::Device(&csr), &mut diary, fresh(), NOW_S + 9).unwrap();
    assert_eq!(issued.certificate, lost);
    // And through what a journal does to an intent.
    let read: Intent = serde_json::from_str(&serde_json::to_string(&intent).unwrap()).unwrap();
    assert_eq!(authority.sign::<Full>(&read).unwrap(), lost);
}

#[test]
fn a_known_serial_with_another_key_is_refused() {
    let hierarchy = testing::hierarchy(NOW_S);
    let factory = &hierarchy.stations[0].factory;
    let (one, other) = (testing::key(), testing::key());
    let mut ledger = MemoryLedger::default();
    birth(factory, &csr("MU-000117", &one), &mut ledger, NOW_S).unwrap();
    match birth(factory, &csr("MU-000117", &other), &mut ledger, NOW_S) {
        Err(IssueError::OtherKey { known, offered }) => {
            assert_eq!((known, offered), (one.public_key().digest(), other.public_key().digest()));
        }
        issued => panic!("{issued:?}"),
    }
    let renamed = Subject { device_id: "kitchen".parse().unwrap(), ..testing::subject("MU-000117") };
    let csr = VerifiedCsr::verify(&testing::csr(&renamed, &one), &renamed).unwrap();
    assert!(matches!(birth(factory, &csr, &mut ledger, NOW_S), Err(IssueError::OtherDeviceId)));
    assert_eq!(ledger.certificates().len(), 1);
}

#[test]
fn operational_certificates_follow_one_another() {
    let hierarchy = testing::hierarchy(NOW_S);
    let ca = &hierarchy.operational;
    let mut ledger = MemoryLedger::default();
    let (one, two) = (csr("MU-000117", &testing::key()), csr("MU-000117", &testing::key()));
    let first = birth(ca, &one, &mut ledger, NOW_S).unwrap();
    assert!(birth(ca, &one, &mut ledger, NOW_S + DAY_S).unwrap().again, "the answer was lost");
    let second = birth(ca, &two, &mut ledger, NOW_S + 60 * DAY_S).unwrap();
    assert_ne!(first.id, second.id);
    let identity = DeviceIdentity::from_certificate(&second.certificate).unwrap();
    assert_eq!(identity.not_after_s, NOW_S + 150 * DAY_S);
    let renewed = birth(ca, &two, &mut ledger, NOW_S + 151 * DAY_S).unwrap();
    assert!(!renewed.again, "an ended certificate is not handed out again");
}

#[test]
fn an_anchor_is_the_ca_by_its_own_signature() {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    let hierarchy = testing::hierarchy(NOW_S);
    let anchor = hierarchy.broker.anchor(NOW_S).unwrap();
    let anchor = CertificateDer::from_pem_slice(anchor.as_bytes()).unwrap();
    // Signed by the key it holds, under the name the CA issues by.
    hierarchy.broker.certificate().vouches_for(&anchor).unwrap();
    assert!(hierarchy.root.certificate().vouches_for(&anchor).is_err());
    assert!(CaCertificate::root(&anchor).is_err(), "and no root");
    let trusted = webpki::anchor_from_trusted_cert(&anchor).unwrap();
    let name: ServerName = "localhost".parse().unwrap();
    let server = testing::server(&hierarchy.broker, &[name], NOW_S);
    let leaf = CertificateDer::from(server.chain[0].clone());
    let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
    let now = rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW_S as u64));
    let verify = |anchor| {
        let usage = webpki::KeyUsage::server_auth();
        let algorithms = [webpki::aws_lc_rs::ECDSA_P256_SHA256];
        leaf.verify_for_usage(&algorithms, &[anchor], &[], now, usage, None, None).is_ok()
    };
    assert!(verify(trusted));
}

#[test]
fn a_ca_issues_its_own_profile_and_no_other() {
    let hierarchy = testing::hierarchy(NOW_S);
    let key = testing::key();
    let csr = csr("MU-000117", &key);
    let names: [ServerName; 1] = ["localhost".parse().unwrap()];
    let device = Request::Device(&csr);
    let server = Request::Server { names: &names, key: key.public_key() };
    let named = Request::Named { name: "ana", key: key.public_key() };
    for (ca, expected) in [
        (&hierarchy.root, [false, false, false]),
        (&hierarchy.stations[0].factory, [true, false, false]),
        (&hierarchy.operational, [true, false, false]),
        (&hierarchy.broker, [false, true, false]),
        (&hierarchy.https, [false, true, false]),
        (&hierarchy.service, [false, false, true]),
        (&hierarchy.operator, [false, false, true]),
        (&hierarchy.station, [false, false, true]),
    ] {
        for (request, expected) in [device, server, named].iter().zip(expected) {
            let issued = Authority::new(ca).issue(request, &mut MemoryLedger::default(), fresh(), NOW_S);
            assert_eq!(issued.is_ok(), expected, "{} {request:?}", ca.certificate().purpose());
            if !expected {
                assert!(matches!(issued, Err(IssueError::NotItsPurpose { .. })));
            }
        }
    }
    // Nor does it sign the intent of another CA.
    let intent =
        Authority::new(&hierarchy.stations[0].factory).intend::<Full>(&device, None, fresh(), NOW_S).unwrap();
    let other = Authority::new(&hierarchy.stations[1].factory).sign::<Full>(&intent);
    assert!(matches!(other, Err(IssueError::NotItsPurpose { .. })));
}

#[test]
fn odd_requests_are_refused() {
    let hierarchy = testing::hierarchy(NOW_S);
    let key = testing::key();
    let refused = |ca: &Ca, request: &Request<'_>, now_s| {
        let issued = Authority::new(ca).issue(request, &mut MemoryLedger::default(), fresh(), now_s);
        assert!(matches!(issued, Err(IssueError::Profile(_))), "{request:?}: {issued:?}");
    };
    refused(&hierarchy.broker, &Request::Server { names: &[], key: key.public_key() }, NOW_S);
    let long: [ServerName; 1] = [format!("{}.{}.example", "a".repeat(60), "b".repeat(60)).parse().unwrap()];
    refused(&hierarchy.broker, &Request::Server { names: &long, key: key.public_key() }, NOW_S);
    for name in ["", "a/b", "~all", "ana smith", &"a".repeat(49)] {
        refused(&hierarchy.operator, &Request::Named { name, key: key.public_key() }, NOW_S);
    }
    let names: [ServerName; 1] = ["localhost".parse().unwrap()];
    let late = NOW_S + 3651 * DAY_S;
    refused(&hierarchy.broker, &Request::Server { names: &names, key: key.public_key() }, late);
    for odd in ["", "a b", "host/x", "-", "ü"] {
        assert!(odd.parse::<ServerName>().is_err(), "{odd}");
    }
}

#[test]
fn no_certificate_outlives_its_ca() {
    let hierarchy = testing::hierarchy(NOW_S);
    let late = hierarchy.broker.certificate().not_after_s() - DAY_S;
    let broker = testing::server(&hierarchy.broker, &["localhost".parse().unwrap()], late);
    let (_, read) = x509_parser::parse_x509_certificate(&broker.chain[0]).unwrap();
    assert_eq!(read.validity().not_after.timestamp(), hierarchy.broker.certificate().not_after_s());
}

#[test]
fn certificate_serials_are_sixteen_positive_octets_and_differ() {
    let drawn: std::collections::BTreeSet<_> = (0..2000).map(|_| fresh()).collect();
    assert_eq!(drawn.len(), 2000);
    assert!(drawn.iter().all(|serial| (1..0x80).contains(&serial.octets()[0])));
    assert_eq!(CertificateSerial::new([0; 16]), None);
    assert_eq!(CertificateSerial::new([0x80; 16]), None);
    assert!(serde_json::from_str::<CertificateSerial>("[0,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]").is_err());
}

#[test]
fn a_signer_must_have_the_cas_key() {
    let hierarchy = testing::hierarchy(NOW_S);
    let other = Authority::with_signer(hierarchy.broker.certificate().clone(), testing::key());
    assert!(other.is_err());
}

//! Both ways of verifying give one verdict: a table over every case in which somebody is refused, and the few
//! in which somebody is let in.

use muster_pki::testing::{self, Credential, OddDevice};
use muster_shared::Code;

use super::*;
use crate::{
    edge::{
        gate::{self, Pass},
        identity::Visitor,
        principal::Service,
    },
    registry::{
        Act, DeviceState,
        testing::{Fleet, HIERARCHY, credential, now_s},
    },
};

/// What a client comes to know.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    /// The handshake fails with the alert of this error.
    Alert(CertificateError),
    /// CONNACK says so.
    Told(Code),
    /// It is let in.
    In,
}

use Verdict::{Alert, In, Told};

/// A row: what it is, the leaf that is shown, when, and what has to come of it; `None`: whatever alert it is.
struct Case {
    what: String,
    leaf: Vec<u8>,
    at_s: i64,
    expected: Option<Verdict>,
}

const DAY_S: i64 = 86_400;

fn trust(verify: Verify) -> Trust {
    let service = |name: &str| Arc::new(Service::new(name.parse().unwrap(), None, ["#"], ["#"]).unwrap());
    Trust::new(verify).operational(HIERARCHY.operational.certificate()).services(
        HIERARCHY.service.certificate(),
        [service("historian"), service("withdrawn")],
        [certificate_id(&WITHDRAWN.chain[0])],
    )
}

static WITHDRAWN: std::sync::LazyLock<Credential> =
    std::sync::LazyLock::new(|| testing::named(&HIERARCHY.service, "withdrawn", now_s()));

fn judge(fleet: &Fleet, verify: Verify, case: &Case) -> Verdict {
    let (verdicts, trust) = (fleet.registry.verdicts(), Arc::new(trust(verify)));
    let verifier = ClientVerifier::new(Arc::clone(&verdicts), Arc::clone(&trust));
    let now = UnixTime::since_unix_epoch(Duration::from_secs(case.at_s.try_into().unwrap()));
    let leaf = CertificateDer::from(case.leaf.clone());
    match verifier.verify_client_cert(&leaf, &[], now) {
        Ok(_) => {}
        Err(Error::InvalidCertificate(error)) => return Alert(error),
        Err(error) => panic!("{}: {error}", case.what),
    }
    let visitor = Visitor::from_leaf(&leaf, &trust).expect("what is let through can be read");
    match gate::verdict(&verdicts, &trust, &visitor, case.at_s) {
        Ok(Pass::Device { .. } | Pass::Service { .. }) => In,
        Err(refusal) => Told(refusal.code),
    }
}

fn case(what: impl Into<String>, leaf: &[u8], at_s: i64, expected: Verdict) -> Case {
    Case { what: what.into(), leaf: leaf.to_vec(), at_s, expected: Some(expected) }
}

/// Devices of the registry: in each state, and around the ends of the certificate's time.
async fn known(fleet: &Fleet) -> Vec<Case> {
    let leaf = |device: usize| fleet.devices[device].credential.as_ref().unwrap().chain[0].clone();
    for (device, act) in [(1, Act::Suspend), (2, Act::Quarantine), (3, Act::Revoke), (4, Act::Revoke)] {
        fleet.act(device, act).await.unwrap();
    }
    fleet.act(4, Act::Decommission).await.unwrap();
    let state = |device: usize| fleet.registry.verdicts().state(fleet.devices[device].key);
    assert_eq!(state(4), Some(DeviceState::Decommissioned));
    let identity = fleet.devices[0].credential.as_ref().unwrap().identity();
    vec![
        case("registered", &leaf(0), now_s(), In),
        case("suspended", &leaf(1), now_s(), Told(Code::DeviceSuspended)),
        case("quarantined", &leaf(2), now_s(), Told(Code::DeviceQuarantined)),
        case("revoked", &leaf(3), now_s(), Told(Code::CertificateRevoked)),
        case("decommissioned", &leaf(4), now_s(), Told(Code::DeviceDecommissioned)),
        case("before its time", &leaf(0), identity.not_before_s - 1, Told(Code::CertificateNotYetValid)),
        case("its first second", &leaf(0), identity.not_before_s, In),
        case("its last second", &leaf(0), identity.not_after_s, In),
        case("after its time", &leaf(0), identity.not_after_s + 1, Alert(CertificateError::Expired)),
        case(
            "suspended, after its time",
            &leaf(1),
            identity.not_after_s + 1,
            Alert(CertificateError::Expired),
        ),
    ]
}

/// Devices the registry does not hold, and those it holds under another certificate.
fn strangers(fleet: &Fleet) -> Vec<Case> {
    let now = now_s();
    let subject = |serial: &str| testing::subject(serial);
    let mut renamed = subject("MU-000600");
    renamed.device_id = fleet.devices[0].serial.as_str().parse().unwrap();
    let factory = &HIERARCHY.stations[0].factory;
    let foreign = testing::subject_of("other", "MU-000601");
    let foreign = testing::device_with(factory, &foreign, testing::key(), now);
    let elsewhere = testing::hierarchy(now);
    let unknown = testing::device(&elsewhere, &subject("MU-000602"), now);
    let early = testing::device_with(factory, &subject("MU-000603"), testing::key(), now + DAY_S);
    let withdrawn =
        testing::device_with(&HIERARCHY.stations[1].factory, &subject("MU-010001"), testing::key(), now);
    let operational = testing::operational(&HIERARCHY, &subject("MU-000001"), now);
    let row = |what: &str, who: &Credential, expected| case(what, &who.chain[0], now, expected);
    vec![
        row("not imported", &credential("MU-000604"), Told(Code::DeviceNotRegistered)),
        row("another key of a serial", &credential("MU-000001"), Told(Code::SerialTaken)),
        row("another serial of a name", &testing::device(&HIERARCHY, &renamed, now), Told(Code::SerialTaken)),
        row("another station's tenant", &foreign, Told(Code::TenantForeign)),
        row("a station nobody registered", &unknown, Alert(CertificateError::UnknownIssuer)),
        row("a station that was withdrawn", &withdrawn, Told(Code::IssuerWithdrawn)),
        row("not imported, before its time", &early, Alert(CertificateError::NotValidYet)),
        row("operational and not known", &operational, Alert(CertificateError::UnknownIssuer)),
    ]
}

fn services() -> Vec<Case> {
    let now = now_s();
    let of = |name: &str, made_s: i64| testing::named(&HIERARCHY.service, name, made_s);
    let row = |what: &str, who: &Credential, expected| case(what, &who.chain[0], now, expected);
    let elsewhere = testing::hierarchy(now);
    let broker = testing::server(&HIERARCHY.broker, &["localhost".parse().unwrap()], now);
    let authority = HIERARCHY.service.certificate().der();
    vec![
        row("a service", &of("historian", now), In),
        row("a service without an entry", &of("planner", now), Told(Code::ServiceUnknown)),
        row("a withdrawn certificate", &WITHDRAWN, Told(Code::CertificateRevoked)),
        row("another certificate of that service", &of("withdrawn", now), In),
        case(
            "an ended service",
            &of("historian", now).chain[0],
            now + 91 * DAY_S,
            Alert(CertificateError::Expired),
        ),
        row("a service to be", &of("historian", now + DAY_S), Alert(CertificateError::NotValidYet)),
        row(
            "a service of another house",
            &testing::named(&elsewhere.service, "historian", now),
            Alert(CertificateError::UnknownIssuer),
        ),
        row(
            "a person",
            &testing::named(&HIERARCHY.operator, "historian", now),
            Alert(CertificateError::UnknownIssuer),
        ),
        row(
            "a station's manifest key",
            &testing::named(&HIERARCHY.station, "historian", now),
            Alert(CertificateError::UnknownIssuer),
        ),
        Case { expected: None, ..row("the broker", &broker, In) },
        Case { expected: None, ..case("the service authority itself", authority, now, In) },
    ]
}

/// Every certificate that is odd in one thing, of a device and under a known device's name.
fn odd() -> Vec<Case> {
    let mut cases = Vec::new();
    for serial in ["MU-000001", "MU-000605"] {
        for odd in OddDevice::ALL {
            let made = odd.make(&HIERARCHY, &testing::subject(serial), now_s());
            let what = format!("{odd:?} as {serial}");
            cases.push(Case { expected: None, ..case(what, &made.chain[0], now_s(), In) });
        }
    }
    cases
}

#[tokio::test]
async fn pinned_and_chain_give_one_verdict() {
    let fleet = Fleet::with(5).await;
    let mut cases = known(&fleet).await;
    let verdicts = fleet.registry.verdicts();
    let station = HIERARCHY.stations[1].factory.certificate();
    let mut issuer = (*verdicts.issuer(&station.key_id()).unwrap()).clone();
    issuer.withdrawn = true;
    verdicts.put_issuer(issuer);
    cases.extend(strangers(&fleet));
    cases.extend(services());
    cases.extend(odd());
    let mut seen = std::collections::BTreeSet::new();
    for case in &cases {
        let pinned = judge(&fleet, Verify::Pinned, case);
        assert_eq!(judge(&fleet, Verify::Chain, case), pinned, "{}", case.what);
        match &case.expected {
            Some(expected) => assert_eq!(pinned, *expected, "{}", case.what),
            None => assert!(pinned != In, "{} is let in", case.what),
        }
        seen.insert(format!("{pinned:?}"));
    }
    // Whoever adds a way to be refused adds a row.
    assert_eq!(seen.len(), 15, "{seen:#?}");
}

#[tokio::test]
async fn chain_mode_looks_at_the_signature_of_a_known_certificate() {
    let fleet = Fleet::with(1).await;
    let leaf = CertificateDer::from(fleet.devices[0].credential.as_ref().unwrap().chain[0].clone());
    let verdicts = fleet.registry.verdicts();
    // The station's record now names another authority's key under the same identifier.
    let station = HIERARCHY.stations[0].factory.certificate();
    let mut issuer = (*verdicts.issuer(&station.key_id()).unwrap()).clone();
    issuer.certificate = CertificateDer::from(HIERARCHY.stations[1].factory.certificate().der().to_vec());
    verdicts.put_issuer(issuer);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s().try_into().unwrap()));
    let ask = |verify| {
        let verifier = ClientVerifier::new(Arc::clone(&verdicts), Arc::new(Trust::new(verify)));
        verifier.verify_client_cert(&leaf, &[], now).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(ask(Verify::Pinned), Ok(()));
    assert_eq!(ask(Verify::Chain), Err(unknown().to_string()));
}

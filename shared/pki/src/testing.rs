//! A whole hierarchy in memory, devices of it, and every odd chain by name. No file is written.
//!
//! Everything right is made by the code that makes it in production. What is odd starts from the same
//! profile and differs in the one thing its name says ([`odd`]).

use std::sync::Arc;

use muster_shared::{SerialNumber, factory::Subject};
use rcgen::CertificateParams;

use crate::{
    authority::{Authority, Request},
    ca::Ca,
    csr::VerifiedCsr,
    hierarchy::{Hierarchy, Plan, StationKeys, StationPlan},
    identity::DeviceIdentity,
    key::{Signer, SoftKey},
    ledger::MemoryLedger,
    manifest::{self, Header, Row},
    name,
    profile::{CertificateSerial, ForRcgen, ServerName},
    station::SerialRange,
};

mod odd;

pub use odd::{OddCredential, OddDevice, OddServer, Refused};

/// A plan with tenant `acme`: station `S-07` for `MU-000001` to `MU-009999`, and station `S-08`, also of
/// `acme`, for `MU-010000` to `MU-019999`; tenant `other`: station `S-99` for `OT-0001` to `OT-9999`.
#[must_use]
pub fn plan() -> Plan {
    let station = |station: &str, tenant: &str, first: &str, last: &str, quota| StationPlan {
        station: station.parse().expect("an id"),
        tenant: tenant.parse().expect("an id"),
        quota,
        serials: SerialRange::new(&serial(first), &serial(last)).expect("a range"),
    };
    Plan {
        owner: "Acme".to_owned(),
        stations: vec![
            station("S-07", "acme", "MU-000001", "MU-009999", 9_999),
            station("S-08", "acme", "MU-010000", "MU-019999", 100),
            station("S-99", "other", "OT-0001", "OT-9999", 9_999),
        ],
    }
}

/// The hierarchy of [`plan`], made `now_s`.
#[must_use]
pub fn hierarchy(now_s: i64) -> Hierarchy {
    Hierarchy::create(&plan(), now_s).expect("the plan is sound")
}

/// A certificate with its key, and what issued it.
#[derive(Clone)]
pub struct Credential {
    /// Leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's key.
    pub key: Arc<SoftKey>,
}

impl Credential {
    /// Who the leaf says it is.
    ///
    /// # Panics
    /// When the leaf is no device certificate.
    #[must_use]
    pub fn identity(&self) -> DeviceIdentity {
        DeviceIdentity::from_certificate(&self.chain[0]).expect("made to the profile")
    }

    /// The leaf's private key, PKCS #8 in DER, as a TLS library takes it.
    ///
    /// # Panics
    /// Never: a P-256 key has an encoding.
    #[must_use]
    pub fn key_pkcs8(&self) -> Vec<u8> {
        self.key.expose_secret().expect("a P-256 key has an encoding").to_vec()
    }
}

/// Tenant `acme`, this serial, device id equal to it.
///
/// # Panics
/// When `serial` is no serial or no device id.
#[must_use]
pub fn subject(serial: &str) -> Subject {
    subject_of("acme", serial)
}

/// This tenant, this serial, device id equal to it.
///
/// # Panics
/// When one of them is none.
#[must_use]
pub fn subject_of(tenant: &str, serial: &str) -> Subject {
    Subject {
        tenant: tenant.parse().expect("a tenant"),
        device_id: serial.parse().expect("a device id"),
        serial: self::serial(serial),
    }
}

/// A new key.
///
/// # Panics
/// When the system has no randomness.
#[must_use]
pub fn key() -> Arc<SoftKey> {
    Arc::new(SoftKey::generate().expect("the system has randomness"))
}

/// PKCS #10 for `subject`, signed by `key`.
///
/// # Panics
/// When the key does not sign.
#[must_use]
pub fn csr(subject: &Subject, key: &SoftKey) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name::device(subject);
    params.serialize_request(&ForRcgen(key)).expect("a key in memory signs").der().to_vec()
}

/// A birth certificate for `subject` from the factory CA of the station whose range has the serial (the first
/// station where none has), with a new key. `chain` is leaf and factory CA.
///
/// # Panics
/// When it cannot be issued.
#[must_use]
pub fn device(hierarchy: &Hierarchy, subject: &Subject, now_s: i64) -> Credential {
    device_with(&station_of(hierarchy, subject).factory, subject, key(), now_s)
}

/// A certificate for `subject` and `key` from this CA: a factory CA, or the operational one.
///
/// # Panics
/// When it cannot be issued.
#[must_use]
pub fn device_with(ca: &Ca, subject: &Subject, key: Arc<SoftKey>, now_s: i64) -> Credential {
    let csr = VerifiedCsr::verify(&csr(subject, &key), subject).expect("just made");
    issue(ca, &Request::Device(&csr), &key, now_s, true)
}

/// An operational certificate for `subject`, with a new key. `chain` is leaf and operational CA.
///
/// # Panics
/// When it cannot be issued.
#[must_use]
pub fn operational(hierarchy: &Hierarchy, subject: &Subject, now_s: i64) -> Credential {
    device_with(&hierarchy.operational, subject, key(), now_s)
}

/// A server certificate of a CA (broker or HTTPS). `chain` is the leaf only.
///
/// # Panics
/// When it cannot be issued.
#[must_use]
pub fn server(ca: &Ca, names: &[ServerName], now_s: i64) -> Credential {
    let key = key();
    issue(ca, &Request::Server { names, key: key.public_key() }, &key, now_s, false)
}

/// A certificate for a service or a person. `chain` is leaf and CA.
///
/// # Panics
/// When it cannot be issued.
#[must_use]
pub fn named(ca: &Ca, name: &str, now_s: i64) -> Credential {
    let key = key();
    issue(ca, &Request::Named { name, key: key.public_key() }, &key, now_s, true)
}

/// A finished batch as `muster-factory` hands it over: the first manifest of the first station.
///
/// # Panics
/// When it cannot be signed.
#[must_use]
pub fn manifest(hierarchy: &Hierarchy, batch: &str, devices: &[Credential], now_ms: u64) -> Vec<u8> {
    manifest_of(&hierarchy.stations[0], batch, None, devices, now_ms)
}

/// A manifest of any station. `after` is sequence number and digest of the station's manifest before it.
///
/// # Panics
/// When it cannot be signed.
#[must_use]
pub fn manifest_of(
    station: &StationKeys,
    batch: &str,
    after: Option<(u64, [u8; 32])>,
    devices: &[Credential],
    now_ms: u64,
) -> Vec<u8> {
    let header = Header {
        tenant: station.record.tenant.clone(),
        station: station.record.station.clone(),
        batch: batch.parse().expect("a batch"),
        product: "TH-2".to_owned(),
        sequence: after.map_or(1, |(sequence, _)| sequence + 1),
        previous: after.map(|(_, digest)| digest),
        opened_at_ms: now_ms,
        closed_at_ms: now_ms,
    };
    let rows: Vec<Row> = devices.iter().map(|device| row(device, now_ms)).collect();
    manifest::write(&header, &rows, &*station.manifest_key).expect("a key in memory signs")
}

/// A device as a row of a manifest.
#[must_use]
pub fn row(device: &Credential, at_ms: u64) -> Row {
    let identity = device.identity();
    Row {
        serial: identity.serial,
        device_id: identity.device_id,
        certificate: device.chain[0].clone(),
        certificate_id: identity.id,
        at_ms,
    }
}

fn serial(text: &str) -> SerialNumber {
    text.parse().expect("a serial")
}

fn station_of<'a>(hierarchy: &'a Hierarchy, subject: &Subject) -> &'a StationKeys {
    let mut all = hierarchy.stations.iter();
    let has = |keys: &&StationKeys| {
        keys.record.tenant == subject.tenant && keys.record.serials.place(&subject.serial).is_some()
    };
    all.find(has).unwrap_or(&hierarchy.stations[0])
}

fn issue(ca: &Ca, request: &Request<'_>, key: &Arc<SoftKey>, now_s: i64, with_ca: bool) -> Credential {
    let fresh = CertificateSerial::draw().expect("the system has randomness");
    let issued = Authority::new(ca).issue(request, &mut MemoryLedger::default(), fresh, now_s);
    let mut chain = vec![issued.expect("the request is sound").certificate];
    if with_ca {
        chain.push(ca.certificate().der().to_vec());
    }
    Credential { chain, key: key.clone() }
}

//! A whole hierarchy in memory, devices of it, and every odd chain by name. No file is written.

use std::sync::Arc;

use muster_shared::{SerialNumber, factory::Subject};

use crate::{
    ca::Ca,
    hierarchy::{Hierarchy, Plan},
    key::SoftKey,
    profile::{Profile, ServerName},
};

/// A plan with tenant `acme`: station `S-07` for `MU-000001` to `MU-009999`, and station `S-08`, also of
/// `acme`, for `MU-010000` to `MU-019999`; tenant `other`: station `S-99` for `OT-0001` to `OT-9999`.
#[must_use]
pub fn plan() -> Plan {
    unimplemented!()
}

/// The hierarchy of [`plan`], made `now_s`.
#[must_use]
pub fn hierarchy(now_s: i64) -> Hierarchy {
    let _ = now_s;
    unimplemented!()
}

/// A certificate with its key, and what issued it.
#[derive(Clone)]
pub struct Credential {
    /// Leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's key.
    pub key: Arc<SoftKey>,
}

/// Tenant `acme`, this serial, device id equal to it.
#[must_use]
pub fn subject(serial: &str) -> Subject {
    let _ = serial;
    unimplemented!()
}

/// PKCS #10 for `subject`, signed by `key`.
#[must_use]
pub fn csr(subject: &Subject, key: &SoftKey) -> Vec<u8> {
    let _ = (subject, key);
    unimplemented!()
}

/// A birth certificate for `subject` from the factory CA of the station whose range has the serial (the first
/// station where none has), with a new key. `chain` is leaf and factory CA.
#[must_use]
pub fn device(hierarchy: &Hierarchy, subject: &Subject, now_s: i64) -> Credential {
    let _ = (hierarchy, subject, now_s);
    unimplemented!()
}

/// An operational certificate for `subject`, with a new key. `chain` is leaf and operational CA.
#[must_use]
pub fn operational(hierarchy: &Hierarchy, subject: &Subject, now_s: i64) -> Credential {
    let _ = (hierarchy, subject, now_s);
    unimplemented!()
}

/// A server certificate of a CA ([`Profile::Broker`] or [`Profile::Https`]). `chain` is the leaf only.
#[must_use]
pub fn server(ca: &Ca, names: &[ServerName], now_s: i64) -> Credential {
    let _ = (ca, names, now_s);
    unimplemented!()
}

/// A finished batch as `muster-factory` hands it over: the signed manifest of the first station.
#[must_use]
pub fn manifest(hierarchy: &Hierarchy, batch: &str, devices: &[Credential], now_ms: u64) -> Vec<u8> {
    let _ = (hierarchy, batch, devices, now_ms, SerialNumber::new(""));
    unimplemented!()
}

/// What can be wrong with a server's certificate. A device must refuse every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OddServer {
    /// Right in form, of another hierarchy.
    WrongRoot,
    /// Of the factory CA.
    FactoryIssued,
    /// Of the HTTPS CA of the same root, chain included.
    HttpsIssued,
    /// Of the operational CA of the same root, chain included.
    OperationalIssued,
    /// Signed by a device's birth key, with the device's certificate in the chain.
    DeviceAsCa,
    /// Signed by a broker leaf's key, with that leaf in the chain.
    BrokerLeafAsCa,
    /// Below an intermediate of the broker CA, whose pathLen is 0.
    TooDeep,
    /// Signed by another key under the broker CA's name.
    ForgedSignature,
    /// The broker CA signed it, under another issuer name.
    WrongIssuerName,
    /// Ended yesterday.
    Expired,
    /// Begins tomorrow.
    NotYetValid,
    /// EKU clientAuth only.
    ClientAuthOnly,
    /// keyUsage keyCertSign only.
    CertSignOnly,
    /// `CN` is the name, no SAN.
    NameInCnOnly,
    /// `CN` is the name, the SAN is another.
    NameInCnOtherSan,
    /// SAN is another name.
    WrongName,
    /// A critical extension nobody knows.
    UnknownCritical,
    /// basicConstraints CA true on the leaf.
    LeafIsCa,
    /// P-384 key.
    OtherCurve,
    /// A device's birth certificate as the server's.
    DeviceCertificate,
    /// Self-signed.
    SelfSigned,
}

/// What can be wrong with a device's certificate. The profile check or the gate must refuse every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OddDevice {
    /// Right in form, of another hierarchy.
    WrongRoot,
    /// Signed by another key under the factory CA's name and key identifier.
    ForgedSignature,
    /// Of the broker CA.
    BrokerIssued,
    /// The broker's own certificate.
    BrokerCertificate,
    /// A tenant the factory CA does not serve.
    OtherTenant,
    /// Ended yesterday (operational).
    Expired,
    /// Begins tomorrow (operational).
    NotYetValid,
    /// EKU serverAuth.
    ServerAuth,
    /// EKU clientAuth and serverAuth.
    TwoUsages,
    /// No keyUsage.
    NoKeyUsage,
    /// keyUsage not critical.
    KeyUsageNotCritical,
    /// keyUsage with keyCertSign.
    CertSign,
    /// basicConstraints, CA false.
    BasicConstraints,
    /// basicConstraints, CA true.
    LeafIsCa,
    /// A critical extension nobody knows.
    UnknownCritical,
    /// An extension nobody knows, not critical.
    UnknownExtension,
    /// A subject key identifier.
    SubjectKeyId,
    /// No authority key identifier.
    NoAuthorityKeyId,
    /// A SAN.
    Names,
    /// Two `CN`.
    TwoCommonNames,
    /// Two `O`.
    TwoTenants,
    /// No `serialNumber`.
    NoSerial,
    /// An `OU` besides.
    ExtraAttribute,
    /// `CN` as PrintableString.
    CommonNamePrintable,
    /// `serialNumber` as UTF8String.
    SerialUtf8,
    /// `CN` is `~all`.
    EveryDevice,
    /// `CN` has a slash.
    SlashInName,
    /// `CN` has a `+`.
    WildcardInName,
    /// `CN` ends in NUL.
    NulInName,
    /// `CN` of 49 octets.
    LongName,
    /// P-384 key.
    OtherCurve,
    /// Certificate serial number of 20 octets.
    LongCertificateSerial,
    /// Octets after the certificate.
    TrailingOctets,
}

impl OddServer {
    /// Every one.
    pub const ALL: &'static [OddServer] = &[];

    /// The chain a hostile server presents, right in all else: for `name`, leaf first, with the leaf's key as
    /// PKCS #8 in DER.
    #[must_use]
    pub fn make(self, hierarchy: &Hierarchy, name: &ServerName, now_s: i64) -> OddCredential {
        let _ = (hierarchy, name, now_s);
        unimplemented!()
    }
}

impl OddDevice {
    /// Every one.
    pub const ALL: &'static [OddDevice] = &[];

    /// The chain a hostile device presents as `subject`, right in all else.
    #[must_use]
    pub fn make(self, hierarchy: &Hierarchy, subject: &Subject, now_s: i64) -> OddCredential {
        let _ = (hierarchy, subject, now_s, Profile::Birth);
        unimplemented!()
    }
}

/// An odd chain and the key of its leaf; the key may be of another curve.
#[derive(Clone)]
pub struct OddCredential {
    /// Leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's private key, PKCS #8 in DER. A key of a test, known to nobody else's hierarchy.
    pub key_pkcs8: Vec<u8>,
}

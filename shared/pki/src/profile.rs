//! What each certificate looks like: purposes of CAs, profiles of leaves, serial numbers, validity.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};

use crate::{
    key::{self, KeyError, PublicKey, Signer},
    ledger::{Holder, Intent},
    name,
};

/// The one thing a CA issues. It is written into the CA's name as `OU`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// CAs.
    Root,
    /// Birth certificates of one station.
    Factory,
    /// Operational certificates of devices.
    Operational,
    /// The broker's certificates; what devices pin.
    Broker,
    /// The certificates of the HTTPS API.
    Https,
    /// Services that speak MQTT.
    Service,
    /// People.
    Operator,
    /// Stations: what signs manifests.
    Station,
}

impl Purpose {
    /// Every one.
    pub const ALL: [Purpose; 8] = [
        Purpose::Root,
        Purpose::Factory,
        Purpose::Operational,
        Purpose::Broker,
        Purpose::Https,
        Purpose::Service,
        Purpose::Operator,
        Purpose::Station,
    ];

    /// The word for it, in `OU` and in file names.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Factory => "factory",
            Self::Operational => "operational",
            Self::Broker => "broker",
            Self::Https => "https",
            Self::Service => "service",
            Self::Operator => "operator",
            Self::Station => "station",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.word() == word)
    }

    /// What a CA of this purpose issues; `None` for the root, which issues CAs.
    #[must_use]
    pub fn profile(self) -> Option<Profile> {
        match self {
            Self::Root => None,
            Self::Factory => Some(Profile::Birth),
            Self::Operational => Some(Profile::Operational),
            Self::Broker => Some(Profile::Broker),
            Self::Https => Some(Profile::Https),
            Self::Service => Some(Profile::Service),
            Self::Operator => Some(Profile::Operator),
            Self::Station => Some(Profile::StationManifest),
        }
    }

    /// How long a CA of this purpose lives. A birth certificate has no end, so neither has what is above it;
    /// the others are replaced within ten years.
    pub(crate) fn not_after_s(self, now_s: i64) -> i64 {
        match self {
            Self::Root | Self::Factory => NO_END_S,
            _ => now_s + 3650 * DAY_S,
        }
    }

    /// How many CAs may follow below (RFC 5280 §4.2.1.9).
    pub(crate) fn path_len(self) -> u8 {
        match self {
            Self::Root => 1,
            _ => 0,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

const DAY_S: i64 = 86_400;

/// How far back notBefore lies: clocks a little apart still agree that a new certificate is valid.
pub const BACKDATE_S: i64 = 300;

/// What a leaf is for. Each is issued by the CA of one [`Purpose`] and by no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// A device's first certificate (IEEE 802.1AR IDevID): no end, no EKU.
    Birth,
    /// A device's working certificate (LDevID): 90 days, clientAuth.
    Operational,
    /// The broker's: 30 days, SAN, serverAuth.
    Broker,
    /// The HTTPS API's: 90 days, SAN, serverAuth.
    Https,
    /// A service's: 90 days, clientAuth.
    Service,
    /// A person's: 90 days, clientAuth.
    Operator,
    /// A station's manifest key: ten years, no EKU.
    StationManifest,
}

impl Profile {
    /// The end of a certificate issued now, unless its CA ends before.
    pub(crate) fn not_after_s(self, now_s: i64) -> i64 {
        match self {
            Self::Birth => NO_END_S,
            Self::Broker => now_s + 30 * DAY_S - BACKDATE_S,
            Self::Operational | Self::Https | Self::Service | Self::Operator => now_s + 90 * DAY_S,
            Self::StationManifest => now_s + 3650 * DAY_S,
        }
    }

    /// Its one extended key usage.
    pub(crate) fn usage(self) -> Option<ExtendedKeyUsagePurpose> {
        match self {
            Self::Birth | Self::StationManifest => None,
            Self::Broker | Self::Https => Some(ExtendedKeyUsagePurpose::ServerAuth),
            Self::Operational | Self::Service | Self::Operator => Some(ExtendedKeyUsagePurpose::ClientAuth),
        }
    }
}

/// The end of a certificate that has none: 99991231235959Z (RFC 5280 §4.1.2.5), in seconds since 1970.
pub const NO_END_S: i64 = 253_402_300_799;

/// A certificate's serial number: 16 octets, positive, the first not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "[u8; 16]")]
pub struct CertificateSerial([u8; 16]);

/// Zero, negative, or shorter than 16 octets without leading zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("certificate serial number is not a positive number of 16 octets")]
pub struct CertificateSerialError;

impl TryFrom<[u8; 16]> for CertificateSerial {
    type Error = CertificateSerialError;
    fn try_from(octets: [u8; 16]) -> Result<Self, CertificateSerialError> {
        Self::new(octets).ok_or(CertificateSerialError)
    }
}

impl CertificateSerial {
    /// Draws one.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn draw() -> Result<Self, KeyError> {
        loop {
            let mut octets = [0; 16];
            key::fill(&mut octets)?;
            if let Some(serial) = Self::new(octets) {
                return Ok(serial);
            }
        }
    }

    /// These octets, if they are a positive number of exactly 16 octets.
    #[must_use]
    pub fn new(octets: [u8; 16]) -> Option<Self> {
        (1..0x80).contains(&octets[0]).then_some(Self(octets))
    }

    /// Big endian.
    #[must_use]
    pub fn octets(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for CertificateSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// A name a server's certificate carries as SAN.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ServerName {
    /// A DNS name, lower case (RFC 1035 §2.3.4).
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// Neither a DNS name nor an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a DNS name nor an IP address")]
pub struct ServerNameError(String);

impl FromStr for ServerName {
    type Err = ServerNameError;
    fn from_str(text: &str) -> Result<Self, ServerNameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        match rustls_pki_types::DnsName::try_from(text) {
            Ok(name) => Ok(Self::Dns(name.to_lowercase_owned().as_ref().to_owned())),
            Err(_) => Err(ServerNameError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ServerName {
    type Error = ServerNameError;
    fn try_from(text: String) -> Result<Self, ServerNameError> {
        text.parse()
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> String {
        name.to_string()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// What a CA's certificate says.
pub(crate) fn ca_params(
    owner: &str,
    purpose: Purpose,
    name: &str,
    key: &PublicKey,
    serial: CertificateSerial,
    now_s: i64,
) -> CertificateParams {
    let mut params = params(name::ca(owner, purpose, name), serial);
    params.not_before = time(now_s - BACKDATE_S);
    params.not_after = time(purpose.not_after_s(now_s));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(purpose.path_len()));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(key.key_id().to_vec());
    params.use_authority_key_identifier_extension = purpose != Purpose::Root;
    params
}

/// What a leaf says.
pub(crate) fn leaf_params(intent: &Intent, owner: &str) -> CertificateParams {
    let subject = match &intent.holder {
        Holder::Device(subject) => name::device(subject),
        Holder::Server(names) => {
            name::other(owner, &names.first().map(ToString::to_string).unwrap_or_default())
        }
        Holder::Named(name) => name::other(owner, name),
    };
    let mut params = params(subject, intent.certificate_serial);
    params.not_before = time(intent.not_before_s);
    params.not_after = time(intent.not_after_s);
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = intent.profile.usage().into_iter().collect();
    params.use_authority_key_identifier_extension = true;
    if let Holder::Server(names) = &intent.holder {
        params.subject_alt_names = names.iter().map(alt_name).collect();
    }
    params
}

/// The CA as rcgen sees it.
pub(crate) fn issuer<'a>(
    owner: &str,
    purpose: Purpose,
    name: &str,
    key: &'a dyn Signer,
) -> Issuer<'static, ForRcgen<'a>> {
    issuer_named(name::ca(owner, purpose, name), key.public_key().key_id(), key)
}

/// An issuer of any name, with any key and any key identifier.
pub(crate) fn issuer_named(
    name: DistinguishedName,
    key_id: [u8; 20],
    key: &dyn Signer,
) -> Issuer<'static, ForRcgen<'_>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.to_vec());
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Issuer::new(params, ForRcgen(key))
}

/// Seconds since 1970 as rcgen takes them.
pub(crate) fn time(at_s: i64) -> time::OffsetDateTime {
    let since = u64::try_from(at_s.clamp(0, NO_END_S)).expect("clamped to positive");
    rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since)
}

fn params(subject: DistinguishedName, serial: CertificateSerial) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(serial.octets()));
    params
}

fn alt_name(name: &ServerName) -> SanType {
    match name {
        ServerName::Ip(address) => SanType::IpAddress(*address),
        ServerName::Dns(name) => {
            SanType::DnsName(rcgen::string::Ia5String::try_from(name.as_str()).expect("a DNS name is ASCII"))
        }
    }
}

/// A key as rcgen takes it.
pub(crate) struct ForRcgen<'a>(pub(crate) &'a dyn Signer);

impl rcgen::PublicKeyData for ForRcgen<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for ForRcgen<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        self.point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

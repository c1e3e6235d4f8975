//! What each certificate looks like: purposes of CAs, profiles of leaves, serial numbers, validity.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::key::KeyError;

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

/// The end of a certificate that has none: 99991231235959Z (RFC 5280 §4.1.2.5), in seconds since 1970.
pub const NO_END_S: i64 = 253_402_300_799;

/// A certificate's serial number: 16 octets, positive, the first not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CertificateSerial([u8; 16]);

impl CertificateSerial {
    /// Draws one.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn draw() -> Result<Self, KeyError> {
        loop {
            let mut octets = [0; 16];
            aws_lc_rs::rand::fill(&mut octets).map_err(|_| KeyError::NoRandomness)?;
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

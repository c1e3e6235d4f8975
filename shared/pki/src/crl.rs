//! Revocation lists (RFC 5280 §5): the CA that issued a certificate lists it. Writer and reader.

use muster_shared::Code;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams};
use x509_parser::{
    extensions::ParsedExtension, prelude::FromDer, revocation_list::CertificateRevocationList,
};

use crate::{
    ca::{Ca, CaCertificate, CaError},
    der::{Der, NotDer, tag},
    key::KeyError,
    profile::{self, CertificateSerial},
    x509::ECDSA_WITH_SHA256,
};

/// Most entries of one list: at about 40 octets each it stays below 4 MiB.
pub const ENTRIES_MAX: usize = 100_000;
/// Longest list read, octets.
const CRL_MAX: usize = 8 * 1024 * 1024;

/// Why a certificate was revoked (RFC 5280 §5.3.1), as far as we say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RevocationReason {
    /// Not said.
    Unspecified,
    /// The private key may be known to others.
    KeyCompromise,
    /// A newer certificate took its place.
    Superseded,
    /// The device is out of use.
    CessationOfOperation,
    /// The holder may no longer do what the certificate is for.
    PrivilegeWithdrawn,
}

impl RevocationReason {
    const ALL: [(Self, rcgen::RevocationReason, u8); 5] = [
        (Self::Unspecified, rcgen::RevocationReason::Unspecified, 0),
        (Self::KeyCompromise, rcgen::RevocationReason::KeyCompromise, 1),
        (Self::Superseded, rcgen::RevocationReason::Superseded, 4),
        (Self::CessationOfOperation, rcgen::RevocationReason::CessationOfOperation, 5),
        (Self::PrivilegeWithdrawn, rcgen::RevocationReason::PrivilegeWithdrawn, 9),
    ];

    fn for_rcgen(self) -> rcgen::RevocationReason {
        let row = Self::ALL.iter().find(|row| row.0 == self);
        row.map_or(rcgen::RevocationReason::Unspecified, |row| row.1)
    }

    fn from_number(number: u8) -> Self {
        Self::ALL.iter().find(|row| row.2 == number).map_or(Self::Unspecified, |row| row.0)
    }
}

/// One revoked certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number.
    pub serial: CertificateSerial,
    /// When, seconds since 1970.
    pub at_s: i64,
    /// Why.
    pub reason: RevocationReason,
}

/// A revocation list that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    /// Grows with every list of this CA.
    pub number: u64,
    /// When it was made, seconds since 1970.
    pub this_update_s: i64,
    /// When the next one comes at the latest, seconds since 1970.
    pub next_update_s: i64,
    /// What is revoked.
    pub revoked: Vec<Revoked>,
}

/// Why there is no list, or it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// More entries than [`ENTRIES_MAX`].
    #[error("{0} entries, a list holds at most {ENTRIES_MAX}")]
    TooMany(usize),
    /// It would end before it begins.
    #[error("the next update does not come after this one")]
    Validity,
    /// Not a revocation list, or not one of ours.
    #[error("revocation list is malformed: {0}")]
    Malformed(&'static str),
    /// Not signed by this CA.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl CrlError {
    /// The code under which every surface says it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Ca(_) => Code::IssuerUnknown,
            _ => Code::CertificateProfile,
        }
    }
}

impl Crl {
    /// Signs the list with the CA that issued what is on it; DER.
    ///
    /// # Errors
    /// [`CrlError`].
    pub fn sign(&self, ca: &Ca) -> Result<Vec<u8>, CrlError> {
        if self.revoked.len() > ENTRIES_MAX {
            return Err(CrlError::TooMany(self.revoked.len()));
        }
        if self.next_update_s <= self.this_update_s {
            return Err(CrlError::Validity);
        }
        let entry = |revoked: &Revoked| RevokedCertParams {
            serial_number: rcgen::SerialNumber::from_slice(revoked.serial.octets()),
            revocation_time: profile::time(revoked.at_s),
            reason_code: Some(revoked.reason.for_rcgen()),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: profile::time(self.this_update_s),
            next_update: profile::time(self.next_update_s),
            crl_number: rcgen::SerialNumber::from(self.number),
            issuing_distribution_point: None,
            revoked_certs: self.revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::PreSpecified(ca.certificate().key_id().to_vec()),
        };
        let certificate = ca.certificate();
        let issuer =
            profile::issuer(certificate.owner(), certificate.purpose(), certificate.name(), &**ca.key());
        let list = params.signed_by(&issuer).map_err(|_| CaError::Key(KeyError::NotSigned))?;
        Ok(list.der().to_vec())
    }

    /// Reads a list and checks that `ca` signed it.
    ///
    /// # Errors
    /// [`CrlError`].
    pub fn verify(der: &[u8], ca: &CaCertificate) -> Result<Self, CrlError> {
        if der.len() > CRL_MAX {
            return Err(CrlError::Malformed("too long"));
        }
        let (rest, list) =
            CertificateRevocationList::from_der(der).map_err(|_| CrlError::Malformed("not DER"))?;
        if !rest.is_empty() {
            return Err(CrlError::Malformed("octets follow it"));
        }
        if list.issuer().as_raw() != ca.name_der() {
            return Err(CaError::OtherIssuer.into());
        }
        let (signed, signature) =
            frame(der).map_err(|_| CrlError::Malformed("not ecdsa-with-SHA256 in DER"))?;
        ca.key().verify(signed, signature).map_err(|_| CaError::WrongSignature)?;
        let next = list.next_update().ok_or(CrlError::Malformed("no next update"))?;
        let number = list.crl_number().and_then(|number| u64::try_from(number.clone()).ok());
        let entry = |revoked: &x509_parser::revocation_list::RevokedCertificate<'_>| {
            let octets = revoked.raw_serial().try_into().ok();
            let serial = octets.and_then(CertificateSerial::new);
            let reason =
                revoked.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                    ParsedExtension::ReasonCode(reason) => Some(reason.0),
                    _ => None,
                });
            Ok(Revoked {
                serial: serial.ok_or(CrlError::Malformed("a serial number that is not ours"))?,
                at_s: revoked.revocation_date.timestamp(),
                reason: RevocationReason::from_number(reason.unwrap_or_default()),
            })
        };
        Ok(Self {
            number: number.ok_or(CrlError::Malformed("no list number"))?,
            this_update_s: list.last_update().timestamp(),
            next_update_s: next.timestamp(),
            revoked: list.iter_revoked_certificates().map(entry).collect::<Result<_, CrlError>>()?,
        })
    }
}

/// What is signed, and the signature, of a CertificateList (RFC 5280 §5.1).
fn frame(der: &[u8]) -> Result<(&[u8], &[u8]), NotDer> {
    let mut outer = Der::new(der);
    let mut list = outer.inside(tag::SEQUENCE)?;
    outer.end()?;
    let signed = list.element(tag::SEQUENCE)?.whole;
    let algorithm = list.element(tag::SEQUENCE)?.whole;
    let (unused, signature) = list.value(tag::BIT_STRING)?.split_first().ok_or(NotDer)?;
    list.end()?;
    if algorithm != ECDSA_WITH_SHA256 || *unused != 0 {
        return Err(NotDer);
    }
    Ok((signed, signature))
}

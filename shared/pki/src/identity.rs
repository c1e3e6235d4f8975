//! Who a device certificate says it is: the exact check of the device profile. No chain is looked at.

use muster_shared::{CertificateId, DeviceId, SerialNumber, Tenant, factory::Subject, limits::SPKI_P256};

use crate::profile::{CertificateSerial, Profile};

/// Why a certificate does not fit the device profile. Names the first field that differs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate does not fit the device profile at {field}: {why}")]
pub struct ProfileError {
    /// The field: `subject`, `extensions`, ...
    pub field: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A device, as its certificate names it. Who holds this value has checked the certificate's form, and
/// nothing else: whether its issuer vouches for it and whether it may talk are other questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceIdentity {
    /// `O`.
    pub tenant: Tenant,
    /// `CN`.
    pub device_id: DeviceId,
    /// `serialNumber`.
    pub serial: SerialNumber,
    /// SubjectPublicKeyInfo, DER.
    pub spki: [u8; SPKI_P256],
    /// SHA-256 of it.
    pub key_digest: [u8; 32],
    /// Key identifier of the CA that is said to have issued it.
    pub issuer_key_id: [u8; 20],
    /// The issuer's name, DER.
    pub issuer_name: Vec<u8>,
    /// The certificate's serial number.
    pub certificate_serial: CertificateSerial,
    /// notBefore, seconds since 1970.
    pub not_before_s: i64,
    /// notAfter, seconds since 1970.
    pub not_after_s: i64,
    /// [`Profile::Birth`] or [`Profile::Operational`].
    pub profile: Profile,
    /// SHA-256 of the whole certificate.
    pub id: CertificateId,
}

impl DeviceIdentity {
    /// Reads a device certificate, DER.
    ///
    /// # Errors
    /// [`ProfileError`]: anything else than the exact profile is refused.
    pub fn from_certificate(der: &[u8]) -> Result<Self, ProfileError> {
        let _ = der;
        unimplemented!()
    }

    /// Tenant, device id and serial.
    #[must_use]
    pub fn subject(&self) -> Subject {
        Subject {
            tenant: self.tenant.clone(),
            device_id: self.device_id.clone(),
            serial: self.serial.clone(),
        }
    }
}

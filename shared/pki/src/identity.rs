//! Who a client's certificate says it is: the exact check of the device profile, and of the service profile.
//! No chain is looked at.

use muster_shared::{
    CertificateId, DeviceId, SerialNumber, ServiceName, Tenant,
    factory::Subject,
    limits::{CERTIFICATE_MAX, SPKI_P256},
};

use sha2::{Digest, Sha256};

use crate::{
    key::PublicKey,
    name,
    profile::{CertificateSerial, NO_END_S, Profile},
    x509::{self, Certificate, Wrong},
};

/// Why a certificate does not fit its profile. Names the first field that differs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate does not fit the profile at {field}: {why}")]
pub struct ProfileError {
    /// The field: `subject`, `extensions`, ...
    pub field: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

impl From<Wrong> for ProfileError {
    fn from((field, why): Wrong) -> Self {
        Self { field, why }
    }
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
        if der.len() > CERTIFICATE_MAX {
            return Err(("certificate", "longer than a device certificate can be").into());
        }
        let certificate = Certificate::read(der)?;
        let subject = name::read_device(certificate.subject).map_err(|why| ("subject", why))?;
        let (key, issuer_key_id) = signer(&certificate)?;
        let profile = profile(&certificate)?;
        Ok(Self {
            tenant: subject.tenant,
            device_id: subject.device_id,
            serial: subject.serial,
            spki: *key.spki(),
            key_digest: key.digest(),
            issuer_key_id,
            issuer_name: certificate.issuer.to_vec(),
            certificate_serial: certificate.serial,
            not_before_s: certificate.not_before_s,
            not_after_s: certificate.not_after_s,
            profile,
            id: CertificateId(Sha256::digest(der).into()),
        })
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

/// A service, as its certificate names it. Who holds this value has checked the certificate's form, and
/// nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceIdentity {
    /// `CN`.
    pub name: ServiceName,
    /// Key identifier of the CA that is said to have issued it.
    pub issuer_key_id: [u8; 20],
    /// notBefore, seconds since 1970.
    pub not_before_s: i64,
    /// notAfter, seconds since 1970.
    pub not_after_s: i64,
    /// SHA-256 of the whole certificate.
    pub id: CertificateId,
}

impl ServiceIdentity {
    /// Reads a service's certificate, DER.
    ///
    /// # Errors
    /// [`ProfileError`]: anything else than the exact profile is refused.
    pub fn from_certificate(der: &[u8]) -> Result<Self, ProfileError> {
        if der.len() > CERTIFICATE_MAX {
            return Err(("certificate", "longer than a service's certificate can be").into());
        }
        let certificate = Certificate::read(der)?;
        let (_, name) = name::read_other(certificate.subject).map_err(|why| ("subject", why))?;
        let name = name.parse().map_err(|_| ("subject", "CN is not a service's name"))?;
        let (_, issuer_key_id) = signer(&certificate)?;
        if profile(&certificate)? != Profile::Operational {
            return Err(("notAfter", "a service's certificate has an end").into());
        }
        Ok(Self {
            name,
            issuer_key_id,
            not_before_s: certificate.not_before_s,
            not_after_s: certificate.not_after_s,
            id: CertificateId(Sha256::digest(der).into()),
        })
    }
}

/// The key, which signs and does nothing else, and the key identifier of the issuer.
fn signer(certificate: &Certificate<'_>) -> Result<(PublicKey, [u8; 20]), Wrong> {
    let key =
        PublicKey::from_spki(certificate.spki).map_err(|_| ("key", "not an uncompressed point of P-256"))?;
    let issuer_key_id = certificate.authority_key_id()?;
    if certificate.required(x509::KEY_USAGE, "keyUsage", true)? != x509::DIGITAL_SIGNATURE {
        return Err(("keyUsage", "not digitalSignature alone"));
    }
    Ok((key, issuer_key_id))
}

/// A birth certificate has no end and no usage, an operational one has both, and so has a service's; nothing
/// lies between.
fn profile(certificate: &Certificate<'_>) -> Result<Profile, Wrong> {
    let no_end = certificate.not_after_s == NO_END_S;
    if no_end {
        certificate.only(&[x509::AUTHORITY_KEY_ID, x509::KEY_USAGE])?;
        return Ok(Profile::Birth);
    }
    certificate.only(&[x509::AUTHORITY_KEY_ID, x509::KEY_USAGE, x509::EXT_KEY_USAGE])?;
    if certificate.required(x509::EXT_KEY_USAGE, "extKeyUsage", false)? != x509::CLIENT_AUTH {
        return Err(("extKeyUsage", "not clientAuth alone"));
    }
    Ok(Profile::Operational)
}

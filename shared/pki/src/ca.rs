//! A CA: its certificate, checked against the root, and the key behind it.

use std::sync::Arc;

use crate::{
    key::{KeyError, PublicKey, SoftKey},
    profile::Purpose,
};

/// Why a CA certificate, or a signature of one, is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// Not a certificate, or not of the profile of a CA.
    #[error("not a CA certificate of ours: {0}")]
    Profile(&'static str),
    /// A CA of another purpose than the one needed.
    #[error("CA is for {found:?}, {needed:?} is needed")]
    Purpose {
        /// What the certificate says.
        found: Purpose,
        /// What was asked for.
        needed: Purpose,
    },
    /// Issuer name or key identifier are another CA's.
    #[error("certificate was issued by another authority")]
    OtherIssuer,
    /// The signature is not the issuer's.
    #[error("the issuer's signature is wrong")]
    WrongSignature,
    /// The key does not belong to the certificate.
    #[error("the key is not the one in the certificate")]
    OtherKey,
    /// The key did not sign, or there is no randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A CA's certificate. Who holds this value has checked its form, its purpose and the root's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    der: Vec<u8>,
    purpose: Purpose,
    owner: String,
    name: String,
    key: PublicKey,
    not_before_s: i64,
    not_after_s: i64,
}

impl CaCertificate {
    /// Reads the root's own certificate: self-signed, of [`Purpose::Root`].
    ///
    /// # Errors
    /// [`CaError`].
    pub fn root(der: &[u8]) -> Result<Self, CaError> {
        let _ = der;
        unimplemented!()
    }

    /// Reads the certificate of an issuing CA of `purpose`, signed by `root`.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn issuing(der: &[u8], purpose: Purpose, root: &CaCertificate) -> Result<Self, CaError> {
        let _ = (der, purpose, root);
        unimplemented!()
    }

    /// Did this CA sign this certificate? Compares issuer name and key identifier, then checks the signature.
    ///
    /// # Errors
    /// [`CaError::OtherIssuer`], [`CaError::WrongSignature`]; [`CaError::Profile`] when it is no certificate.
    pub fn vouches_for(&self, certificate: &[u8]) -> Result<(), CaError> {
        let _ = certificate;
        unimplemented!()
    }

    /// The certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        unimplemented!()
    }

    /// What it issues.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// `O` of its name: whose it is.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// `CN` of its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The key identifier in what it issues.
    #[must_use]
    pub fn key_id(&self) -> [u8; 20] {
        self.key.key_id()
    }

    /// notBefore, seconds since 1970.
    #[must_use]
    pub fn not_before_s(&self) -> i64 {
        self.not_before_s
    }

    /// notAfter, seconds since 1970.
    #[must_use]
    pub fn not_after_s(&self) -> i64 {
        self.not_after_s
    }
}

/// A CA with its key.
#[derive(Clone)]
pub struct Ca {
    certificate: CaCertificate,
    key: Arc<SoftKey>,
}

impl Ca {
    /// A certificate and the key that belongs to it.
    ///
    /// # Errors
    /// [`CaError::OtherKey`].
    pub fn new(certificate: CaCertificate, key: Arc<SoftKey>) -> Result<Self, CaError> {
        let _ = (&certificate, &key);
        unimplemented!()
    }

    /// The public part.
    #[must_use]
    pub fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// The private part.
    #[must_use]
    pub fn key(&self) -> &Arc<SoftKey> {
        &self.key
    }
}

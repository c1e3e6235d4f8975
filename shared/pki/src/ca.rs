//! A CA: its certificate, checked against the root, and the key behind it.

use std::sync::Arc;

use crate::{
    csr::VerifiedCaRequest,
    key::{KeyError, PublicKey, Signer, SoftKey},
    name,
    profile::{self, CertificateSerial, Purpose},
    x509::{self, Certificate, Wrong},
};

/// Why a CA certificate, or a signature of one, is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// Not a certificate, or not of the profile of a CA.
    #[error("not a CA certificate of ours, at {field}: {why}")]
    Profile {
        /// The first field that differs.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A CA of another purpose than the one needed.
    #[error("CA is for {found}, one for {needed} is needed")]
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
    /// The owner's or the CA's name does not fit a certificate.
    #[error("name {0:?} is not 1 to 64 printable characters")]
    Name(String),
    /// The key did not sign, or there is no randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<Wrong> for CaError {
    fn from((field, why): Wrong) -> Self {
        Self::Profile { field, why }
    }
}

/// A CA's certificate. Who holds this value has checked its form, its purpose and the root's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    der: Vec<u8>,
    purpose: Purpose,
    owner: String,
    name: String,
    /// The name in DER, as it stands in what it issues.
    name_der: Vec<u8>,
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
        let root = Self::read(der)?;
        root.must_be(Purpose::Root)?;
        root.signed(&Certificate::read(der)?)?;
        Ok(root)
    }

    /// Reads the certificate of an issuing CA of `purpose`, signed by `root`.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn issuing(der: &[u8], purpose: Purpose, root: &CaCertificate) -> Result<Self, CaError> {
        root.must_be(Purpose::Root)?;
        let ca = Self::read(der)?;
        ca.must_be(purpose)?;
        root.vouches_for(der)?;
        Ok(ca)
    }

    /// Did this CA sign this certificate? Compares issuer name and key identifier, then checks the signature.
    ///
    /// # Errors
    /// [`CaError::OtherIssuer`], [`CaError::WrongSignature`]; [`CaError::Profile`] when it is no certificate.
    pub fn vouches_for(&self, certificate: &[u8]) -> Result<(), CaError> {
        let certificate = Certificate::read(certificate)?;
        if certificate.authority_key_id()? != self.key_id() {
            return Err(CaError::OtherIssuer);
        }
        self.signed(&certificate)
    }

    /// Is it for this?
    ///
    /// # Errors
    /// [`CaError::Purpose`].
    pub fn must_be(&self, needed: Purpose) -> Result<(), CaError> {
        if self.purpose == needed { Ok(()) } else { Err(CaError::Purpose { found: self.purpose, needed }) }
    }

    /// The certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate, PEM (RFC 7468).
    #[must_use]
    pub fn pem(&self) -> String {
        crate::keyfile::pem("CERTIFICATE", &self.der)
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

    /// Its whole name, DER: the issuer of what it issues.
    #[must_use]
    pub fn name_der(&self) -> &[u8] {
        &self.name_der
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

    /// Reads the form; who signed it is not looked at.
    fn read(der: &[u8]) -> Result<Self, CaError> {
        let certificate = Certificate::read(der)?;
        let (owner, purpose, name) = name::read_ca(certificate.subject).map_err(|why| ("subject", why))?;
        let key = PublicKey::from_spki(certificate.spki).map_err(|_| ("key", "not on P-256"))?;
        let basic = certificate.required(x509::BASIC_CONSTRAINTS, "basicConstraints", true)?;
        if basic != [0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, purpose.path_len()] {
            return Err(("basicConstraints", "not a CA of this pathLen").into());
        }
        if certificate.required(x509::KEY_USAGE, "keyUsage", true)? != x509::CERT_AND_CRL_SIGN {
            return Err(("keyUsage", "not keyCertSign and cRLSign").into());
        }
        let key_id = certificate.required(x509::SUBJECT_KEY_ID, "subjectKeyIdentifier", false)?;
        if key_id.strip_prefix(&[0x04, 0x14]) != Some(&key.key_id()[..]) {
            return Err(("subjectKeyIdentifier", "not the digest of the key").into());
        }
        let own = [x509::BASIC_CONSTRAINTS, x509::KEY_USAGE, x509::SUBJECT_KEY_ID, x509::AUTHORITY_KEY_ID];
        certificate.only(if purpose == Purpose::Root { &own[..3] } else { &own })?;
        Ok(Self {
            der: der.to_vec(),
            purpose,
            owner,
            name,
            name_der: certificate.subject.to_vec(),
            key,
            not_before_s: certificate.not_before_s,
            not_after_s: certificate.not_after_s,
        })
    }

    fn signed(&self, certificate: &Certificate<'_>) -> Result<(), CaError> {
        if certificate.issuer != self.name_der {
            return Err(CaError::OtherIssuer);
        }
        self.key.verify(certificate.tbs, certificate.signature).map_err(|_| CaError::WrongSignature)
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
        if certificate.key() != key.public_key() {
            return Err(CaError::OtherKey);
        }
        Ok(Self { certificate, key })
    }

    /// Makes a root. `now_s` is the time of issue, seconds since 1970.
    ///
    /// # Errors
    /// [`CaError::Name`], [`CaError::Key`].
    pub fn make_root(owner: &str, name: &str, now_s: i64) -> Result<Self, CaError> {
        let key = Arc::new(SoftKey::generate()?);
        let issuer = profile::issuer(owner, Purpose::Root, name, &*key);
        let der = sign_ca(&issuer, owner, Purpose::Root, name, key.public_key(), now_s)?;
        Self::new(CaCertificate::root(&der)?, key)
    }

    /// Makes an issuing CA below this root.
    ///
    /// # Errors
    /// [`CaError::Purpose`] when this is no root or `purpose` is one; [`CaError::Name`], [`CaError::Key`].
    pub fn make_issuing(&self, purpose: Purpose, name: &str, now_s: i64) -> Result<Self, CaError> {
        self.certificate.must_be(Purpose::Root)?;
        let key = Arc::new(SoftKey::generate()?);
        let root = &self.certificate;
        let issuer = profile::issuer(root.owner(), Purpose::Root, root.name(), &*self.key);
        let der = sign_ca(&issuer, root.owner(), purpose, name, key.public_key(), now_s)?;
        Self::new(CaCertificate::issuing(&der, purpose, root)?, key)
    }

    /// Signs what asks to be an issuing CA below this root. `now_s` is the time of issue, seconds since 1970.
    ///
    /// # Errors
    /// [`CaError::Purpose`] when this is no root or the request is for one; [`CaError::OtherIssuer`] when it is
    /// for another owner's hierarchy; [`CaError::Name`], [`CaError::Key`].
    pub fn certify(&self, request: &VerifiedCaRequest, now_s: i64) -> Result<CaCertificate, CaError> {
        let root = &self.certificate;
        root.must_be(Purpose::Root)?;
        let purpose = request.purpose();
        if purpose == Purpose::Root {
            return Err(CaError::Purpose { found: purpose, needed: Purpose::Operational });
        }
        if request.owner() != root.owner() {
            return Err(CaError::OtherIssuer);
        }
        let issuer = profile::issuer(root.owner(), Purpose::Root, root.name(), &*self.key);
        let der = sign_ca(&issuer, root.owner(), purpose, request.name(), request.key(), now_s)?;
        CaCertificate::issuing(&der, purpose, root)
    }

    /// This CA as a trust anchor for clients whose TLS library ends every chain in a self-signed certificate
    /// (OpenSSL, unless told otherwise): its name and key under a signature of its own, PEM. It trusts what
    /// this CA signs and nothing else, which the root in its place would not.
    ///
    /// # Errors
    /// [`CaError::Key`].
    pub fn anchor(&self, now_s: i64) -> Result<String, CaError> {
        let CaCertificate { owner, purpose, name, .. } = &self.certificate;
        let own = profile::issuer(owner, *purpose, name, &*self.key);
        let der = sign_ca(&own, owner, *purpose, name, self.key.public_key(), now_s)?;
        Ok(crate::keyfile::pem("CERTIFICATE", &der))
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

fn sign_ca(
    issuer: &rcgen::Issuer<'_, profile::ForRcgen<'_>>,
    owner: &str,
    purpose: Purpose,
    name: &str,
    key: &PublicKey,
    now_s: i64,
) -> Result<Vec<u8>, CaError> {
    if let Some(unfit) = [owner, name].into_iter().find(|text| !name::fits(text)) {
        return Err(CaError::Name(unfit.to_owned()));
    }
    let params = profile::ca_params(owner, purpose, name, key, CertificateSerial::draw()?, now_s);
    let certificate = params.signed_by(key, issuer).map_err(|_| KeyError::NotSigned)?;
    Ok(certificate.der().to_vec())
}

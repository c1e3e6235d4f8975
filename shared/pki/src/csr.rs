//! A certificate signing request that has been checked: whoever holds a [`VerifiedCsr`] knows that the
//! sender holds the key and asked for exactly the subject it was told to ask for. A [`VerifiedCaRequest`] is the
//! same for an issuing CA, which a ceremony signs; its writer is here too.

use muster_shared::{factory::Subject, limits::CSR_MAX};
use rcgen::CertificateParams;

use crate::{
    ca::CaError,
    der::{Der, NotDer, tag},
    key::{KeyError, PublicKey, SoftKey},
    keyfile, name,
    profile::{ForRcgen, Purpose},
    x509::ECDSA_WITH_SHA256,
};

const LABEL: &str = "CERTIFICATE REQUEST";

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`muster_shared::limits::CSR_MAX`].
    #[error("signing request is {0} octets long")]
    TooLong(usize),
    /// Not PKCS #10 in DER, or octets follow it.
    #[error("signing request is malformed")]
    Malformed,
    /// Its subject is not a device's: an attribute too many, too few, twice, or of a wrong form.
    #[error("signing request's subject: {0}")]
    Subject(&'static str),
    /// Not an uncompressed P-256 key.
    #[error("signing request is for a key that is not P-256")]
    NotP256,
    /// Not signed by its own key with ecdsa-with-SHA256.
    #[error("signing request is not signed by its own key")]
    WrongSignature,
    /// Not the subject it was told to ask for.
    #[error("signing request names another subject")]
    OtherSubject,
    /// It asks for extensions or carries other attributes; the profile decides, not the request.
    #[error("signing request asks for attributes")]
    Attributes,
}

/// A request whose signature proves possession of the key and whose subject is the one expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCsr {
    subject: Subject,
    key: PublicKey,
}

impl VerifiedCsr {
    /// Checks a request (PKCS #10, DER) for `subject`.
    ///
    /// # Errors
    /// [`CsrError`] names the first thing that is wrong.
    pub fn verify(der: &[u8], subject: &Subject) -> Result<Self, CsrError> {
        let (request, key) = proven(der)?;
        let asked = name::read_device(request.subject).map_err(CsrError::Subject)?;
        if asked != *subject {
            return Err(CsrError::OtherSubject);
        }
        if !request.attributes.is_empty() {
            return Err(CsrError::Attributes);
        }
        Ok(Self { subject: asked, key })
    }

    /// Who it is for.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The key whose possession it proves.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// A request for the certificate of an issuing CA: signed by the key it is for, and named as a CA is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCaRequest {
    owner: String,
    purpose: Purpose,
    name: String,
    key: PublicKey,
}

impl VerifiedCaRequest {
    /// Writes the request for `key` to become the CA of this name; PEM (RFC 7468 §7).
    ///
    /// # Errors
    /// [`CaError::Name`], [`CaError::Key`].
    pub fn write(owner: &str, purpose: Purpose, name: &str, key: &SoftKey) -> Result<String, CaError> {
        if let Some(unfit) = [owner, name].into_iter().find(|text| !name::fits(text)) {
            return Err(CaError::Name(unfit.to_owned()));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name::ca(owner, purpose, name);
        let request = params.serialize_request(&ForRcgen(key)).map_err(|_| KeyError::NotSigned)?;
        Ok(keyfile::pem(LABEL, request.der()))
    }

    /// Reads and checks what [`VerifiedCaRequest::write`] wrote.
    ///
    /// # Errors
    /// [`CsrError`] names the first thing that is wrong.
    pub fn verify(pem: &[u8]) -> Result<Self, CsrError> {
        let text = std::str::from_utf8(pem).ok();
        let der = text.and_then(|text| keyfile::unpem(LABEL, text)).ok_or(CsrError::Malformed)?;
        let (request, key) = proven(&der)?;
        let (owner, purpose, name) = name::read_ca(request.subject).map_err(CsrError::Subject)?;
        if !request.attributes.is_empty() {
            return Err(CsrError::Attributes);
        }
        Ok(Self { owner, purpose, name, key })
    }

    /// Whose it is to be.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// What it is to issue.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// What it is to be called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// A request that is signed by the key it is for, and that key. Possession first: nothing else in a request
/// counts before its signature does.
fn proven(der: &[u8]) -> Result<(Parts<'_>, PublicKey), CsrError> {
    if der.len() > CSR_MAX {
        return Err(CsrError::TooLong(der.len()));
    }
    let request = Parts::read(der).map_err(|_| CsrError::Malformed)?;
    let key = PublicKey::from_spki(request.spki).map_err(|_| CsrError::NotP256)?;
    if request.algorithm != ECDSA_WITH_SHA256 {
        return Err(CsrError::WrongSignature);
    }
    key.verify(request.info, request.signature).map_err(|_| CsrError::WrongSignature)?;
    Ok((request, key))
}

/// The fields of a CertificationRequest (RFC 2986 §4).
struct Parts<'a> {
    /// What is signed.
    info: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    attributes: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Result<Self, NotDer> {
        let mut outer = Der::new(der);
        let mut request = outer.inside(tag::SEQUENCE)?;
        outer.end()?;
        let info = request.element(tag::SEQUENCE)?;
        let algorithm = request.element(tag::SEQUENCE)?.whole;
        let (unused, signature) = request.value(tag::BIT_STRING)?.split_first().ok_or(NotDer)?;
        request.end()?;
        let mut fields = Der::new(info.value);
        let version = fields.value(tag::INTEGER)?;
        let subject = fields.element(tag::SEQUENCE)?.whole;
        let spki = fields.element(tag::SEQUENCE)?.whole;
        let attributes = fields.value(tag::CONTEXT_0)?;
        fields.end()?;
        if version != [0] || *unused != 0 {
            return Err(NotDer);
        }
        Ok(Self { info: info.whole, subject, spki, attributes, algorithm, signature })
    }
}

//! A certificate signing request that has been checked: whoever holds a [`VerifiedCsr`] knows that the
//! sender holds the key and asked for exactly the subject it was told to ask for.

use muster_shared::factory::Subject;

use crate::key::PublicKey;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`muster_shared::limits::CSR_MAX`].
    #[error("signing request is {0} octets long")]
    TooLong(usize),
    /// Not PKCS #10 in DER, or octets follow it.
    #[error("signing request is malformed")]
    Malformed,
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
        let _ = (der, subject);
        unimplemented!()
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

//! An issuing CA at work, in five ordered steps: 1 check, 2 record the intent, 3 sign, 4 re-verify,
//! 5 record the certificate.

use std::sync::Arc;

use muster_shared::CertificateId;

use crate::{
    ca::{Ca, CaCertificate, CaError},
    csr::VerifiedCsr,
    key::{KeyError, PublicKey, Signer},
    ledger::{Intent, Ledger},
    profile::{CertificateSerial, Profile, Purpose, ServerName},
};

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError<L> {
    /// This CA does not issue that kind of certificate.
    #[error("a CA for {purpose:?} does not issue this")]
    NotItsPurpose {
        /// What the CA is for.
        purpose: Purpose,
    },
    /// The serial is known with another key: two units carry one label, or one lost its key.
    #[error("serial belongs to another key")]
    OtherKey {
        /// Digest of the key it belongs to.
        known: [u8; 32],
        /// Digest of the key that asks.
        offered: [u8; 32],
    },
    /// The serial is known with the same key and another device id.
    #[error("serial was asked for under another device id")]
    OtherDeviceId,
    /// Outside what the profile allows; says which field.
    #[error("request does not fit the profile: {0}")]
    Profile(&'static str),
    /// What was signed is not what was meant. Nothing was recorded as issued.
    #[error("the signed certificate is not the intended one: {0}")]
    Reverify(#[source] CaError),
    /// The key did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The ledger could not be read or written.
    #[error("ledger: {0}")]
    Ledger(#[source] L),
}

/// What is asked for. The CA decides what it becomes.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// A device's certificate.
    Device(&'a VerifiedCsr),
    /// A server's certificate.
    Server {
        /// Its names, at least one; the first is its `CN` too.
        names: &'a [ServerName],
        /// Its key.
        key: &'a PublicKey,
    },
    /// The certificate of a service, a person or a station's manifest key.
    Named {
        /// `CN`, in the alphabet of ids.
        name: &'a str,
        /// Its key.
        key: &'a PublicKey,
    },
}

/// A certificate, signed, verified and recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// DER.
    pub certificate: Vec<u8>,
    /// Its SHA-256.
    pub id: CertificateId,
    /// What it says.
    pub intent: Intent,
    /// It had been intended before: this is the same certificate again.
    pub again: bool,
}

/// An issuing CA that can sign.
#[derive(Clone)]
pub struct Authority {
    ca: CaCertificate,
    key: Arc<dyn Signer>,
}

impl Authority {
    /// A CA whose key is in memory.
    #[must_use]
    pub fn new(ca: &Ca) -> Self {
        Self { ca: ca.certificate().clone(), key: ca.key().clone() }
    }

    /// A CA whose key is elsewhere.
    ///
    /// # Errors
    /// [`CaError::OtherKey`] when the key is not the certificate's.
    pub fn with_signer(ca: CaCertificate, key: Arc<dyn Signer>) -> Result<Self, CaError> {
        if ca.key() != key.public_key() {
            return Err(CaError::OtherKey);
        }
        Ok(Self { ca, key })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CaCertificate {
        &self.ca
    }

    /// The one profile this CA issues; `None` for the root, which issues CAs.
    #[must_use]
    pub fn profile(&self) -> Option<Profile> {
        unimplemented!()
    }

    /// Issues what is asked for, in the five steps. `fresh` becomes the certificate's serial number unless
    /// the same certificate had been intended before; `now_s` is the time of issue, seconds since 1970.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue<L: Ledger>(
        &self,
        request: &Request<'_>,
        ledger: &mut L,
        fresh: CertificateSerial,
        now_s: i64,
    ) -> Result<Issued, IssueError<L::Error>> {
        let _ = (request, ledger, fresh, now_s);
        unimplemented!()
    }

    /// Step 1 alone: what would be signed. For a ledger that cannot be called from here (an async one):
    /// record the intent, then [`Authority::sign`] it, then record the certificate.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn intend<E>(
        &self,
        request: &Request<'_>,
        known: Option<&Intent>,
        fresh: CertificateSerial,
        now_s: i64,
    ) -> Result<Intent, IssueError<E>> {
        let _ = (request, known, fresh, now_s);
        unimplemented!()
    }

    /// Steps 3 and 4: signs a recorded intent and re-verifies what came out.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn sign<E>(&self, intent: &Intent) -> Result<Vec<u8>, IssueError<E>> {
        let _ = intent;
        unimplemented!()
    }
}

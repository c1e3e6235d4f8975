//! An issuing CA at work, in five ordered steps: 1 check, 2 record the intent, 3 sign, 4 re-verify,
//! 5 record the certificate.

use std::sync::Arc;

use muster_shared::{CertificateId, StationId, factory::Subject};
use sha2::{Digest, Sha256};

use crate::{
    ca::{Ca, CaCertificate, CaError},
    csr::VerifiedCsr,
    identity::DeviceIdentity,
    key::{KeyError, PublicKey, Signer},
    ledger::{Holder, Intent, Ledger},
    name,
    profile::{self, BACKDATE_S, CertificateSerial, Profile, Purpose, ServerName},
    x509::{self, Certificate},
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
        self.ca.purpose().profile()
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
        let known = match request {
            Request::Device(csr) => match self.profile() {
                Some(profile) => ledger.find(profile, csr.subject()).map_err(IssueError::Ledger)?,
                None => None,
            },
            Request::Server { .. } | Request::Named { .. } => None,
        };
        // 1: everything that can be refused is refused here.
        let intent = self.intend(request, known.as_ref(), fresh, now_s)?;
        let again = known.as_ref() == Some(&intent);
        // 2: on disk before the key is touched, so that no certificate exists that nobody remembers.
        if !again {
            ledger.intend(&intent).map_err(IssueError::Ledger)?;
        }
        // 3 and 4.
        let certificate = self.sign(&intent)?;
        // 5: on disk before it is handed out.
        ledger.issued(&intent, &certificate).map_err(IssueError::Ledger)?;
        let id = CertificateId(Sha256::digest(&certificate).into());
        Ok(Issued { certificate, id, intent, again })
    }

    /// Step 1 alone: what would be signed. For a ledger that cannot be called from here (an async one):
    /// record the intent, then [`Authority::sign`] it, then record the certificate. `known` is the newest
    /// intent of this profile for the same tenant and serial.
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
        let refused = IssueError::NotItsPurpose { purpose: self.ca.purpose() };
        let profile = self.profile().ok_or(refused)?;
        let (holder, key) = self.holder(profile, request)?;
        if let (Some(known), Holder::Device(subject)) = (known, &holder)
            && let Some(intent) = self.intended_before(known, profile, subject, key, now_s)?
        {
            return Ok(intent);
        }
        if now_s > self.ca.not_after_s() {
            return Err(IssueError::Profile("the CA has ended"));
        }
        let intent = Intent {
            profile,
            issuer_key_id: self.ca.key_id(),
            certificate_serial: fresh,
            holder,
            spki: key.spki().to_vec(),
            not_before_s: (now_s - BACKDATE_S).max(self.ca.not_before_s()),
            not_after_s: profile.not_after_s(now_s).min(self.ca.not_after_s()),
        };
        Ok(intent)
    }

    /// Steps 3 and 4: signs a recorded intent and re-verifies what came out.
    ///
    /// # Errors
    /// [`IssueError::NotItsPurpose`] for another CA's intent, [`IssueError::Key`], [`IssueError::Reverify`].
    pub fn sign<E>(&self, intent: &Intent) -> Result<Vec<u8>, IssueError<E>> {
        if Some(intent.profile) != self.profile() || intent.issuer_key_id != self.ca.key_id() {
            return Err(IssueError::NotItsPurpose { purpose: self.ca.purpose() });
        }
        let key = PublicKey::from_spki(&intent.spki)?;
        let params = profile::leaf_params(intent, self.ca.owner());
        let issuer = profile::issuer(self.ca.owner(), self.ca.purpose(), self.ca.name(), &*self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(|_| KeyError::NotSigned)?;
        self.reverify(intent, certificate.der()).map_err(IssueError::Reverify)?;
        Ok(certificate.der().to_vec())
    }

    /// Whose the certificate will be, if this CA's profile is for that kind of holder.
    fn holder<'r, E>(
        &self,
        profile: Profile,
        request: &Request<'r>,
    ) -> Result<(Holder, &'r PublicKey), IssueError<E>> {
        match (profile, request) {
            (Profile::Birth | Profile::Operational, Request::Device(csr)) => {
                Ok((Holder::Device(csr.subject().clone()), csr.key()))
            }
            (Profile::Broker | Profile::Https, Request::Server { names, key }) => {
                match names.first().map(ToString::to_string) {
                    None => Err(IssueError::Profile("no name for the server")),
                    Some(first) if !name::fits(&first) => {
                        Err(IssueError::Profile("the server's first name is longer than 64 characters"))
                    }
                    Some(_) => Ok((Holder::Server(names.to_vec()), key)),
                }
            }
            (
                Profile::Service | Profile::Operator | Profile::StationManifest,
                Request::Named { name, key },
            ) => match name.parse::<StationId>() {
                Ok(_) => Ok((Holder::Named((*name).to_owned()), key)),
                Err(_) => Err(IssueError::Profile("the name is outside the alphabet of ids")),
            },
            _ => Err(IssueError::NotItsPurpose { purpose: self.ca.purpose() }),
        }
    }

    /// The known intent, when the same certificate is asked for again.
    fn intended_before<E>(
        &self,
        known: &Intent,
        profile: Profile,
        subject: &Subject,
        key: &PublicKey,
        now_s: i64,
    ) -> Result<Option<Intent>, IssueError<E>> {
        let same_key = known.spki == key.spki();
        if profile == Profile::Birth && !same_key {
            let known = Sha256::digest(&known.spki).into();
            return Err(IssueError::OtherKey { known, offered: key.digest() });
        }
        // A device makes a new key for each operational certificate, and a new one for an ended one's key.
        if !same_key || known.not_after_s <= now_s {
            return Ok(None);
        }
        if known.holder != Holder::Device(subject.clone()) {
            return Err(IssueError::OtherDeviceId);
        }
        if known.issuer_key_id != self.ca.key_id() {
            return Err(IssueError::Profile("the serial has a certificate of another CA"));
        }
        Ok(Some(known.clone()))
    }

    /// Step 4: reads the certificate back as a stranger would, and compares it with what was meant.
    fn reverify(&self, intent: &Intent, der: &[u8]) -> Result<(), CaError> {
        self.ca.vouches_for(der)?;
        let read = Certificate::read(der)?;
        let differs = |field| CaError::from((field, "not what was intended"));
        if read.serial != intent.certificate_serial {
            return Err(differs("serial number"));
        }
        if (read.not_before_s, read.not_after_s) != (intent.not_before_s, intent.not_after_s) {
            return Err(differs("validity"));
        }
        if read.spki != intent.spki {
            return Err(differs("key"));
        }
        if read.required(x509::KEY_USAGE, "keyUsage", true)? != x509::DIGITAL_SIGNATURE {
            return Err(differs("keyUsage"));
        }
        let (owner, first) = (self.ca.owner(), |names: &[ServerName]| names.first().map(ToString::to_string));
        let usage = [x509::AUTHORITY_KEY_ID, x509::KEY_USAGE, x509::EXT_KEY_USAGE, x509::SUBJECT_ALT_NAME];
        match &intent.holder {
            Holder::Device(subject) => {
                let device = DeviceIdentity::from_certificate(der)
                    .map_err(|error| CaError::from((error.field, error.why)))?;
                if device.subject() != *subject || device.profile != intent.profile {
                    return Err(differs("subject"));
                }
            }
            Holder::Server(names) => {
                let name = first(names).unwrap_or_default();
                if name::read_other(read.subject) != Ok((owner, &name)) {
                    return Err(differs("subject"));
                }
                read.required(x509::SUBJECT_ALT_NAME, "subjectAltName", false)?;
                if read.required(x509::EXT_KEY_USAGE, "extKeyUsage", false)? != x509::SERVER_AUTH {
                    return Err(differs("extKeyUsage"));
                }
                read.only(&usage)?;
            }
            Holder::Named(name) => {
                if name::read_other(read.subject) != Ok((owner, name)) {
                    return Err(differs("subject"));
                }
                if intent.profile == Profile::StationManifest {
                    read.only(&usage[..2])?;
                } else {
                    if read.required(x509::EXT_KEY_USAGE, "extKeyUsage", false)? != x509::CLIENT_AUTH {
                        return Err(differs("extKeyUsage"));
                    }
                    read.only(&usage[..3])?;
                }
            }
        }
        Ok(())
    }
}

//! What was decided to be signed, recorded before it is signed.

use std::collections::BTreeMap;

use muster_shared::factory::Subject;
use serde::{Deserialize, Serialize};

use crate::profile::{CertificateSerial, Profile, ServerName};

/// A certificate that will be signed: everything that goes into it. Signing the same intent again gives
/// the same certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What it will be.
    pub profile: Profile,
    /// The issuing CA's key identifier.
    pub issuer_key_id: [u8; 20],
    /// Its serial number.
    pub certificate_serial: CertificateSerial,
    /// Whose it will be.
    pub holder: Holder,
    /// The holder's SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// notBefore, seconds since 1970.
    pub not_before_s: i64,
    /// notAfter, seconds since 1970.
    pub not_after_s: i64,
}

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    /// A device.
    Device(Subject),
    /// A server, by its names; the first is its `CN` too.
    Server(Vec<ServerName>),
    /// A service, a person or a station, by its name.
    Named(String),
}

/// Where intents are kept. A station keeps them in its journal, the server in its registry.
pub trait Ledger {
    /// Why it could not be kept or read.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The intent for a device certificate of this profile, tenant and serial, newest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn find(&self, profile: Profile, subject: &Subject) -> Result<Option<Intent>, Self::Error>;

    /// Records the intent. When this returns, it is on disk.
    ///
    /// # Errors
    /// When it could not be kept; then nothing is signed.
    fn intend(&mut self, intent: &Intent) -> Result<(), Self::Error>;

    /// Records the certificate an intent became.
    ///
    /// # Errors
    /// When it could not be kept; then the certificate is not handed out.
    fn issued(&mut self, intent: &Intent, certificate: &[u8]) -> Result<(), Self::Error>;
}

/// A ledger that forgets: for certificates that are made anew at each start, and for tests.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger {
    intents: BTreeMap<(Profile, String, String), Intent>,
    issued: Vec<Vec<u8>>,
}

impl MemoryLedger {
    /// The certificates issued, in order.
    #[must_use]
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.issued
    }
}

impl Ledger for MemoryLedger {
    type Error = std::convert::Infallible;

    fn find(&self, profile: Profile, subject: &Subject) -> Result<Option<Intent>, Self::Error> {
        let key = (profile, subject.tenant.to_string(), subject.serial.to_string());
        Ok(self.intents.get(&key).cloned())
    }

    fn intend(&mut self, intent: &Intent) -> Result<(), Self::Error> {
        if let Holder::Device(subject) = &intent.holder {
            let key = (intent.profile, subject.tenant.to_string(), subject.serial.to_string());
            self.intents.insert(key, intent.clone());
        }
        Ok(())
    }

    fn issued(&mut self, _intent: &Intent, certificate: &[u8]) -> Result<(), Self::Error> {
        self.issued.push(certificate.to_vec());
        Ok(())
    }
}

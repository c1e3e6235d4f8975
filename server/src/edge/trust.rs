//! Whom the edge believes, beyond the devices of the registry: how certificates are verified, the authorities
//! of the server's bundle that issue to clients, and the services of the configuration.
//!
//! A service needs both: a certificate of the service authority, whose `CN` is its name, and an entry of that
//! name. Neither is of use alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use muster_pki::CaCertificate;
use muster_shared::CertificateId;
use rustls_pki_types::CertificateDer;

use super::principal::Service;

/// How a device's certificate is verified. Both ways give the same verdict; they differ in what they cost and
/// in what they lean on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// A certificate the registry holds is recognised by its full SHA-256; its chain was verified when it got
    /// there. Any other is verified up to its authority.
    #[default]
    Pinned,
    /// Every certificate is verified up to its authority, at every connection.
    Chain,
}

/// An authority whose key the server's bundle holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issuer {
    pub(super) key_id: [u8; 20],
    pub(super) certificate: CertificateDer<'static>,
}

impl From<&CaCertificate> for Issuer {
    fn from(ca: &CaCertificate) -> Self {
        Self { key_id: ca.key_id(), certificate: CertificateDer::from(ca.der().to_vec()) }
    }
}

/// Whom the edge believes, beyond the registry.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// How a device's certificate is verified.
    pub verify: Verify,
    operational: Vec<Issuer>,
    service: Vec<Issuer>,
    services: BTreeMap<Box<str>, Arc<Service>>,
    revoked: BTreeSet<CertificateId>,
}

impl Trust {
    /// Devices of registered stations, and nobody else.
    #[must_use]
    pub fn new(verify: Verify) -> Self {
        Self { verify, ..Self::default() }
    }

    /// With an authority of operational certificates, which chain mode verifies them by. One that was rotated
    /// is still one.
    #[must_use]
    pub fn operational(mut self, ca: &CaCertificate) -> Self {
        self.operational.push(ca.into());
        self
    }

    /// With an authority that was rotated, whose service certificates are still good.
    #[must_use]
    pub fn former_service(mut self, ca: &CaCertificate) -> Self {
        self.service.push(ca.into());
        self
    }

    /// With services: who their authority is, what each may do, and which of their certificates are not to
    /// be accepted any more. Of two services of one name the later counts.
    #[must_use]
    pub fn services(
        mut self,
        ca: &CaCertificate,
        services: impl IntoIterator<Item = Arc<Service>>,
        revoked: impl IntoIterator<Item = CertificateId>,
    ) -> Self {
        self.service.push(ca.into());
        self.services = services.into_iter().map(|service| (service.name().into(), service)).collect();
        self.revoked = revoked.into_iter().collect();
        self
    }

    /// The service of this name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The certificates of services that the configuration does not accept any more.
    pub fn withdrawn(&self) -> impl Iterator<Item = &CertificateId> {
        self.revoked.iter()
    }

    /// Is this certificate of a service not to be accepted any more?
    #[must_use]
    pub fn revoked(&self, certificate: &CertificateId) -> bool {
        self.revoked.contains(certificate)
    }

    /// Did a service authority sign under this key identifier?
    pub(super) fn is_service_issuer(&self, key_id: &[u8; 20]) -> bool {
        self.service_issuer(key_id).is_some()
    }

    /// The service authority of this key identifier.
    pub(super) fn service_issuer(&self, key_id: &[u8; 20]) -> Option<&Issuer> {
        self.service.iter().find(|issuer| issuer.key_id == *key_id)
    }

    /// The authority of operational certificates of this key identifier.
    pub(super) fn operational_issuer(&self, key_id: &[u8; 20]) -> Option<&Issuer> {
        self.operational.iter().find(|issuer| issuer.key_id == *key_id)
    }

    /// Every service authority.
    pub(super) fn service_issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.service.iter()
    }
}

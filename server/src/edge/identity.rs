//! Who is at the other end: read once, from the certificate the connection itself was verified with.

use std::sync::Arc;

use muster_pki::{DeviceIdentity, identity::ProfileError};
use muster_shared::CertificateId;

use crate::registry::DeviceName;

/// A client whose certificate was verified and who has proved its key. Whether it may talk is the gate's
/// to say.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// What its certificate calls it.
    pub name: Arc<DeviceName>,
    /// SHA-256 of its certificate.
    pub certificate: CertificateId,
    /// Key identifier of the CA that issued it.
    pub issuer_key_id: [u8; 20],
    /// The certificate's first good second, Unix seconds.
    pub not_before_s: i64,
}

impl Visitor {
    /// Reads the leaf of a finished handshake.
    ///
    /// # Errors
    /// [`ProfileError`] for a certificate that is in the registry and does not fit the device profile.
    pub fn from_leaf(der: &[u8]) -> Result<Self, ProfileError> {
        let identity = DeviceIdentity::from_certificate(der)?;
        Ok(Self {
            certificate: identity.id,
            issuer_key_id: identity.issuer_key_id,
            not_before_s: identity.not_before_s,
            name: Arc::new(DeviceName {
                tenant: identity.tenant,
                device_id: identity.device_id,
                serial: identity.serial,
            }),
        })
    }
}

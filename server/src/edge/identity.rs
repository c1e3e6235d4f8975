//! Who is at the other end: read once, from the certificate the connection itself was verified with.

use std::sync::Arc;

use muster_pki::{DeviceIdentity, ServiceIdentity, identity::ProfileError};
use muster_shared::CertificateId;

use super::{
    principal::{Principal, Service},
    trust::Trust,
};
use crate::registry::DeviceName;

/// A client whose certificate was verified and who has proved its key. Whether it may talk is the gate's
/// to say.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// What its certificate calls it. A service that is not configured may do nothing.
    pub principal: Principal,
    /// SHA-256 of its certificate.
    pub certificate: CertificateId,
    /// Key identifier of the CA that issued it.
    pub issuer_key_id: [u8; 20],
    /// The certificate's first good second, Unix seconds.
    pub not_before_s: i64,
    /// The certificate's last good second, Unix seconds.
    pub not_after_s: i64,
}

impl Visitor {
    /// Reads the leaf of a finished handshake. The issuing CA alone decides what it is: a service where the
    /// service authority signed it, a device otherwise.
    ///
    /// # Errors
    /// [`ProfileError`] for a certificate that is in the registry and does not fit the device profile.
    pub fn from_leaf(der: &[u8], trust: &Trust) -> Result<Self, ProfileError> {
        match DeviceIdentity::from_certificate(der) {
            Ok(device) => Ok(device.into()),
            Err(not_a_device) => match ServiceIdentity::from_certificate(der) {
                Ok(service) if trust.is_service_issuer(&service.issuer_key_id) => {
                    Ok(Self::service(service, trust))
                }
                _ => Err(not_a_device),
            },
        }
    }

    fn service(identity: ServiceIdentity, trust: &Trust) -> Self {
        let configured = trust.service(identity.name.as_str()).cloned();
        let principal = configured.unwrap_or_else(|| Arc::new(Service::powerless(identity.name)));
        Self {
            principal: Principal::Service(principal),
            certificate: identity.id,
            issuer_key_id: identity.issuer_key_id,
            not_before_s: identity.not_before_s,
            not_after_s: identity.not_after_s,
        }
    }
}

impl From<DeviceIdentity> for Visitor {
    fn from(identity: DeviceIdentity) -> Self {
        Self {
            certificate: identity.id,
            issuer_key_id: identity.issuer_key_id,
            not_before_s: identity.not_before_s,
            not_after_s: identity.not_after_s,
            principal: Principal::Device(Arc::new(DeviceName {
                tenant: identity.tenant,
                device_id: identity.device_id,
                serial: identity.serial,
            })),
        }
    }
}

//! A device certificate, or what is shown in its place: read before anybody vouches for it.

use muster_pki::DeviceIdentity;
use muster_shared::{CertificateId, limits::CERTIFICATE_MAX};
use sha2::{Digest, Sha256};

/// Reads octets as a device certificate. Whatever is accepted is what it says it is.
pub fn run(octets: &[u8]) {
    let Ok(identity) = DeviceIdentity::from_certificate(octets) else { return };
    assert!(octets.len() <= CERTIFICATE_MAX);
    assert_eq!(identity.id, CertificateId(Sha256::digest(octets).into()));
    // The names are good for topics, and survive their own text.
    assert_eq!(identity.tenant.as_str().parse(), Ok(identity.tenant.clone()));
    assert_eq!(identity.device_id.as_str().parse(), Ok(identity.device_id.clone()));
    assert!(!identity.device_id.as_str().contains(['/', '+', '#', '$', '\0']));
    assert!(identity.not_before_s <= identity.not_after_s);
    // Read twice, read the same; and a certificate has one length.
    assert_eq!(DeviceIdentity::from_certificate(octets).as_ref(), Ok(&identity));
    let longer = [octets, &[0]].concat();
    assert!(DeviceIdentity::from_certificate(&longer).is_err(), "octets behind the certificate");
    assert!(DeviceIdentity::from_certificate(&octets[..octets.len() - 1]).is_err(), "octets missing");
}

//! A device's or a service's certificate, or what is shown in its place: read before anybody vouches for it.

use muster_pki::{DeviceIdentity, ServiceIdentity};
use muster_shared::{CertificateId, limits::CERTIFICATE_MAX};
use sha2::{Digest, Sha256};

/// Reads octets as either. Whatever is accepted is what it says it is.
pub fn run(octets: &[u8]) {
    service(octets);
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

fn service(octets: &[u8]) {
    let Ok(identity) = ServiceIdentity::from_certificate(octets) else { return };
    assert!(octets.len() <= CERTIFICATE_MAX);
    assert_eq!(identity.id, CertificateId(Sha256::digest(octets).into()));
    assert_eq!(identity.name.as_str().parse(), Ok(identity.name.clone()));
    assert!(identity.not_before_s <= identity.not_after_s);
    assert_eq!(ServiceIdentity::from_certificate(octets).as_ref(), Ok(&identity));
    let longer = [octets, &[0]].concat();
    assert!(ServiceIdentity::from_certificate(&longer).is_err(), "octets behind the certificate");
    assert!(ServiceIdentity::from_certificate(&octets[..octets.len() - 1]).is_err(), "octets missing");
}

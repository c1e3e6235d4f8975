//! Whose certificate is let through the handshake, and which alert the others get.
//!
//! ```text
//! exactly this certificate is in the registry ── ended ─► certificate_expired
//!     │ no                                   └── else ─► through; its chain was verified when it got there
//! a registered factory CA signed it ── no ─► unknown_ca        (the gate tells the client the rest in CONNACK:
//!     │ yes                                                     suspended, revoked, not imported, ...)
//! it is valid now ── no ─► certificate_expired
//! it fits the device profile ── no ─► bad_certificate
//!     └─ yes ─► through
//! ```
//!
//! Whoever is let through has still to prove the key: rustls checks CertificateVerify against it.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use muster_pki::DeviceIdentity;
use muster_shared::CertificateId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, aws_lc_rs::ECDSA_P256_SHA256};

use crate::registry::Verdicts;

/// P-256 with SHA-256, and nothing else: it is what every profile says.
const ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[ECDSA_P256_SHA256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[ECDSA_P256_SHA256])],
};

pub(super) struct DeviceVerifier {
    verdicts: Arc<Verdicts>,
}

impl DeviceVerifier {
    pub(super) fn new(verdicts: Arc<Verdicts>) -> Self {
        Self { verdicts }
    }

    /// A registered factory CA's signature, and validity now. A withdrawn CA is still recognised: the gate
    /// says so.
    fn vouched(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let identity = DeviceIdentity::from_certificate(leaf);
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| bad())?;
        let named = identity.as_ref().ok().and_then(|identity| self.verdicts.issuer(&identity.issuer_key_id));
        // A certificate whose form hides its issuer may still be one of ours gone wrong.
        let candidates = match named {
            Some(issuer) => Arc::new(vec![issuer.certificate.clone()]),
            None if identity.is_err() => self.verdicts.factory_roots(),
            None => return Err(unknown()),
        };
        let anchors: Vec<_> =
            candidates.iter().filter_map(|ca| webpki::anchor_from_trusted_cert(ca).ok()).collect();
        let usage = KeyUsage::client_auth();
        match certificate.verify_for_usage(ALGORITHMS.all, &anchors, &[], now, usage, None, None) {
            Ok(_) => {}
            Err(webpki::Error::CertExpired { .. }) => {
                return Err(Error::InvalidCertificate(CertificateError::Expired));
            }
            Err(webpki::Error::CertNotValidYet { .. }) => {
                return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
            }
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
                return Err(unknown());
            }
            // webpki may object to the form before it looks at the signature.
            Err(_) => return Err(bad()),
        }
        identity.map(|_| ()).map_err(|_| bad())
    }
}

/// SHA-256 of a certificate.
pub(in crate::edge) fn certificate_id(der: &[u8]) -> CertificateId {
    let digest = digest(&SHA256, der);
    let mut id = [0; 32];
    id.copy_from_slice(digest.as_ref());
    CertificateId(id)
}

impl ClientCertVerifier for DeviceVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A device has one certificate at a time; a list of our CAs would help nobody but a scanner.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.verdicts.certificate(&certificate_id(leaf)) {
            Some(known) => {
                let end = Duration::from_secs(u64::try_from(known.not_after_s).unwrap_or(0));
                if now > UnixTime::since_unix_epoch(end) {
                    return Err(Error::InvalidCertificate(CertificateError::Expired));
                }
            }
            None => self.vouched(leaf, now)?,
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl fmt::Debug for DeviceVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceVerifier")
    }
}

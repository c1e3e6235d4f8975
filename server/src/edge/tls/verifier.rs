//! Whose certificate is let through the handshake, and which alert the others get.
//!
//! ```text
//! exactly this certificate is in the registry ── ended ─► certificate_expired
//!     │ no                                   └── else ─► through; in chain mode only when its authority signed it
//! its authority signed it ── no ─► unknown_ca              (the gate tells the client the rest in CONNACK:
//!     │ yes                                                 suspended, revoked, not imported, not configured, ...)
//! it is valid now ── no ─► certificate_expired
//! it fits its profile ── no ─► bad_certificate
//!     └─ yes ─► through
//! ```
//!
//! The authority of a device is a registered factory CA; of a service it is the service CA. A device's
//! operational certificate is the registry's to know: one it does not hold is nobody's.
//!
//! Whoever is let through has still to prove the key: rustls checks CertificateVerify against it.

#[cfg(test)]
mod tests;

use std::{cell::Cell, fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use muster_pki::{DeviceIdentity, ServiceIdentity};
use muster_shared::CertificateId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, aws_lc_rs::ECDSA_P256_SHA256};

use crate::{
    edge::trust::{Trust, Verify},
    registry::Verdicts,
};

/// P-256 with SHA-256, and nothing else: it is what every profile says.
const ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[ECDSA_P256_SHA256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[ECDSA_P256_SHA256])],
};

thread_local! {
    /// The certificate that was refused last on this thread: rustls' error does not say which it was.
    static REFUSED: Cell<Option<CertificateId>> = const { Cell::new(None) };
}

/// The certificate that was refused on this thread since this was asked last. Whoever drives a connection
/// asks right before and right after: its calls do not interleave with another's in between.
pub(super) fn refused() -> Option<CertificateId> {
    REFUSED.take()
}

pub(super) struct ClientVerifier {
    verdicts: Arc<Verdicts>,
    trust: Arc<Trust>,
}

/// What a certificate's form says it is, and so who has to have signed it.
struct Vouching {
    authorities: Vec<CertificateDer<'static>>,
    /// The form is a profile's; otherwise a signature only tells whose mishap it is.
    fits: bool,
}

impl ClientVerifier {
    pub(super) fn new(verdicts: Arc<Verdicts>, trust: Arc<Trust>) -> Self {
        Self { verdicts, trust }
    }

    fn verified(&self, leaf: &CertificateDer<'_>, id: &CertificateId, now: UnixTime) -> Result<(), Error> {
        let Some(known) = self.verdicts.certificate(id) else { return self.vouched(leaf, false, now) };
        let end = Duration::from_secs(u64::try_from(known.not_after_s).unwrap_or(0));
        if now > UnixTime::since_unix_epoch(end) {
            return Err(Error::InvalidCertificate(CertificateError::Expired));
        }
        if self.trust.verify == Verify::Chain {
            match self.vouched(leaf, true, now) {
                // Known, and so told in CONNACK why it has to wait.
                Ok(()) | Err(Error::InvalidCertificate(CertificateError::NotValidYet)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The signature of the authority it names, and validity now. A withdrawn CA is still recognised: the
    /// gate says so.
    fn vouched(&self, leaf: &CertificateDer<'_>, registered: bool, now: UnixTime) -> Result<(), Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| bad())?;
        let Vouching { authorities, fits } = self.vouching(leaf, registered).ok_or_else(unknown)?;
        let anchors: Vec<_> =
            authorities.iter().filter_map(|ca| webpki::anchor_from_trusted_cert(ca).ok()).collect();
        let usage = KeyUsage::client_auth();
        match certificate.verify_for_usage(ALGORITHMS.all, &anchors, &[], now, usage, None, None) {
            Ok(_) if fits => Ok(()),
            Err(webpki::Error::CertExpired { .. }) => {
                Err(Error::InvalidCertificate(CertificateError::Expired))
            }
            Err(webpki::Error::CertNotValidYet { .. }) => {
                Err(Error::InvalidCertificate(CertificateError::NotValidYet))
            }
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => Err(unknown()),
            // webpki may object to the form before it looks at the signature.
            Ok(_) | Err(_) => Err(bad()),
        }
    }

    /// `None`: it names an authority that is none of ours for what it is.
    fn vouching(&self, leaf: &CertificateDer<'_>, registered: bool) -> Option<Vouching> {
        let one = |certificate: &CertificateDer<'static>| {
            Some(Vouching { authorities: vec![certificate.clone()], fits: true })
        };
        if let Ok(device) = DeviceIdentity::from_certificate(leaf) {
            if let Some(factory) = self.verdicts.issuer(&device.issuer_key_id) {
                return one(&factory.certificate);
            }
            let own = self.trust.operational_issuer(&device.issuer_key_id).filter(|_| registered);
            return one(&own?.certificate);
        }
        if let Ok(named) = ServiceIdentity::from_certificate(leaf)
            && let Some(ca) = self.trust.service_issuer(&named.issuer_key_id)
        {
            return one(&ca.certificate);
        }
        // A certificate whose form hides its issuer may still be one of ours gone wrong.
        let mut authorities = self.verdicts.factory_roots().to_vec();
        authorities.extend(self.trust.service_issuers().map(|ca| ca.certificate.clone()));
        Some(Vouching { authorities, fits: false })
    }
}

fn unknown() -> Error {
    Error::InvalidCertificate(CertificateError::UnknownIssuer)
}

fn bad() -> Error {
    Error::InvalidCertificate(CertificateError::BadEncoding)
}

/// SHA-256 of a certificate.
pub(in crate::edge) fn certificate_id(der: &[u8]) -> CertificateId {
    let digest = digest(&SHA256, der);
    let mut id = [0; 32];
    id.copy_from_slice(digest.as_ref());
    CertificateId(id)
}

impl ClientCertVerifier for ClientVerifier {
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
        let id = certificate_id(leaf);
        self.verified(leaf, &id, now).inspect_err(|_| REFUSED.set(Some(id)))?;
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
            .inspect_err(|_| REFUSED.set(Some(certificate_id(certificate))))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}

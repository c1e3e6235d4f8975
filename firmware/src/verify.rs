//! Is this broker the one the anchors vouch for? Path validation, without a connection.
//!
//! `rustls-webpki` checks the path; this file gives it P-256 from the `p256` crate and adds what it
//! leaves out: keyUsage of the leaf, and what can be said about validity without a clock.
//!
//! A broker's chain is its leaf: broker CAs have `pathLen 0` and are the anchors. Other certificates a
//! server sends along are not looked at, so neither a device certificate nor anything else can stand
//! between.

use p256::ecdsa::{Signature, VerifyingKey, signature::Verifier as _};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName, SignatureVerificationAlgorithm,
    TrustAnchor, UnixTime, alg_id,
};
use webpki::{EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

use crate::x509::View;

/// id-kp-serverAuth, 1.3.6.1.5.5.7.3.1 (RFC 5280 §4.2.1.12).
const SERVER_AUTH: KeyUsage = KeyUsage::required(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]);

/// Whom the device believes.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// Broker CA certificates, DER: one, or two while one hands over to the next. No more are looked at.
    pub anchors: &'a [&'a [u8]],
    /// The name, or IP address, the broker's certificate must carry as SAN.
    pub server_name: &'a str,
    /// Seconds since 1970, as far as they are known.
    pub time: Time,
}

/// What the device knows of the time, seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// It is not earlier than this. A certificate that ended before it is refused; that a certificate is
    /// valid already cannot be checked, and is not claimed.
    Floor(u64),
    /// It is this.
    Known(u64),
}

/// Why a server is not believed. The words stand in the device's log after "server not trusted:".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// No anchor signed the certificate, whatever it says who did.
    #[error("issuer not pinned")]
    Issuer,
    /// It names somebody else.
    #[error("wrong name")]
    Name,
    /// It has ended.
    #[error("certificate ended")]
    Ended,
    /// It is not valid yet.
    #[error("certificate not valid yet")]
    NotYetValid,
    /// It is not for a TLS server.
    #[error("not a server certificate")]
    Usage,
    /// It cannot be read, or has what we do not understand.
    #[error("unreadable certificate")]
    Form,
    /// The server did not prove that it holds the certificate's key.
    #[error("key not proven")]
    Proof,
    /// Certificate and proof did not come, or not in that order, once each.
    #[error("no certificate and proof")]
    Order,
    /// It did not ask for our certificate, so it does not authenticate its clients.
    #[error("it does not ask who we are")]
    OneSided,
}

/// A leaf that passed: its key, and what it says about the time.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The key that must sign the handshake.
    pub key: VerifyingKey,
    /// Seconds since 1970. Its issuer did not live before this.
    pub not_before: u64,
    /// Seconds since 1970. What this server says about the time is believed up to here.
    pub not_after: u64,
}

/// Checks a server's leaf certificate (DER) against `trust`.
///
/// # Errors
/// [`Distrust`] names the first thing that is wrong.
pub fn leaf(certificate: &[u8], trust: &Trust<'_>) -> Result<Leaf, Distrust> {
    let view = View::read(certificate).map_err(|_| Distrust::Form)?;
    let at = match trust.time {
        Time::Known(now) => now,
        // Any instant at or after the floor may be now; the earliest at which the certificate can be valid
        // leaves exactly one check, that it had not ended by the floor.
        Time::Floor(floor) => floor.max(view.not_before),
    };
    let der = CertificateDer::from(certificate);
    let end = EndEntityCert::try_from(&der).map_err(|e| distrust(&e))?;
    let name = ServerName::try_from(trust.server_name).map_err(|_| Distrust::Name)?;

    let mut result = Err(Distrust::Issuer);
    for anchor in trust.anchors.iter().take(muster_shared::limits::ANCHORS_MAX) {
        let anchor = CertificateDer::from(*anchor);
        let anchors: [TrustAnchor<'_>; 1] = [match anchor_from_trusted_cert(&anchor) {
            Ok(anchor) => anchor,
            Err(_) => continue,
        }];
        let at = UnixTime::since_unix_epoch(core::time::Duration::from_secs(at));
        let path = end.verify_for_usage(&[&P256Sha256], &anchors, &[], at, SERVER_AUTH, None, None);
        match path.map(|_| ()).map_err(|e| distrust(&e)) {
            // The other anchor may be its issuer, even of the same name.
            Err(Distrust::Issuer) => {}
            other => {
                result = other;
                break;
            }
        }
    }
    result?;
    end.verify_is_valid_for_subject_name(&name).map_err(|e| distrust(&e))?;
    if !view.may_sign() {
        return Err(Distrust::Usage);
    }
    let key = view.key().ok_or(Distrust::Form)?;
    Ok(Leaf { key, not_before: view.not_before, not_after: view.not_after })
}

fn distrust(error: &Error) -> Distrust {
    match error {
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => Distrust::Issuer,
        Error::CertNotValidForName(_) | Error::UnsupportedNameType => Distrust::Name,
        Error::CertExpired { .. } => Distrust::Ended,
        Error::CertNotValidYet { .. } => Distrust::NotYetValid,
        Error::RequiredEkuNotFoundContext(_) | Error::CaUsedAsEndEntity | Error::EmptyEkuExtension => {
            Distrust::Usage
        }
        _ => Distrust::Form,
    }
}

/// ecdsa-with-SHA256 on P-256, verified by the `p256` crate.
#[derive(Debug)]
struct P256Sha256;

impl SignatureVerificationAlgorithm for P256Sha256 {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(key).map_err(|_| InvalidSignature)?;
        let signature = Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        key.verify(message, &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

//! P-256 keys: the public half as everybody sees it, and what signs with the private half.

use std::fmt;

use aws_lc_rs::{rand, signature};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use muster_shared::limits::SPKI_P256;
use p256::{
    ecdsa::{SigningKey, signature::Signer as _},
    pkcs8::{DecodePrivateKey, EncodePrivateKey},
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What stands before the point in the SubjectPublicKeyInfo of an uncompressed P-256 key (RFC 5480 §2).
const SPKI_HEAD: [u8; SPKI_P256 - 65] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why octets are not a key of ours, or a key did not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another algorithm, another curve, a compressed point, or not a SubjectPublicKeyInfo.
    #[error("key is not an uncompressed P-256 key")]
    NotP256,
    /// The right form, but no point of the curve.
    #[error("key is not a point of the curve P-256")]
    NotOnCurve,
    /// Not PKCS #8 with a P-256 key.
    #[error("private key is not a P-256 key in PKCS #8")]
    NotPkcs8,
    /// The system gives no random octets.
    #[error("the system's random source failed")]
    NoRandomness,
    /// The key's holder did not sign.
    #[error("the key's holder did not sign")]
    NotSigned,
    /// The signature is not this key's over these octets.
    #[error("signature is wrong")]
    WrongSignature,
}

/// A P-256 public key: a point of the curve, uncompressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; SPKI_P256]);

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`KeyError::NotP256`], [`KeyError::NotOnCurve`].
    pub fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let spki: [u8; SPKI_P256] = spki.try_into().map_err(|_| KeyError::NotP256)?;
        if !spki.starts_with(&SPKI_HEAD) || spki[SPKI_HEAD.len()] != 0x04 {
            return Err(KeyError::NotP256);
        }
        p256::PublicKey::from_sec1_bytes(&spki[SPKI_HEAD.len()..]).map_err(|_| KeyError::NotOnCurve)?;
        Ok(Self(spki))
    }

    /// The key as SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn spki(&self) -> &[u8; SPKI_P256] {
        &self.0
    }

    /// The uncompressed point: 0x04 ‖ x ‖ y.
    #[must_use]
    pub fn point(&self) -> &[u8] {
        &self.0[SPKI_HEAD.len()..]
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// The key identifier certificates carry: the first 20 octets of [`PublicKey::digest`].
    #[must_use]
    pub fn key_id(&self) -> [u8; 20] {
        let digest = self.digest();
        std::array::from_fn(|at| digest[at])
    }

    /// Is `signature` (ECDSA with SHA-256, DER) this key's over `message`?
    ///
    /// # Errors
    /// [`KeyError::WrongSignature`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, self.point())
            .verify(message, signature)
            .map_err(|_| KeyError::WrongSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey(")?;
        self.digest()[..8].iter().try_for_each(|octet| write!(f, "{octet:02x}"))?;
        f.write_str("…)")
    }
}

/// Holds a private key and signs with it. A file does ([`SoftKey`]); a token or a remote signer may.
///
/// A signer must be deterministic (RFC 6979) where one intent has to give one certificate.
pub trait Signer: Send + Sync {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// ECDSA with SHA-256 over `message`, in DER.
    ///
    /// # Errors
    /// [`KeyError::NotSigned`] when the key's holder refuses or cannot be reached.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// A private key in memory. Wiped when dropped; it has no `Debug`.
pub struct SoftKey {
    private: SigningKey,
    public: PublicKey,
}

impl SoftKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = Zeroizing::new([0; 32]);
        loop {
            fill(secret.as_mut())?;
            // Zero and numbers from the group's order up are no keys: 1 draw in 2^32.
            if let Ok(private) = SigningKey::from_slice(secret.as_ref()) {
                return Ok(Self::new(private));
            }
        }
    }

    /// Takes a key from PKCS #8 in DER.
    ///
    /// # Errors
    /// [`KeyError::NotPkcs8`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_der(der).map(Self::new).map_err(|_| KeyError::NotPkcs8)
    }

    /// The private key as PKCS #8 in DER: for a TLS library, and for [`crate::keyfile`] to encrypt.
    ///
    /// # Errors
    /// [`KeyError::NotPkcs8`] when it cannot be encoded.
    pub fn expose_secret(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = self.private.to_pkcs8_der().map_err(|_| KeyError::NotPkcs8)?;
        Ok(Zeroizing::new(document.as_bytes().to_vec()))
    }

    fn new(private: SigningKey) -> Self {
        let mut spki = [0; SPKI_P256];
        let (head, point) = spki.split_at_mut(SPKI_HEAD.len());
        head.copy_from_slice(&SPKI_HEAD);
        point.copy_from_slice(private.verifying_key().to_encoded_point(false).as_bytes());
        Self { private, public: PublicKey(spki) }
    }
}

impl Signer for SoftKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature: p256::ecdsa::DerSignature =
            self.private.try_sign(message).map_err(|_| KeyError::NotSigned)?;
        Ok(signature.as_bytes().to_vec())
    }
}

/// Fills `out` from the system's random source.
///
/// # Errors
/// [`KeyError::NoRandomness`].
pub fn fill(out: &mut [u8]) -> Result<(), KeyError> {
    rand::fill(out).map_err(|_| KeyError::NoRandomness)
}

/// What opens key files. Wiped when dropped; it has no `Debug`.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

/// What a passphrase starts with that [`Passphrase::generate`] made; 32 octets in base64 follow.
const RANDOM: &str = "random-256:";

impl Passphrase {
    /// Takes a passphrase; line ends at its end do not belong to it. `None` when nothing is left.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(['\r', '\n']);
        (!text.is_empty()).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// Makes one of 256 random bits. Nobody guesses it, so a file is written under it without a derivation
    /// that takes its time.
    ///
    /// # Errors
    /// [`KeyError`] when the system gives no random octets.
    pub fn generate() -> Result<Self, KeyError> {
        let mut octets = Zeroizing::new([0; 32]);
        fill(octets.as_mut())?;
        let mut text = Zeroizing::new(RANDOM.to_owned());
        BASE64.encode_string(octets, &mut text);
        Ok(Self(text))
    }

    /// Whether it says of itself that it was made by [`Passphrase::generate`].
    pub(crate) fn is_random(&self) -> bool {
        let octets = self.0.strip_prefix(RANDOM).and_then(|digits| BASE64.decode(digits).ok());
        octets.is_some_and(|octets| Zeroizing::new(octets).len() == 32)
    }

    /// The passphrase itself.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

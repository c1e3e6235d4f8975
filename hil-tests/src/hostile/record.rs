//! Records and the secrets that protect them (RFC 8446 §5 and §7).

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA256, digest},
    hmac,
};

/// Octets of a record header: type, legacy version, length.
pub const HEADER: usize = 5;
/// Octets the AEAD adds.
pub const TAG: usize = 16;

/// Content type `change_cipher_spec`.
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// Content type `alert`.
pub const ALERT: u8 = 21;
/// Content type `handshake`.
pub const HANDSHAKE: u8 = 22;
/// Content type `application_data`, the outer type of every protected record.
pub const APPLICATION: u8 = 23;

/// A secret of the key schedule, or the hash of a transcript.
pub type Secret = [u8; 32];

/// SHA-256 of `octets`.
#[must_use]
pub fn hash(octets: &[u8]) -> Secret {
    secret(digest(&SHA256, octets).as_ref())
}

/// HMAC-SHA256; also HKDF-Extract with the salt as key (RFC 5869 §2.2).
#[must_use]
pub fn mac(key: &[u8], octets: &[u8]) -> Secret {
    secret(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), octets).as_ref())
}

/// HKDF-Expand-Label for outputs of one block at most (RFC 8446 §7.1).
#[must_use]
pub fn expand(key: &Secret, label: &str, context: &[u8], length: usize) -> Vec<u8> {
    let label = [b"tls13 ", label.as_bytes()].concat();
    let mut info = vec![0, octet(length), octet(label.len())];
    info.extend_from_slice(&label);
    info.push(octet(context.len()));
    info.extend_from_slice(context);
    info.push(1);
    mac(key, &info)[..length].to_vec()
}

/// Derive-Secret: [`expand`] to a whole secret.
#[must_use]
pub fn derive(key: &Secret, label: &str, transcript: &Secret) -> Secret {
    secret(&expand(key, label, transcript, 32))
}

/// A record with nothing protected. The length field follows the content, however wrong.
#[must_use]
pub fn plain(content_type: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![content_type, 3, 3];
    record.extend_from_slice(&u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes());
    record.extend_from_slice(content);
    record
}

/// One direction's protection.
pub struct Keys {
    key: LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
}

impl Keys {
    /// The keys of a traffic secret.
    #[must_use]
    pub fn new(traffic: &Secret) -> Self {
        let key = UnboundKey::new(&AES_128_GCM, &expand(traffic, "key", &[], 16));
        Self {
            key: LessSafeKey::new(key.expect("16 octets are an AES-128 key")),
            iv: expand(traffic, "iv", &[], 12),
            sequence: 0,
        }
    }

    /// A protected record around `content`.
    pub fn seal(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        self.seal_inner([content, &[content_type]].concat())
    }

    /// A protected record around an inner plaintext given whole: content, content type and padding.
    pub fn seal_inner(&mut self, mut inner: Vec<u8>) -> Vec<u8> {
        let mut record = plain(APPLICATION, &vec![0; inner.len() + TAG]);
        record.truncate(HEADER);
        let nonce = self.nonce();
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(&record), &mut inner)
            .expect("a record is shorter than what AES-GCM can seal");
        record.extend_from_slice(&inner);
        record
    }

    /// Content type and content of a protected record, `None` when it isn't protected by these keys; the
    /// sequence moves on only when it is.
    pub fn open(&mut self, record: &[u8]) -> Option<(u8, Vec<u8>)> {
        let (header, sealed) = record.split_at_checked(HEADER)?;
        let before = self.sequence;
        let nonce = self.nonce();
        let mut sealed = sealed.to_vec();
        let Ok(inner) = self.key.open_in_place(nonce, Aad::from(header), &mut sealed) else {
            self.sequence = before;
            return None;
        };
        let end = inner.iter().rposition(|octet| *octet != 0)?;
        Some((inner[end], inner[..end].to_vec()))
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&self.iv);
        for (octet, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *octet ^= count;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

fn secret(octets: &[u8]) -> Secret {
    octets.try_into().expect("SHA-256 gives 32 octets")
}

fn octet(length: usize) -> u8 {
    u8::try_from(length).expect("labels and hashes are short")
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 8448 §3: the server's handshake traffic secret and the keys made from it.
    #[test]
    fn keys_follow_rfc_8448() {
        let traffic: Secret = [
            0xb6, 0x7b, 0x7d, 0x69, 0x0c, 0xc1, 0x6c, 0x4e, 0x75, 0xe5, 0x42, 0x13, 0xcb, 0x2d, 0x37, 0xb4,
            0xe9, 0xc9, 0x12, 0xbc, 0xde, 0xd9, 0x10, 0x5d, 0x42, 0xbe, 0xfd, 0x59, 0xd3, 0x91, 0xad, 0x38,
        ];
        let key =
            [0x3f, 0xce, 0x51, 0x60, 0x09, 0xc2, 0x17, 0x27, 0xd0, 0xf2, 0xe4, 0xe8, 0x6e, 0xe4, 0x03, 0xbc];
        let iv = [0x5d, 0x31, 0x3e, 0xb2, 0x67, 0x12, 0x76, 0xee, 0x13, 0x00, 0x0b, 0x30];
        assert_eq!(expand(&traffic, "key", &[], 16), key);
        assert_eq!(expand(&traffic, "iv", &[], 12), iv);
    }

    #[test]
    fn a_record_opens_once_and_in_order() {
        let (mut here, mut there) = (Keys::new(&[7; 32]), Keys::new(&[7; 32]));
        let first = here.seal(HANDSHAKE, b"one");
        let second = here.seal(APPLICATION, b"two");
        assert_eq!(there.open(&second), None);
        assert_eq!(there.open(&first), Some((HANDSHAKE, b"one".to_vec())));
        assert_eq!(there.open(&first), None);
        assert_eq!(there.open(&second), Some((APPLICATION, b"two".to_vec())));
    }
}

//! The cipher suite handed to the TLS library: TLS_AES_128_GCM_SHA256, which also checks what it opens.
//!
//! The library panics on an encrypted record without content and on a handshake message after the
//! handshake, and forgets which alert ended a connection. All three are settled here, right behind the
//! AEAD, before it parses anything: what fails is a decryption error to it.
//!
//! - During the handshake, a record must hold whole handshake messages of the kinds a server sends then,
//!   and Finished must be the last of its record; or an alert.
//! - After it, every record is handed on as application data whose first octet is its true content type.
//!   [`super::Reader`] takes that octet off again and deals with alerts and messages by itself.

use aes_gcm::{
    Aes128Gcm, KeyInit, KeySizeUser,
    aead::{
        AeadCore, AeadInPlace, Buffer, Error, Nonce, Result, Tag,
        consts::{U0, U12, U16, U54},
    },
};
use embedded_tls::TlsCipherSuite;

use super::{
    guard::{ALERT, APPLICATION_DATA, HANDSHAKE, PHASE_APPLICATION, PHASE_HANDSHAKE},
    transcript::{
        CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, ENCRYPTED_EXTENSIONS, FINISHED, Transcript,
    },
};

/// TLS_AES_128_GCM_SHA256 with its checks.
pub(super) struct Suite;

impl TlsCipherSuite for Suite {
    const CODE_POINT: u16 = 0x1301;
    type Cipher = CheckedCipher;
    type KeyLen = U16;
    type IvLen = U12;
    type Hash = Transcript;
    type LabelBufferSize = U54;
}

/// AES-128-GCM that looks at what it has opened.
pub(super) struct CheckedCipher(Aes128Gcm);

impl KeySizeUser for CheckedCipher {
    type KeySize = U16;
}

impl KeyInit for CheckedCipher {
    fn new(key: &aes_gcm::Key<Self>) -> Self {
        Self(Aes128Gcm::new(key))
    }
}

impl AeadCore for CheckedCipher {
    type NonceSize = U12;
    type TagSize = U16;
    type CiphertextOverhead = U0;
}

impl AeadInPlace for CheckedCipher {
    fn encrypt_in_place_detached(
        &self,
        nonce: &Nonce<Self>,
        header: &[u8],
        data: &mut [u8],
    ) -> Result<Tag<Self>> {
        self.0.encrypt_in_place_detached(nonce, header, data)
    }

    fn decrypt_in_place_detached(
        &self,
        nonce: &Nonce<Self>,
        header: &[u8],
        data: &mut [u8],
        tag: &Tag<Self>,
    ) -> Result<()> {
        self.0.decrypt_in_place_detached(nonce, header, data, tag)
    }

    fn decrypt_in_place(&self, nonce: &Nonce<Self>, header: &[u8], buffer: &mut dyn Buffer) -> Result<()> {
        let &[kind, _, phase, high, low] = header else { return Err(Error) };
        self.0.decrypt_in_place(nonce, &[kind, 0x03, 0x03, high, low], buffer)?;
        // TLSInnerPlaintext: content, its type, zeros (RFC 8446 §5.4).
        let end = buffer.as_ref().iter().rposition(|&octet| octet != 0).ok_or(Error)?;
        let inner = buffer.as_ref()[end];
        buffer.truncate(end + 1);
        match (phase, inner) {
            (PHASE_HANDSHAKE, HANDSHAKE) => messages(&buffer.as_ref()[..end]),
            (PHASE_HANDSHAKE, ALERT) => Ok(()),
            (PHASE_APPLICATION, APPLICATION_DATA | ALERT | HANDSHAKE) => {
                buffer.extend_from_slice(&[APPLICATION_DATA])?;
                let data = buffer.as_mut();
                data.copy_within(..end, 1);
                data[0] = inner;
                data[end + 1] = APPLICATION_DATA;
                Ok(())
            }
            _ => Err(Error),
        }
    }
}

/// Whole messages, of the kinds that a server sends encrypted in a handshake, and nothing after Finished.
fn messages(mut octets: &[u8]) -> Result<()> {
    if octets.is_empty() {
        return Err(Error);
    }
    while let [kind, a, b, c, rest @ ..] = octets {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let after = rest.get(len..).ok_or(Error)?;
        match *kind {
            ENCRYPTED_EXTENSIONS | CERTIFICATE_REQUEST | CERTIFICATE | CERTIFICATE_VERIFY => {}
            FINISHED if len == 32 && after.is_empty() => {}
            _ => return Err(Error),
        }
        octets = after;
    }
    if octets.is_empty() { Ok(()) } else { Err(Error) }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::transcript::{CLIENT_HELLO, NEW_SESSION_TICKET, SERVER_HELLO};

    struct Buf(Vec<u8>);

    impl AsRef<[u8]> for Buf {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl AsMut<[u8]> for Buf {
        fn as_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }

    impl Buffer for Buf {
        fn extend_from_slice(&mut self, other: &[u8]) -> Result<()> {
            self.0.extend_from_slice(other);
            Ok(())
        }
        fn truncate(&mut self, len: usize) {
            self.0.truncate(len);
        }
    }

    /// What the library gets to see of a record with this inner plaintext.
    fn open(phase: u8, inner: &[u8]) -> Option<Vec<u8>> {
        let (key, nonce) = ([7; 16].into(), [9; 12].into());
        let len = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let mut record = Buf(inner.to_vec());
        let wire = [APPLICATION_DATA, 0x03, 0x03, len[0], len[1]];
        Aes128Gcm::new(&key).encrypt_in_place(&nonce, &wire, &mut record).unwrap();
        let marked = [APPLICATION_DATA, 0x03, phase, len[0], len[1]];
        CheckedCipher::new(&key).decrypt_in_place(&nonce, &marked, &mut record).ok().map(|()| record.0)
    }

    fn message(kind: u8, len: u8) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, len];
        message.resize(4 + usize::from(len), 0x61);
        message
    }

    #[test]
    fn during_the_handshake_only_whole_messages_of_a_server_pass() {
        let record = |messages: &[Vec<u8>]| [&messages.concat()[..], &[HANDSHAKE]].concat();
        let passes = |messages: &[Vec<u8>]| open(PHASE_HANDSHAKE, &record(messages)).is_some();
        assert!(passes(&[message(ENCRYPTED_EXTENSIONS, 2), message(CERTIFICATE, 9)]));
        assert!(passes(&[message(CERTIFICATE_VERIFY, 9), message(FINISHED, 32)]));
        assert!(!passes(&[message(FINISHED, 32), message(CERTIFICATE, 9)]), "nothing after Finished");
        assert!(!passes(&[message(FINISHED, 31)]));
        assert!(!passes(&[]));
        for kind in [CLIENT_HELLO, SERVER_HELLO, NEW_SESSION_TICKET, 5, 24, 254] {
            assert!(!passes(&[message(kind, 9)]), "{kind}");
        }
        let mut cut = record(&[message(CERTIFICATE, 9)]);
        cut.remove(5);
        assert_eq!(open(PHASE_HANDSHAKE, &cut), None);
        assert_eq!(open(PHASE_HANDSHAKE, &[1, 2, APPLICATION_DATA]), None, "data before it is authenticated");
    }

    #[test]
    fn after_it_every_record_comes_as_data_with_its_type_in_front() {
        for (kind, content) in
            [(APPLICATION_DATA, &b"hello"[..]), (ALERT, &[2, 48]), (HANDSHAKE, &[13, 0, 0, 0])]
        {
            for padding in [0, 5] {
                let inner = [content, &[kind], &vec![0; padding][..]].concat();
                let seen = open(PHASE_APPLICATION, &inner).unwrap();
                assert_eq!(seen, [&[kind], content, &[APPLICATION_DATA]].concat());
            }
        }
        assert_eq!(
            open(PHASE_APPLICATION, &[APPLICATION_DATA]),
            Some(vec![APPLICATION_DATA, APPLICATION_DATA])
        );
        assert_eq!(open(PHASE_APPLICATION, &[1, 20]), None, "an encrypted change_cipher_spec");
    }

    #[test]
    fn a_record_without_content_or_phase_is_an_error() {
        for phase in [PHASE_HANDSHAKE, PHASE_APPLICATION] {
            assert_eq!(open(phase, &[]), None);
            assert_eq!(open(phase, &[0; 30]), None);
        }
        assert_eq!(open(0x01, &[1, APPLICATION_DATA]), None);
    }
}

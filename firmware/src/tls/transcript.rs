//! The transcript hash handed to the TLS library: SHA-256 that also watches the order of messages.
//!
//! The library accepts handshake messages in any order, and none. A transcript that saw a message out of
//! its place (RFC 8446 §4) turns into the hash of something else, so the server's Finished does not
//! verify and the handshake ends there. This holds whatever the verifier thinks; the verifier keeps its
//! own order besides. Where Finished itself comes too early, it was checked against what came before it:
//! then the verifier's record ends the handshake, and keys made from here on are nobody's.
//!
//! ```text
//! ClientHello ServerHello EncryptedExtensions CertificateRequest Certificate CertificateVerify Finished
//!     then ours: Certificate CertificateVerify Finished
//! ```
//!
//! CertificateRequest is not optional here: a broker that does not ask for our certificate is not ours.
//!
//! The library uses the same type for HMAC and HKDF. A transcript is told by its first update, a
//! ClientHello in one piece: longer than a hash block, which no first update of an HMAC is.

use core::mem;

use p256::elliptic_curve::generic_array::GenericArray;
use sha2::{
    Sha256,
    digest::{
        FixedOutput, FixedOutputReset, HashMarker, Output, OutputSizeUser, Reset, Update,
        consts::{U32, U64},
        core_api::BlockSizeUser,
    },
};

pub(super) const CLIENT_HELLO: u8 = 1;
pub(super) const SERVER_HELLO: u8 = 2;
pub(super) const NEW_SESSION_TICKET: u8 = 4;
pub(super) const ENCRYPTED_EXTENSIONS: u8 = 8;
pub(super) const CERTIFICATE: u8 = 11;
pub(super) const CERTIFICATE_REQUEST: u8 = 13;
pub(super) const CERTIFICATE_VERIFY: u8 = 15;
pub(super) const FINISHED: u8 = 20;

/// The messages of a handshake in their order.
const ORDER: [u8; 10] = [
    CLIENT_HELLO,
    SERVER_HELLO,
    ENCRYPTED_EXTENSIONS,
    CERTIFICATE_REQUEST,
    CERTIFICATE,
    CERTIFICATE_VERIFY,
    FINISHED,
    CERTIFICATE,
    CERTIFICATE_VERIFY,
    FINISHED,
];

/// SHA-256 of a handshake that kept its order.
#[derive(Clone, Default)]
pub(super) struct Transcript {
    hash: Sha256,
    step: Step,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Step {
    /// Nothing hashed yet.
    #[default]
    Fresh,
    /// Not a transcript.
    Plain,
    /// So many messages, each in its place.
    Seen(usize),
    /// A message was out of its place.
    Broken,
}

impl Update for Transcript {
    fn update(&mut self, data: &[u8]) {
        let next = match self.step {
            Step::Fresh if data.is_empty() => Step::Fresh,
            Step::Fresh if data.len() > 64 && is_message(data, CLIENT_HELLO) => Step::Seen(1),
            Step::Fresh | Step::Plain => Step::Plain,
            Step::Seen(n) => match ORDER.get(n) {
                Some(&SERVER_HELLO) if is_message(data, SERVER_HELLO) && is_tls13(data) => Step::Seen(n + 1),
                Some(&SERVER_HELLO) | None => Step::Broken,
                Some(&kind) if is_message(data, kind) => Step::Seen(n + 1),
                Some(_) => Step::Broken,
            },
            Step::Broken => Step::Broken,
        };
        self.step = next;
        Update::update(&mut self.hash, data);
        if self.step == Step::Broken {
            Update::update(&mut self.hash, b"message out of order");
        }
    }
}

/// Whether `data` is one whole message of this kind.
fn is_message(data: &[u8], kind: u8) -> bool {
    matches!(data, [found, a, b, c, body @ ..]
        if *found == kind && u32::from_be_bytes([0, *a, *b, *c]) as usize == body.len())
}

/// Whether this ServerHello chooses what our ClientHello offered (RFC 8446 §4.1.3): TLS 1.3, our suite, a
/// P-256 share, an empty session id, and is no HelloRetryRequest.
fn is_tls13(message: &[u8]) -> bool {
    /// SHA-256 of "HelloRetryRequest" (RFC 8446 §4.1.3).
    const RETRY: [u8; 32] = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
        0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
    ];
    let Some((head, extensions)) = message.get(4..).and_then(|body| body.split_at_checked(40)) else {
        return false;
    };
    let (version, random, rest) = (&head[..2], &head[2..34], &head[34..38]);
    let sized = usize::from(u16::from_be_bytes([head[38], head[39]])) == extensions.len();
    if version != [0x03, 0x03] || random == RETRY || rest != [0x00, 0x13, 0x01, 0x00] || !sized {
        return false;
    }
    let (mut version, mut share, mut rest) = (false, false, extensions);
    while let [kind_high, kind_low, len_high, len_low, body @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
        let Some((body, after)) = body.split_at_checked(len) else { return false };
        match (u16::from_be_bytes([*kind_high, *kind_low]), version, share) {
            (43, false, _) => version = body == [0x03, 0x04],
            (51, _, false) => share = body.len() == 69 && body[..5] == [0x00, 0x17, 0x00, 0x41, 0x04],
            // Ours offered nothing else that a ServerHello may answer; and each comes once.
            _ => return false,
        }
        rest = after;
    }
    version && share && rest.is_empty()
}

impl HashMarker for Transcript {}

impl OutputSizeUser for Transcript {
    type OutputSize = U32;
}

impl BlockSizeUser for Transcript {
    type BlockSize = U64;
}

impl Reset for Transcript {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

impl FixedOutput for Transcript {
    fn finalize_into(self, out: &mut Output<Self>) {
        FixedOutput::finalize_into(self.hash, GenericArray::from_mut_slice(out));
    }
}

impl FixedOutputReset for Transcript {
    fn finalize_into_reset(&mut self, out: &mut Output<Self>) {
        mem::take(self).finalize_into(out);
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;

    fn message(kind: u8, len: usize) -> Vec<u8> {
        let mut message = vec![kind, 0, (len >> 8) as u8, len as u8];
        message.resize(4 + len, kind);
        message
    }

    fn server_hello() -> Vec<u8> {
        let mut body = vec![0x03, 0x03];
        body.extend([0x77; 32]);
        body.extend([0x00, 0x13, 0x01, 0x00]);
        let mut extensions =
            vec![0x00, 43, 0x00, 2, 0x03, 0x04, 0x00, 51, 0x00, 69, 0x00, 0x17, 0x00, 0x41, 0x04];
        extensions.extend([0x55; 64]);
        body.extend([0, extensions.len() as u8]);
        body.extend(extensions);
        [&[SERVER_HELLO, 0, 0, body.len() as u8], &body[..]].concat()
    }

    fn all() -> Vec<Vec<u8>> {
        let mut all: Vec<_> = ORDER.iter().map(|&kind| message(kind, 200)).collect();
        all[1] = server_hello();
        all
    }

    /// Whether the transcript of these messages is their SHA-256.
    fn holds(messages: &[Vec<u8>]) -> bool {
        let mut transcript = Transcript::default();
        messages.iter().for_each(|message| Digest::update(&mut transcript, message));
        transcript.finalize()[..] == Sha256::digest(messages.concat())[..]
    }

    #[test]
    fn the_order_of_the_rfc_is_hashed_as_it_is() {
        for n in 1..=ORDER.len() {
            assert!(holds(&all()[..n]), "{n} messages");
        }
    }

    #[test]
    fn a_message_left_out_doubled_or_swapped_spoils_it() {
        for n in 1..ORDER.len() {
            let mut left_out = all();
            left_out.remove(n);
            // The last, left out, is only a shorter handshake.
            assert!(n == ORDER.len() - 1 || !holds(&left_out), "without message {n}");
            let mut doubled = all();
            doubled.insert(n, doubled[n].clone());
            assert!(!holds(&doubled), "message {n} twice");
            let mut swapped = all();
            swapped.swap(n, (n % (ORDER.len() - 1)) + 1);
            assert!(!holds(&swapped), "message {n} swapped");
        }
        let mut more = all();
        more.push(message(CERTIFICATE, 10));
        assert!(!holds(&more));
    }

    #[test]
    fn a_server_hello_that_answers_something_else_spoils_it() {
        let good = server_hello();
        let hello = |message: Vec<u8>| holds(&[all()[0].clone(), message]);
        assert!(hello(good.clone()));
        // Legacy version, session id length, suite, compression, extension types, version, group.
        for at in [4, 5, 38, 39, 40, 41, 42, 43, 45, 48, 49, 51, 55, 56] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(!hello(bad), "octet {at}");
        }
        let mut retry = good.clone();
        retry[6..38].copy_from_slice(&Sha256::digest(b"HelloRetryRequest"));
        assert!(!hello(retry), "HelloRetryRequest");
    }

    #[test]
    fn for_everything_else_it_is_plain_sha256() {
        for data in [&b""[..], b"abc", &[CLIENT_HELLO, 0, 0, 60], &[0x36; 64], &[1; 200]] {
            assert!(holds(&[data.to_vec(), b"more".to_vec()]), "{data:?}");
        }
    }
}

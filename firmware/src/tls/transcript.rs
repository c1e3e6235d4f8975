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

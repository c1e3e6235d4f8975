//! The checked TLS connection: with [`crate::verify`], the only user of `embedded-tls`.
//!
//! `embedded-tls` runs the TLS 1.3 state machine but authenticates nobody by itself and trusts its peer
//! to keep the order of messages. What makes a connection safe stands around it:
//!
//! | part | ensures |
//! |---|---|
//! | `guard` | only records that may come reach it; both directions share one socket |
//! | `transcript` | messages out of order, or left out, cannot finish a handshake |
//! | `suite` | no decrypted record can make it panic; alerts keep their number |
//! | `Check` in this file | certificate, then signature, once each, by the rules of [`crate::verify`] |
//! | [`connect`] | looks again when the handshake is over: no certificate and proof, no connection |
//!
//! [`Checked`] can be had from [`connect`] only, so whoever holds one talks to the broker the anchors
//! vouch for.
//!
//! Not spoken, because a device needs none of it: HelloRetryRequest, session tickets (ignored), KeyUpdate
//! (an error; the device reconnects), early data, PSK.

mod guard;
mod suite;
mod transcript;

use embedded_io::ErrorKind;
use embedded_io_async::{Read, Write};
use embedded_tls::{
    Certificate, CertificateEntryRef, CertificateRef, CertificateVerifyRef, CryptoProvider, SignatureScheme,
    TlsConfig, TlsConnection, TlsContext, TlsError as LibraryError, TlsReader, TlsVerifier, TlsWriter,
    alert::{AlertDescription, AlertLevel},
};
use muster_shared::{Code, limits::TLS_FRAGMENT_MAX};
use p256::ecdsa::{DerSignature, SigningKey};
use rand_core::CryptoRngCore;
use sha2::Digest;

use self::{
    guard::{ALERT, APPLICATION_DATA, Port},
    suite::Suite,
    transcript::{NEW_SESSION_TICKET, Transcript},
};
use crate::verify::{self, Leaf};
pub use crate::verify::{Distrust, Time, Trust};
pub use guard::{Wire, WireError};

/// Octets of the receive buffer: the largest record the server sends us, with its overhead (RFC 8446 §5.2).
pub const RECEIVE: usize = TLS_FRAGMENT_MAX + 256;
/// Octets of the transmit buffer: our certificate message in one record, and the largest MQTT packet.
pub const TRANSMIT: usize = 2048;

/// The two record buffers of a connection.
pub struct Buffers {
    receive: [u8; RECEIVE],
    transmit: [u8; TRANSMIT],
}

impl Buffers {
    /// Empty buffers.
    #[must_use]
    pub const fn new() -> Self {
        Self { receive: [0; RECEIVE], transmit: [0; TRANSMIT] }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

/// Who the device is.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// Its certificate, DER.
    pub certificate: &'a [u8],
    /// The key the certificate is for.
    pub key: &'a SigningKey,
}

/// Why there is no connection, or no connection any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The server is not one we believe.
    #[error("server not trusted: {0}")]
    Distrusted(#[from] Distrust),
    /// The broker sent this alert (RFC 8446 §6), over a connection that proved it to be the broker: it
    /// refused our certificate.
    #[error("server sent alert {0}")]
    Alert(u8),
    /// Somebody answered with this alert before anything was proven. It may have been anybody, so it says
    /// nothing about us.
    #[error("handshake aborted by alert {0}")]
    Aborted(u8),
    /// What the server sent is not TLS 1.3 as we speak it.
    #[error("handshake failed")]
    Failed,
    /// The connection broke, or ended without the server saying so.
    #[error("connection lost")]
    Lost,
    /// The server closed it.
    #[error("connection closed")]
    Closed,
}

impl TlsError {
    /// The refusal it is, in the words of every other surface.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            TlsError::Distrusted(_) => Code::TlsServerUntrusted,
            TlsError::Alert(48) => Code::IssuerUnknown,
            TlsError::Alert(45) => Code::CertificateExpired,
            TlsError::Alert(44) => Code::CertificateRevoked,
            TlsError::Alert(42) => Code::CertificateProfile,
            TlsError::Alert(_) | TlsError::Aborted(_) | TlsError::Failed => Code::TlsFailed,
            TlsError::Lost | TlsError::Closed => Code::ConnectionLost,
        }
    }

    fn of(error: LibraryError) -> Self {
        match error {
            LibraryError::HandshakeAborted(_, description) => TlsError::Aborted(description as u8),
            LibraryError::ConnectionClosed => TlsError::Closed,
            LibraryError::IoError => TlsError::Lost,
            // The guard's own verdict comes through as invalid data.
            LibraryError::Io(ErrorKind::InvalidData) => TlsError::Failed,
            LibraryError::Io(_) => TlsError::Lost,
            _ => TlsError::Failed,
        }
    }
}

/// A connection whose server has been authenticated. Only [`connect`] makes one.
pub struct Checked<'a, S: Read + Write> {
    tls: TlsConnection<'a, Port<'a, S>, Suite>,
    leaf: Leaf,
}

/// Runs the handshake. The caller sets the deadline by dropping the future; the socket is then spent.
///
/// # Errors
/// [`TlsError`] when the server cannot be authenticated, or the connection breaks.
pub async fn connect<'a, S: Read + Write, R: CryptoRngCore>(
    wire: &'a Wire<S>,
    rng: &mut R,
    identity: &Identity<'_>,
    trust: &Trust<'_>,
    buffers: &'a mut Buffers,
) -> Result<Checked<'a, S>, TlsError> {
    let mut config = TlsConfig::new();
    // An IP address is no server name (RFC 6066 §3).
    if trust.server_name.parse::<core::net::IpAddr>().is_err() {
        config = config.with_server_name(trust.server_name);
    }
    let check = Check { trust, seen: Seen::Nothing };
    let mut provider = Provider { rng, identity, check, asked: false };
    let mut tls = TlsConnection::new(Port(wire), &mut buffers.receive, &mut buffers.transmit);
    let opened = tls.open(TlsContext::new(&config, &mut provider)).await;

    // Whatever the library says, the verifier's own record decides.
    match (opened, provider.check.seen) {
        (_, Seen::Wrong(why)) => Err(why.into()),
        (Err(e), _) => Err(TlsError::of(e)),
        (Ok(()), Seen::Proven(leaf)) if provider.asked => {
            wire.opened();
            Ok(Checked { tls, leaf })
        }
        (Ok(()), Seen::Proven(_)) => Err(Distrust::OneSided.into()),
        (Ok(()), Seen::Nothing | Seen::Certificate { .. }) => Err(Distrust::Order.into()),
    }
}

impl<S: Read + Write> Checked<'_, S> {
    /// Seconds since 1970 between which the server's certificate is valid.
    #[must_use]
    pub fn validity(&self) -> (u64, u64) {
        (self.leaf.not_before, self.leaf.not_after)
    }

    /// The two directions, to be used side by side.
    pub fn split(&mut self) -> (Reader<'_, S>, Writer<'_, S>) {
        let (reader, writer) = self.tls.split();
        (Reader { tls: reader, left: 0 }, Writer { tls: writer })
    }

    /// Says goodbye (RFC 8446 §6.1).
    pub async fn close(self) {
        // The server may be gone already; there is nobody to tell.
        let _ = self.tls.close().await;
    }
}

/// What the server sends. **Not cancel-safe**: a read that is dropped in the middle of a record loses the
/// stream for good. [`crate::drive`] keeps it in one place and never drops it.
pub struct Reader<'a, S> {
    tls: TlsReader<'a, Port<'a, S>, Suite>,
    /// Octets of the current record not yet handed out.
    left: usize,
}

impl<S: Read> Reader<'_, S> {
    /// Reads application data, at least one octet.
    ///
    /// # Errors
    /// [`TlsError`] when the connection has ended; the reader is spent.
    pub async fn read(&mut self, out: &mut [u8]) -> Result<usize, TlsError> {
        loop {
            let mut record = self.tls.read_buffered().await.map_err(TlsError::of)?;
            if self.left == 0 {
                let kind = record.pop(1).first().copied();
                match kind {
                    Some(APPLICATION_DATA) => self.left = record.len(),
                    Some(ALERT) => return Err(alert(record.pop_all())),
                    // A ticket is of no use to us, and no harm.
                    _ if record.pop_all().first() == Some(&NEW_SESSION_TICKET) => {}
                    _ => return Err(TlsError::Failed),
                }
                if self.left == 0 {
                    continue;
                }
            }
            let n = record.pop_into(out);
            self.left -= n;
            return Ok(n);
        }
    }
}

fn alert(content: &[u8]) -> TlsError {
    match *content {
        [_, 0] => TlsError::Closed,
        [_, description] => TlsError::Alert(description),
        _ => TlsError::Failed,
    }
}

/// What goes to the server.
pub struct Writer<'a, S> {
    tls: TlsWriter<'a, Port<'a, S>, Suite>,
}

impl<S: Write> Writer<'_, S> {
    /// Sends all of `octets`. The caller sets the deadline by dropping the future; the connection is then
    /// spent.
    ///
    /// # Errors
    /// [`TlsError`] when the connection has ended.
    pub async fn write(&mut self, octets: &[u8]) -> Result<(), TlsError> {
        self.tls.write_all(octets).await.map_err(TlsError::of)?;
        self.tls.flush().await.map_err(TlsError::of)
    }
}

struct Provider<'p, R> {
    rng: &'p mut R,
    identity: &'p Identity<'p>,
    check: Check<'p>,
    /// The server asked for our certificate and had it proven.
    asked: bool,
}

impl<R: CryptoRngCore> CryptoProvider for Provider<'_, R> {
    type CipherSuite = Suite;
    type Signature = DerSignature;

    fn rng(&mut self) -> impl CryptoRngCore {
        &mut *self.rng
    }

    fn verifier(&mut self) -> Result<&mut impl TlsVerifier<Suite>, LibraryError> {
        Ok(&mut self.check)
    }

    fn signer(&mut self) -> Result<(impl signature::SignerMut<DerSignature>, SignatureScheme), LibraryError> {
        self.asked = true;
        Ok((Hand(self.identity.key), SignatureScheme::EcdsaSecp256r1Sha256))
    }

    /// Only a proven broker learns who we are, and gets our signature: the library asks whenever the server
    /// did, even where the server's own proof was left out. Without a certificate it asks for no signer.
    fn client_cert(&mut self) -> Option<Certificate<impl AsRef<[u8]>>> {
        let proven = matches!(self.check.seen, Seen::Proven(_));
        proven.then_some(Certificate::X509(self.identity.certificate))
    }
}

/// Signs with the slot's key, deterministically (RFC 6979). The library panics where a signer fails, so
/// this one does not: a signature nobody accepts takes the place of one that could not be made.
struct Hand<'a>(&'a SigningKey);

impl signature::Signer<DerSignature> for Hand<'_> {
    fn try_sign(&self, message: &[u8]) -> Result<DerSignature, signature::Error> {
        const NONE: &[u8] = &[0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01];
        self.0.try_sign(message).or_else(|_| DerSignature::from_bytes(NONE))
    }
}

/// What of the server's authentication has been seen.
#[derive(Clone)]
enum Seen {
    Nothing,
    /// A certificate that holds, and the transcript its signature must cover.
    Certificate {
        leaf: Leaf,
        transcript: Transcript,
    },
    /// And the signature, by that certificate's key.
    Proven(Leaf),
    Wrong(Distrust),
}

/// Certificate, then signature, once each.
struct Check<'a> {
    trust: &'a Trust<'a>,
    seen: Seen,
}

impl Check<'_> {
    fn refuse(&mut self, why: Distrust) -> LibraryError {
        self.seen = Seen::Wrong(why);
        // RFC 8446 §6.2.
        let description = match why {
            Distrust::Issuer => AlertDescription::UnknownCa,
            Distrust::Ended => AlertDescription::CertificateExpired,
            Distrust::Proof => AlertDescription::DecryptError,
            Distrust::Order | Distrust::OneSided => AlertDescription::UnexpectedMessage,
            Distrust::Usage => AlertDescription::UnsupportedCertificate,
            Distrust::Name | Distrust::NotYetValid | Distrust::Form => AlertDescription::BadCertificate,
        };
        LibraryError::AbortHandshake(AlertLevel::Fatal, description)
    }
}

impl TlsVerifier<Suite> for Check<'_> {
    /// The name stands in [`Trust`], not in what is sent as server name.
    fn set_hostname_verification(&mut self, _: &str) -> Result<(), LibraryError> {
        Ok(())
    }

    fn verify_certificate(
        &mut self,
        transcript: &Transcript,
        certificate: CertificateRef<'_>,
    ) -> Result<(), LibraryError> {
        match (&self.seen, certificate.entries.first()) {
            (Seen::Nothing, Some(CertificateEntryRef::X509(der))) => match verify::leaf(der, self.trust) {
                Ok(leaf) => {
                    self.seen = Seen::Certificate { leaf, transcript: transcript.clone() };
                    Ok(())
                }
                Err(why) => Err(self.refuse(why)),
            },
            _ => Err(self.refuse(Distrust::Order)),
        }
    }

    fn verify_signature(&mut self, proof: CertificateVerifyRef<'_>) -> Result<(), LibraryError> {
        let Seen::Certificate { leaf, transcript } = self.seen.clone() else {
            return Err(self.refuse(Distrust::Order));
        };
        // RFC 8446 §4.4.3: 64 spaces, the context, a zero octet, the transcript's hash.
        let hash = transcript.finalize();
        let parts: [&[u8]; 3] = [&[0x20; 64], b"TLS 1.3, server CertificateVerify\0", &hash];
        let ours = matches!(proof.signature_scheme, SignatureScheme::EcdsaSecp256r1Sha256);
        if ours && crate::x509::verify(&leaf.key, &parts, proof.signature) {
            self.seen = Seen::Proven(leaf);
            Ok(())
        } else {
            Err(self.refuse(Distrust::Proof))
        }
    }
}

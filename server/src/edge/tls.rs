//! TLS, all of it: the one file that knows rustls by name, but for the verifier beside it.
//!
//! TLS 1.3 only, client certificate required, no tickets and no resumption: every connection is verified
//! and asks the registry. A connection owns its keys and nothing else: octets are read, decrypted and
//! encrypted in buffers its shard shares among all of them, and only what is left of an unfinished record
//! is kept with the connection, until the rest has come.
//!
//! Who a connection belongs to is read from its own `peer_certificates()`, after the handshake. The
//! verifier carries nothing over: its calls for many connections interleave on one thread.

mod verifier;

use std::sync::Arc;

use muster_shared::{CertificateId, Code, limits::TLS_FRAGMENT_MAX};
use rustls::{
    AlertDescription, CertificateError, CipherSuite, Error, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::danger::ClientCertVerifier as _,
    server::{NoServerSessionStorage, ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use self::verifier::ClientVerifier;
pub(super) use self::verifier::certificate_id;
use super::{limits::HANDSHAKE_BYTES_MAX, trust::Trust};
use crate::registry::Verdicts;

/// The broker's certificate, and the key it was made for.
#[derive(Debug)]
pub struct BrokerCredential {
    /// Leaf first. Devices pin the broker CA, so the leaf alone is enough.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

/// The broker's certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("broker certificate and key cannot be used")]
pub struct CredentialError(#[from] Error);

/// The configuration of every connection from now on.
///
/// # Errors
/// [`CredentialError`] when the certificate does not parse or is not the key's.
pub fn server_config(
    broker: BrokerCredential,
    verdicts: Arc<Verdicts>,
    trust: Arc<Trust>,
) -> Result<Arc<ServerConfig>, CredentialError> {
    let provider = Arc::new(provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(verdicts, trust)))
        .with_single_cert(broker.chain, broker.key)?;
    // A resumed session would not ask the verifier again.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    // A handshake message fits one record, as a small device needs it.
    config.max_fragment_size = Some(TLS_FRAGMENT_MAX);
    Ok(Arc::new(config))
}

/// What a shard keeps warm: first use of the random generator takes tens of milliseconds.
pub(super) fn warm_up() {
    let mut octet = [0];
    // A failure here is met again, and reported, by the first handshake.
    let _ = provider().secure_random.fill(&mut octet);
}

/// The suites and groups of aws-lc-rs for TLS 1.3. Classical groups only: the hybrid one costs a small
/// device more than its whole handshake.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    }
}

/// Octets in a buffer that is larger than they are, and stays.
#[derive(Debug, Default)]
pub struct Wire {
    buffer: Vec<u8>,
    len: usize,
}

impl Wire {
    /// What is to be sent.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// It was sent, or is kept elsewhere.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    fn room(&mut self, needed: usize) -> &mut [u8] {
        let end = self.len + needed;
        if self.buffer.len() < end {
            self.buffer.resize(end.next_power_of_two(), 0);
        }
        &mut self.buffer[self.len..]
    }
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// The peer broke TLS, or was refused; the alert that says so is on the wire.
    #[error(transparent)]
    Tls(#[from] Error),
    /// The client's certificate was refused, or its key not proved; the alert that says so is on the wire.
    #[error("certificate {certificate}: {error}")]
    Refused {
        /// Which certificate was shown. That the client has its key is not known.
        certificate: CertificateId,
        /// Why.
        #[source]
        error: Error,
    },
    /// It has ended before.
    #[error("the connection has ended")]
    Ended,
    /// More of an unfinished handshake message than any client needs.
    #[error("handshake message is larger than the limit")]
    TooMuch,
}

/// Whether the handshake would let this certificate through at this time: by the verifier itself.
///
/// # Errors
/// [`TlsFault`] as a connection would end with.
pub(super) fn verify(
    verdicts: &Arc<Verdicts>,
    trust: &Arc<Trust>,
    leaf: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), TlsFault> {
    let verifier = ClientVerifier::new(Arc::clone(verdicts), Arc::clone(trust));
    Ok(verifier.verify_client_cert(leaf, &[], now).map(drop)?)
}

impl TlsFault {
    /// The refusal behind it; `None`: just no TLS client of ours.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        let (Self::Tls(error) | Self::Refused { error, .. }) = self else { return None };
        match error {
            Error::NoCertificatesPresented => Some(Code::CertificateMissing),
            Error::InvalidCertificate(error) => Some(match error {
                CertificateError::BadSignature => Code::KeyNotProven,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Code::CertificateExpired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Code::CertificateNotYetValid
                }
                CertificateError::UnknownIssuer => Code::IssuerUnknown,
                _ => Code::CertificateProfile,
            }),
            _ => None,
        }
    }

    /// The certificate that was refused.
    #[must_use]
    pub fn certificate(&self) -> Option<CertificateId> {
        match self {
            Self::Refused { certificate, .. } => Some(*certificate),
            _ => None,
        }
    }

    /// Did the client refuse us? Then the alert it sent.
    #[must_use]
    pub fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::Tls(Error::AlertReceived(alert)) => Some(*alert),
            _ => None,
        }
    }
}

/// One TLS connection.
pub struct Tls {
    connection: UnbufferedServerConnection,
    /// The start of a record whose rest has not come.
    held: Vec<u8>,
    peer_closed: bool,
    /// Nothing can be received or sent any more.
    broken: bool,
}

impl Tls {
    /// A connection that has just been accepted.
    ///
    /// # Errors
    /// [`TlsFault`] when the configuration cannot be used.
    pub fn new(config: Arc<ServerConfig>) -> Result<Box<Self>, TlsFault> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Box::new(Self { connection, held: Vec::new(), peer_closed: false, broken: false }))
    }

    /// Octets kept from before, which belong in front of what is read next.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes what was read: `octets` is room for [`Tls::held`] octets, then what came. Decrypted data goes
    /// to `plain`, in pieces; what TLS itself has to say goes to `wire`.
    ///
    /// # Errors
    /// [`TlsFault`]; the alert for it is in `wire`.
    pub fn receive(
        &mut self,
        octets: &mut [u8],
        wire: &mut Wire,
        mut plain: impl FnMut(&[u8]),
    ) -> Result<(), TlsFault> {
        if self.broken {
            return Err(TlsFault::Ended);
        }
        let kept = self.held.len();
        octets[..kept].copy_from_slice(&self.held);
        self.held.clear();
        let mut at = 0;
        // What another connection of this thread left is not ours.
        let _ = verifier::refused();
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut octets[at..]);
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        plain(record?.payload);
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, wire)?;
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    true
                }
                // Without early data the rest of the states wait for the peer or for us.
                Ok(_) => false,
                Err(error) => {
                    let refused = verifier::refused();
                    self.alert(&mut octets[at + discard..], wire);
                    return Err(match refused {
                        Some(certificate) => TlsFault::Refused { certificate, error },
                        None => error.into(),
                    });
                }
            };
            at += discard;
            if !more {
                break;
            }
        }
        self.keep(&octets[at..])
    }

    fn keep(&mut self, rest: &[u8]) -> Result<(), TlsFault> {
        if rest.is_empty() {
            // Memory of a connection that is idle again.
            self.held = Vec::new();
        } else if rest.len() > HANDSHAKE_BYTES_MAX {
            self.broken = true;
            return Err(TlsFault::TooMuch);
        } else {
            self.held.extend_from_slice(rest);
        }
        Ok(())
    }

    /// After an error rustls has at most one alert to hand over, and must not be asked for anything again:
    /// it would look at the same octets once more.
    fn alert(&mut self, rest: &mut [u8], wire: &mut Wire) {
        self.broken = true;
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(rest);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
            // Without it the peer sees the close alone.
            let _ = encode(&mut data, wire);
        }
    }

    /// Is the handshake over, with the client's certificate verified and its possession proved?
    #[must_use]
    pub fn established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Has the peer said that nothing more will come?
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The client's own certificate, DER; `None` before the handshake is over.
    #[must_use]
    pub fn leaf(&self) -> Option<&[u8]> {
        let chain = self.connection.peer_certificates().filter(|_| self.established())?;
        chain.first().map(|leaf| &**leaf)
    }

    /// The cipher suite agreed on; `None` before the handshake is over.
    #[must_use]
    pub fn cipher(&self) -> Option<CipherSuite> {
        self.connection.negotiated_cipher_suite().map(|suite| suite.suite())
    }

    /// Encrypts `plain` to `wire`.
    ///
    /// # Errors
    /// [`TlsFault`] when the connection cannot send any more.
    pub fn send(&mut self, plain: &[u8], wire: &mut Wire) -> Result<(), TlsFault> {
        if plain.is_empty() {
            return Ok(());
        }
        self.write(wire, |traffic, room| traffic.encrypt(plain, room))
    }

    /// Says that nothing more will come from us.
    pub fn close(&mut self, wire: &mut Wire) {
        // A connection that cannot say it any more just closes.
        let _ = self.write(wire, |traffic, room| traffic.queue_close_notify(room));
    }

    fn write(
        &mut self,
        wire: &mut Wire,
        mut put: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsFault> {
        if self.broken {
            return Err(TlsFault::Ended);
        }
        // rustls remembers where in the unread octets a message begins: it is shown the same ones each time.
        let mut held = std::mem::take(&mut self.held);
        let mut at = 0;
        let written = loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut held[at..]);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    break write_out(&mut traffic, &mut put, wire);
                }
                // An answer to the peer's KeyUpdate goes first.
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if let Err(fault) = encode(&mut data, wire) {
                        break Err(fault);
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                // The peer's end of the stream is no end of ours, and is reported once.
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(_) => break Err(Error::HandshakeNotComplete.into()),
                Err(error) => break Err(error.into()),
            }
            at += discard;
        };
        held.drain(..at);
        self.held = held;
        self.broken = written.is_err();
        written
    }
}

type Traffic<'a> = rustls::unbuffered::WriteTraffic<'a, ServerConnectionData>;

fn write_out(
    traffic: &mut Traffic<'_>,
    put: &mut impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    wire: &mut Wire,
) -> Result<(), TlsFault> {
    let mut needed = 64;
    loop {
        match put(traffic, wire.room(needed)) {
            Ok(written) => {
                wire.len += written;
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) => needed = size.required_size,
            Err(EncryptError::EncryptExhausted) => return Err(Error::EncryptError.into()),
        }
    }
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, wire: &mut Wire) -> Result<(), TlsFault> {
    let mut needed = 64;
    loop {
        match data.encode(wire.room(needed)) {
            Ok(written) => {
                wire.len += written;
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => needed = size.required_size,
            Err(EncodeError::AlreadyEncoded) => return Ok(()),
        }
    }
}

//! What a station and a device say to each other over the factory port.
//!
//! The station asks, the device answers; every request may be repeated, and a repeated request gives
//! the same answer, so a lost frame or a restart on either side costs a retry and nothing else. The
//! private key never appears here: a public key, a signing request and signatures come out.
//!
//! ```text
//! Hello → Hello · MakeKey → KeyMade · Csr → Csr · Install → Ack · Prove → Proof · Lock → Locked
//! ```
//!
//! After `Lock` the port answers `Hello` only; everything else is [`Refusal::Locked`].

use heapless::String;
use serde::{Deserialize, Serialize};

use crate::{
    WIRE_CURRENT, WIRE_MIN,
    code::Code,
    id::{CertificateId, DeviceId, SerialNumber, Tenant},
    limits::NONCE,
};

/// A message with its number: an answer carries the number of its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    version: u8,
    /// Chosen by the station, one more for every new request.
    pub request: u16,
    /// The message.
    pub body: T,
}

/// Station → device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Who are you, and how far have you come?
    Hello,
    /// Make a key pair, or show the one already made.
    MakeKey,
    /// Sign a certificate request for this subject with it.
    Csr(Subject),
    /// Store this.
    #[serde(borrow)]
    Install(Install<'a>),
    /// Sign [`possession`] with the stored key, read back from the store.
    Prove {
        /// Fresh, drawn by the station.
        nonce: [u8; NONCE],
    },
    /// Close the port for good.
    Lock,
}

/// Device → station. Built once per request and written out at once: its size is its largest message.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// To `Hello`.
    Hello(Hello),
    /// To `MakeKey`.
    KeyMade {
        /// SHA-256 of the public key's SubjectPublicKeyInfo in DER.
        key_digest: [u8; 32],
    },
    /// To `Csr`: PKCS #10 in DER.
    Csr(#[serde(borrow)] &'a [u8]),
    /// To `Install`: SHA-256 of [`Install`] as it was read back from the store, in postcard.
    Ack {
        /// The digest.
        digest: [u8; 32],
    },
    /// To `Prove`: ECDSA in DER.
    Proof(#[serde(borrow)] &'a [u8]),
    /// To `Lock`.
    Locked,
    /// Not done, and why.
    Refused(Refusal),
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest wire version the device reads.
    pub wire_min: u8,
    /// Newest wire version the device reads.
    pub wire_max: u8,
    /// The board's kind, from its vendor page: `mps2-an386`.
    pub hardware: String<24>,
    /// The firmware's version: `0.1.0`.
    pub firmware_version: String<16>,
    /// SHA-256 of the firmware image as the device sees it.
    pub firmware_digest: [u8; 32],
    /// Where the device's randomness comes from.
    pub entropy: Entropy,
    /// How far provisioning has come.
    pub stage: Stage,
    /// What it was asked to be, once it has signed a request.
    pub subject: Option<Subject>,
    /// SHA-256 of the public key's SubjectPublicKeyInfo in DER, once there is a key.
    pub key_digest: Option<[u8; 32]>,
    /// The birth certificate, once installed.
    pub certificate_id: Option<CertificateId>,
}

/// Where a device's randomness comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entropy {
    /// A hardware generator, mixed with the stored seed.
    Hardware,
    /// Only the stored seed and its counter (an emulated board).
    Seed,
    /// None: the self-test failed or the counter cannot be committed. No key is made, no TLS is run.
    Failed,
}

/// How far provisioning has come. Each stage is in the store before it is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// No key.
    Blank,
    /// A key, no certificate.
    KeyMade,
    /// Certificate, endpoint and anchors are stored.
    Installed,
    /// The port is closed for good.
    Locked,
}

/// Who a device shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// `O`.
    pub tenant: Tenant,
    /// `CN`.
    pub device_id: DeviceId,
    /// `serialNumber`.
    pub serial: SerialNumber,
}

/// Everything a device is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install<'a> {
    /// The birth certificate, DER.
    #[serde(borrow)]
    pub certificate: &'a [u8],
    /// The factory CA's certificate, DER.
    #[serde(borrow)]
    pub issuer: &'a [u8],
    /// Where to connect.
    #[serde(borrow)]
    pub endpoint: Endpoint<'a>,
    /// [`SignedAnchors`] in postcard.
    #[serde(borrow)]
    pub anchors: &'a [u8],
}

/// Where a device connects, and how patiently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint<'a> {
    /// Host name or IPv4 address to connect to.
    pub host: &'a str,
    /// TCP port.
    pub port: u16,
    /// The name the broker's certificate must carry as SAN.
    pub server_name: &'a str,
    /// MQTT keep-alive, seconds.
    pub keep_alive_s: u16,
    /// Seconds between telemetry messages.
    pub telemetry_s: u16,
    /// Longest wait before a reconnect, seconds; the waits of the error table are cut to this.
    pub retry_s_max: u16,
}

/// The broker CAs a device shall trust, as the root signs them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchors<'a> {
    version: u8,
    /// A device never takes a set older than the one it holds.
    pub generation: u32,
    /// The broker CA's certificate, DER.
    #[serde(borrow)]
    pub current: &'a [u8],
    /// Its successor's, DER, while one CA hands over to the next.
    #[serde(borrow)]
    pub next: Option<&'a [u8]>,
}

/// [`Anchors`] with the root's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAnchors<'a> {
    /// [`Anchors`] in postcard.
    #[serde(borrow)]
    pub anchors: &'a [u8],
    /// The root's SubjectPublicKeyInfo, DER. Its SHA-256 stands in the vendor page.
    #[serde(borrow)]
    pub root: &'a [u8],
    /// ECDSA P-256 with SHA-256, DER, over [`ANCHORS_CONTEXT`] ‖ `anchors`.
    #[serde(borrow)]
    pub signature: &'a [u8],
}

/// What precedes the anchors in what the root signs.
pub const ANCHORS_CONTEXT: &[u8] = b"muster anchors v1\0";
/// What precedes serial, certificate id and nonce in a proof of possession.
pub const POSSESSION_CONTEXT: &[u8] = b"muster possession v1\0";

/// What a device signs to prove that it holds the stored key: context ‖ serial ‖ certificate id ‖ nonce.
/// The last two have a fixed length, so no two proofs share their octets. Pieces, to be hashed in order.
#[must_use]
pub fn possession<'a>(
    serial: &'a SerialNumber,
    certificate: &'a CertificateId,
    nonce: &'a [u8; NONCE],
) -> [&'a [u8]; 4] {
    [POSSESSION_CONTEXT, serial.as_str().as_bytes(), &certificate.0, nonce]
}

/// Why a device did not do what a station asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The port is closed for good.
    #[error("device is locked")]
    Locked,
    /// Entropy self-test failed.
    #[error("device has no entropy")]
    Entropy,
    /// Key generation failed.
    #[error("device could not make a key")]
    Key,
    /// The store refused a write, or gave back something else.
    #[error("device could not store")]
    Store,
    /// A step before the one it needs.
    #[error("step is out of order")]
    Order,
    /// Another subject than the one it has signed a request for.
    #[error("device was asked to be somebody else before")]
    Subject,
    /// The certificate is not for this device's key and subject, or the issuer did not sign it.
    #[error("certificate does not belong to this device")]
    Certificate,
    /// The root key is not the one of the vendor page.
    #[error("anchors are not signed by the root of the vendor page")]
    Root,
    /// The root's signature over the anchors is wrong.
    #[error("signature over the anchors is wrong")]
    Anchors,
    /// The request is not in the format, or larger than a limit.
    #[error("request is malformed")]
    Malformed,
    /// A wire version the device does not read.
    #[error("wire version is not known to the device")]
    Version,
}

impl Refusal {
    /// The station's code for it.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Refusal::Entropy => Code::StationEntropy,
            Refusal::Key => Code::StationKey,
            Refusal::Store => Code::StationWrite,
            Refusal::Subject => Code::StationSerialTaken,
            Refusal::Certificate | Refusal::Root | Refusal::Anchors => Code::StationWrite,
            Refusal::Locked => Code::StationSerialTaken,
            Refusal::Order | Refusal::Malformed => Code::StationRequest,
            Refusal::Version => Code::StationFirmware,
        }
    }
}

/// Why bytes are not a factory message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A version this reader does not know.
    #[error("factory message version {0}, this reader knows {WIRE_MIN} to {WIRE_CURRENT}")]
    Version(u8),
    /// Not the format.
    #[error("factory message is malformed")]
    Malformed,
    /// It does not fit the buffer.
    #[error("factory message does not fit {0} octets")]
    TooLong(usize),
}

impl<T> Envelope<T> {
    /// The message under its number.
    pub fn new(request: u16, body: T) -> Self {
        Self { version: WIRE_CURRENT, request, body }
    }
}

impl<T: Serialize> Envelope<T> {
    /// Writes the message; returns the octets used.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] when `out` is too small.
    pub fn write<'b>(&self, out: &'b mut [u8]) -> Result<&'b [u8], MessageError> {
        write(self, out)
    }
}

impl<'a, T: Deserialize<'a>> Envelope<T> {
    /// Reads a message.
    ///
    /// # Errors
    /// [`MessageError`]; trailing octets are an error too.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MessageError> {
        version(bytes)?;
        read(bytes)
    }
}

impl<'a> Install<'a> {
    /// The octets whose SHA-256 the device acknowledges.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] when `out` is too small.
    pub fn write<'b>(&self, out: &'b mut [u8]) -> Result<&'b [u8], MessageError> {
        write(self, out)
    }

    /// Reads what [`Install::write`] wrote.
    ///
    /// # Errors
    /// [`MessageError`]; trailing octets are an error too.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MessageError> {
        read(bytes)
    }
}

impl<'a> Anchors<'a> {
    /// A set of this generation.
    #[must_use]
    pub fn new(generation: u32, current: &'a [u8], next: Option<&'a [u8]>) -> Self {
        Self { version: WIRE_CURRENT, generation, current, next }
    }

    /// Writes the octets the root signs, without [`ANCHORS_CONTEXT`].
    ///
    /// # Errors
    /// [`MessageError::TooLong`] when `out` is too small.
    pub fn write<'b>(&self, out: &'b mut [u8]) -> Result<&'b [u8], MessageError> {
        write(self, out)
    }

    /// Reads a set. Check the signature first.
    ///
    /// # Errors
    /// [`MessageError`]; trailing octets are an error too.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MessageError> {
        version(bytes)?;
        read(bytes)
    }
}

impl<'a> SignedAnchors<'a> {
    /// Writes the set with its signature.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] when `out` is too small.
    pub fn write<'b>(&self, out: &'b mut [u8]) -> Result<&'b [u8], MessageError> {
        write(self, out)
    }

    /// Reads the pieces; nothing is verified.
    ///
    /// # Errors
    /// [`MessageError`]; trailing octets are an error too.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MessageError> {
        read(bytes)
    }
}

fn write<'b>(message: &impl Serialize, out: &'b mut [u8]) -> Result<&'b [u8], MessageError> {
    let room = out.len();
    postcard::to_slice(message, out).map(|used| &*used).map_err(|_| MessageError::TooLong(room))
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, MessageError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(MessageError::Malformed),
    }
}

fn version(bytes: &[u8]) -> Result<(), MessageError> {
    match bytes.first() {
        Some(&(WIRE_MIN..=WIRE_CURRENT)) => Ok(()),
        Some(&version) => Err(MessageError::Version(version)),
        None => Err(MessageError::Malformed),
    }
}

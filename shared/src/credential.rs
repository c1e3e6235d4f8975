//! Asking for an operational certificate, and getting it: `credential/csr`, `credential/certificate`.

use serde::{Deserialize, Serialize};

use crate::{WIRE_CURRENT, WIRE_MIN};

/// The device asks; the CSR is signed by the new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRequest<'a> {
    version: u8,
    /// Counts the device's requests; the answer carries it back.
    pub request: u32,
    /// PKCS #10 in DER.
    #[serde(borrow)]
    pub csr: &'a [u8],
}

/// The server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateAnswer<'a> {
    version: u8,
    /// The request this answers.
    pub request: u32,
    /// X.509 in DER.
    #[serde(borrow)]
    pub certificate: &'a [u8],
}

/// Why bytes are not a credential message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// A version this reader does not know.
    #[error("credential message version {0}, this reader knows {WIRE_MIN} to {WIRE_CURRENT}")]
    Version(u8),
    /// Not the format.
    #[error("credential message is malformed")]
    Malformed,
    /// It does not fit the buffer.
    #[error("credential message does not fit {0} octets")]
    TooLong(usize),
}

macro_rules! message {
    ($name:ident, $body:ident) => {
        impl<'a> $name<'a> {
            /// The message with this body.
            #[must_use]
            pub fn new(request: u32, $body: &'a [u8]) -> Self {
                Self { version: WIRE_CURRENT, request, $body }
            }

            /// Writes the message; returns the octets used.
            ///
            /// # Errors
            /// [`CredentialError::TooLong`] when `out` is too small.
            pub fn write<'b>(&self, out: &'b mut [u8]) -> Result<&'b [u8], CredentialError> {
                let room = out.len();
                postcard::to_slice(self, out).map(|used| &*used).map_err(|_| CredentialError::TooLong(room))
            }

            /// Reads a message.
            ///
            /// # Errors
            /// [`CredentialError`]; trailing octets are an error too.
            pub fn read(bytes: &'a [u8]) -> Result<Self, CredentialError> {
                match bytes.first() {
                    Some(&(WIRE_MIN..=WIRE_CURRENT)) => {}
                    Some(&version) => return Err(CredentialError::Version(version)),
                    None => return Err(CredentialError::Malformed),
                }
                match postcard::take_from_bytes(bytes) {
                    Ok((message, [])) => Ok(message),
                    _ => Err(CredentialError::Malformed),
                }
            }
        }
    };
}

message!(CertificateRequest, csr);
message!(CertificateAnswer, certificate);

//! What is kept of a session, as octets: written with every change, read at the next start.
//!
//! Postcard, behind one octet of version. The session engine's own part is opaque here.

use std::sync::Arc;

use bytes::Bytes;
use muster_shared::CertificateId;
use serde::{Deserialize, Serialize};

use crate::{
    edge::mqtt::session::{Kept, KeptError},
    registry::Verdicts,
    uplink::{Message, Position, Publisher, SessionKey, Shown},
};

const VERSION: u8 = 1;

/// A session at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) kept: Vec<u8>,
    /// How far a service has read the log.
    pub(super) seen: u64,
    /// Since when its client is away, Unix milliseconds; `None`: it was connected when this was written.
    pub(super) since_ms: Option<u64>,
    pub(super) will: Option<Will>,
}

/// A will that waits for its delay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Will {
    pub(super) due_ms: u64,
    /// The certificate its session was authenticated with: its verdict is read when the will is sent.
    certificate: Option<[u8; 32]>,
    tenant: Option<Box<str>>,
    topic: Vec<u8>,
    payload: Vec<u8>,
    properties: Vec<u8>,
    qos: u8,
    retain: bool,
}

/// A kept session that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SavedError {
    /// Written by another version of this software.
    #[error("kept session is of version {0}, this reader knows {VERSION}")]
    Version(u8),
    /// Not what was written.
    #[error("kept session is malformed")]
    Malformed(#[from] postcard::Error),
    /// The session engine's part is not what it wrote.
    #[error(transparent)]
    Kept(#[from] KeptError),
}

impl Saved {
    pub(super) fn live(kept: &Kept, seen: Position) -> Self {
        Self { kept: kept.encode(), seen: seen.0, since_ms: None, will: None }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a vector takes all, and every field has a form")
    }

    pub(super) fn decode(octets: &[u8]) -> Result<Self, SavedError> {
        match octets.split_first() {
            Some((&VERSION, rest)) => Ok(postcard::from_bytes(rest)?),
            Some((version, _)) => Err(SavedError::Version(*version)),
            None => Err(SavedError::Malformed(postcard::Error::DeserializeUnexpectedEnd)),
        }
    }
}

impl Will {
    pub(super) fn of(due_ms: u64, message: &Message) -> Self {
        let certificate = match &message.publisher {
            Publisher::Device { certificate, .. } => Some(certificate.0),
            Publisher::Service { shown, .. } => shown.as_ref().map(|shown| shown.certificate.0),
            Publisher::Server { .. } => None,
        };
        let tenant = match &message.publisher {
            Publisher::Service { tenant, .. } => tenant.as_ref().map(|tenant| tenant.as_str().into()),
            Publisher::Device { .. } | Publisher::Server { .. } => None,
        };
        Self {
            due_ms,
            certificate,
            tenant,
            topic: message.topic.to_vec(),
            payload: message.payload.to_vec(),
            properties: message.properties.to_vec(),
            qos: message.qos,
            retain: message.retain,
        }
    }

    /// The message it is, from the one whose session it was.
    pub(super) fn message(&self, key: &SessionKey, verdicts: &Verdicts) -> Option<Message> {
        let publisher = match key {
            SessionKey::Device { tenant, device_id } => Publisher::Device {
                device: verdicts.by_id(tenant, device_id)?,
                certificate: CertificateId(self.certificate?),
            },
            SessionKey::Service { name, client_id } => Publisher::Service {
                tenant: self.tenant.as_ref().map(|tenant| tenant.parse()).transpose().ok()?,
                name: name.clone(),
                client_id: client_id.clone(),
                // Which CA it was of is not kept: none has these octets.
                shown: self
                    .certificate
                    .map(|id| Arc::new(Shown { certificate: CertificateId(id), issuer_key_id: [0; 20] })),
            },
        };
        Some(Message {
            publisher,
            topic: Bytes::copy_from_slice(&self.topic),
            payload: Bytes::copy_from_slice(&self.payload),
            properties: Bytes::copy_from_slice(&self.properties),
            qos: self.qos,
            retain: self.retain,
            name: None,
            received_ms: self.due_ms,
            state: None,
        })
    }
}

//! What is kept of a session, as octets: written with every change, read at the next start.
//!
//! Postcard, behind one octet of version. The session engine's own part is opaque here. Version 2 says of a
//! service's will who issued its certificate and until when that is good; one of version 1 cannot be authorised
//! again and is not sent.

use std::sync::Arc;

use bytes::Bytes;
use muster_shared::CertificateId;
use serde::{Deserialize, Serialize};

use crate::{
    edge::mqtt::session::{Kept, KeptError},
    registry::Verdicts,
    uplink::{Message, Position, Publisher, SessionKey, Shown},
};

/// The form written today. Older ones stay readable.
const VERSION: u8 = 2;

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
    /// Of a service: key identifier of its certificate's CA, and the certificate's last good second.
    issued: Option<([u8; 20], i64)>,
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
            // The will stands last, and in it what version 2 has more: none of that.
            Some((1, rest)) => Ok(postcard::from_bytes(&[rest, &[0]].concat())?),
            Some((version, _)) => Err(SavedError::Version(*version)),
            None => Err(SavedError::Malformed(postcard::Error::DeserializeUnexpectedEnd)),
        }
    }
}

impl Will {
    pub(super) fn of(due_ms: u64, message: &Message) -> Self {
        let (certificate, tenant, issued) = match &message.publisher {
            Publisher::Device { certificate, .. } => (Some(certificate.0), None, None),
            Publisher::Service { shown, tenant, .. } => (
                shown.as_ref().map(|shown| shown.certificate.0),
                tenant.as_ref().map(|tenant| tenant.as_str().into()),
                shown.as_ref().map(|shown| (shown.issuer_key_id, shown.not_after_s)),
            ),
            Publisher::Server { .. } => (None, None, None),
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
            issued,
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
                shown: self.certificate.zip(self.issued).map(|(id, (issuer_key_id, not_after_s))| {
                    Arc::new(Shown { certificate: CertificateId(id), issuer_key_id, not_after_s })
                }),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(issued: Option<([u8; 20], i64)>) -> Saved {
        let will = Will {
            due_ms: 300,
            certificate: Some([7; 32]),
            tenant: None,
            topic: b"t".to_vec(),
            payload: b"gone".to_vec(),
            properties: Vec::new(),
            qos: 1,
            retain: false,
            issued,
        };
        Saved { kept: vec![1, 2], seen: 9, since_ms: Some(5), will: Some(will) }
    }

    /// As servers have written it; do not change these octets.
    fn version_1() -> Vec<u8> {
        let before = [1, 2, 1, 2, 9, 1, 5, 1, 0xac, 2, 1];
        let behind = [0, 1, b't', 4, b'g', b'o', b'n', b'e', 0, 1, 0];
        [&before[..], &[7; 32], &behind].concat()
    }

    #[test]
    fn what_was_written_is_read_back_and_what_version_1_wrote_too() {
        for issued in [None, Some(([8; 20], 1_800_000_000))] {
            let saved = saved(issued);
            assert_eq!(Saved::decode(&saved.encode()), Ok(saved));
        }
        assert_eq!(Saved::decode(&version_1()), Ok(saved(None)));
        assert_eq!(
            Saved::decode(&[1, 0, 9, 0, 0]),
            Ok(Saved { kept: Vec::new(), seen: 9, since_ms: None, will: None })
        );
        assert_eq!(Saved::decode(&[3]), Err(SavedError::Version(3)));
        assert!(Saved::decode(&[]).is_err());
    }
}

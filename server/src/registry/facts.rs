//! What the edge sees, on its way to the registry: coalesced, bounded, unaudited, never waited for.

use std::net::SocketAddr;

use muster_shared::{Code, SerialNumber, Tenant};

use super::{
    session::{DisconnectReason, SessionId},
    verdict::DeviceKey,
};

/// Who a refused connection said it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claimed {
    /// A device of the registry.
    Device(DeviceKey),
    /// A name the registry does not have, from a certificate somebody vouched for.
    Name(Tenant, SerialNumber),
    /// Nobody in particular.
    Nobody,
}

/// A session that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// Whose.
    pub device: DeviceKey,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// From where.
    pub remote: SocketAddr,
    /// MQTT protocol level: 4 is 3.1.1, 5 is 5.0.
    pub protocol: u8,
    /// Keep-alive, seconds; 0 is none.
    pub keep_alive_s: u16,
}

/// The handle. Cheap to clone; none of its calls waits for a disk.
#[derive(Clone)]
pub struct Facts {}

impl Facts {
    /// A session began.
    #[must_use]
    pub fn connected(&self, session: Connected) -> SessionId {
        let _ = session;
        SessionId(0)
    }

    /// A session ended.
    pub fn disconnected(&self, device: DeviceKey, session: SessionId, at_ms: u64, why: DisconnectReason) {
        let _ = (device, session, at_ms, why);
    }

    /// A connection, or a packet of one, was refused. Counted per device, code and minute.
    pub fn refused(&self, who: &Claimed, code: Code, at_ms: u64, remote: Option<SocketAddr>) {
        let _ = (who, code, at_ms, remote);
    }

    /// Something was heard of the device.
    pub fn seen(&self, device: DeviceKey, at_ms: u64) {
        let _ = (device, at_ms);
    }

    /// Waits until everything said so far is on disk: for an orderly stop, and for tests.
    pub async fn flush(&self) {}
}

//! Listings, and one device's page.

use muster_shared::{
    BatchId, CertificateId, Code, DeviceId, SerialNumber, StationId, Tenant, telemetry::Value,
};

use super::{
    audit::AuditRow,
    decide::RevocationReason,
    device::DeviceState,
    session::{DisconnectReason, SessionId},
    verdict::{CertificateStatus, DeviceKey},
};

/// Which devices a listing is about; empty is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// In this state.
    pub state: Option<DeviceState>,
    /// Of this batch.
    pub batch: Option<BatchId>,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// What to ask for the next page with; `None` on the last.
    pub next: Option<String>,
    /// How many match in all.
    pub total: u64,
}

/// A device in a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceRow {
    /// Its key in this process: what the roster knows it by.
    pub key: DeviceKey,
    /// Whose.
    pub tenant: Tenant,
    /// Its name on topics.
    pub device_id: DeviceId,
    /// The number on its label.
    pub serial: SerialNumber,
    /// What the registry allows it.
    pub state: DeviceState,
    /// The order it was made in.
    pub batch: BatchId,
    /// Where it was made.
    pub station: StationId,
    /// What it is.
    pub product: String,
    /// The certificate it uses.
    pub certificate: CertificateId,
    /// That certificate's last good second, Unix seconds.
    pub not_after_s: i64,
    /// When its manifest was imported, Unix milliseconds.
    pub registered_at_ms: u64,
    /// When it first connected.
    pub first_connected_ms: Option<u64>,
    /// When its state last changed.
    pub changed_at_ms: u64,
    /// When it was last heard of.
    pub last_seen_ms: Option<u64>,
    /// Its newest session.
    pub session: Option<SessionRow>,
    /// Refusals in the last 24 hours.
    pub refused_24h: u64,
    /// The newest refusal.
    pub last_refusal: Option<RefusalRow>,
}

/// Everything about one device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceDetail {
    /// What the listing shows.
    pub row: DeviceRow,
    /// Why it is in its state: the audit row of the last change.
    pub why: Option<AuditRow>,
    /// Every certificate it has had, newest first.
    pub certificates: Vec<CertificateRow>,
    /// Its last sessions, newest first.
    pub sessions: Vec<SessionRow>,
    /// Its refusals by code and minute, newest first.
    pub refusals: Vec<RefusalRow>,
    /// What was decided about it, newest first.
    pub history: Vec<AuditRow>,
    /// The newest value of each of its sensors, by name.
    pub readings: Vec<ReadingRow>,
    /// The last decision that ended its sessions, and how that went.
    pub enforcement: Option<EnforcementRow>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    /// SHA-256 of its DER.
    pub id: CertificateId,
    /// What the registry holds against it.
    pub status: CertificateStatus,
    /// Itself.
    pub der: Vec<u8>,
    /// First good second, Unix seconds.
    pub not_before_s: i64,
    /// Last good second.
    pub not_after_s: i64,
    /// Why and when it was revoked (Unix milliseconds).
    pub revoked: Option<(RevocationReason, u64)>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Its name.
    pub id: SessionId,
    /// When it began, Unix milliseconds.
    pub began_at_ms: u64,
    /// From where.
    pub remote: String,
    /// MQTT protocol level: 4 is 3.1.1, 5 is 5.0.
    pub protocol: u8,
    /// When and why it ended; `None` while it lives.
    pub ended: Option<(u64, DisconnectReason)>,
}

/// Refusals of one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalRow {
    /// Why.
    pub code: Code,
    /// In which minute: its first millisecond.
    pub minute_ms: u64,
    /// How many in it.
    pub count: u64,
    /// The newest of them.
    pub last_at_ms: u64,
    /// Where that came from, when known.
    pub remote: Option<String>,
}

/// The newest value of one sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingRow {
    /// Its name, with the unit last.
    pub sensor: String,
    /// What it said.
    pub value: Value,
    /// When the message that held it was received, Unix milliseconds.
    pub received_ms: u64,
    /// The device's uptime when it was measured, milliseconds.
    pub uptime_ms: u64,
}

/// How a decision that ends sessions went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnforcementRow {
    /// When it was decided, Unix milliseconds.
    pub decided_at_ms: u64,
    /// When the last of its sessions was closed; `None` while one may live.
    pub enforced_at_ms: Option<u64>,
    /// How many were closed.
    pub sessions_ended: u64,
}

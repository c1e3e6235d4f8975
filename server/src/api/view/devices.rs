//! Devices: a line each, and everything about one with what operators wrote on it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    audit::AuditRow,
    certificates::{Certificate, ChainLink},
    decisions::Enforcement,
    events::Refusal,
    readings::Reading,
    sessions::{PastSession, Presence},
};

/// A device in a listing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Device {
    /// The number on its label.
    pub serial: String,
    /// Whose.
    pub tenant: String,
    /// Its name on topics.
    pub device_id: String,
    /// The state in force: its own, or the one a group it is in is held in, where that is graver.
    pub state: String,
    /// Its own state: what decisions about this device, and no other, have put it in.
    pub own_state: String,
    /// When its own state last changed.
    pub changed_at: String,
    /// What is seen of it.
    pub presence: Presence,
    /// The order it was made in.
    pub batch: String,
    /// Where it was made.
    pub station: String,
    /// What it is.
    pub product: String,
    /// What it runs, as it reported; `null` until it has.
    pub firmware: Option<String>,
    /// Key identifier of the authority that issued its certificate.
    pub issuer: String,
    /// Whether it needs somebody: 3 quarantined, 2 refused lately, 1 its certificate ends soon, 0 no.
    pub attention: u8,
    /// What an operator wrote on it.
    pub note: Option<String>,
    /// Why it may not talk now, by its own state or by a decision about a group it is in: `M201`.
    pub refused_as: Option<String>,
    /// SHA-256 of its certificate.
    pub certificate_id: String,
    /// That certificate's last good second.
    pub certificate_ends_at: String,
    /// When its manifest was imported.
    pub registered_at: String,
    /// When it first connected.
    pub first_connected_at: Option<String>,
    /// Refusals in the last 24 hours.
    pub refused_24h: u64,
    /// The newest refusal.
    pub last_refusal: Option<Refusal>,
}

/// Everything about one device.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DeviceDetail {
    /// `muster.device/1`.
    pub schema: String,
    /// Its version, the same as the ETag says: the audit row of its last change.
    pub version: u64,
    /// What the listing shows.
    #[serde(flatten)]
    pub device: Device,
    /// The decision that put its state in force: about it, or about a group it is in.
    pub why: Option<AuditRow>,
    /// Newest first.
    pub certificates: Vec<Certificate>,
    /// Newest first.
    pub sessions: Vec<PastSession>,
    /// By code and minute, newest first.
    pub refusals: Vec<Refusal>,
    /// Newest first.
    pub history: Vec<AuditRow>,
    /// By name.
    pub readings: Vec<Reading>,
    /// The last decision that ended its sessions.
    pub enforcement: Option<Enforcement>,
    /// What operators wrote on it.
    pub labels: Labels,
    /// What its certificate stands on: itself, its issuer, the root.
    pub chain: Vec<ChainLink>,
    /// The serial of the device that took its place.
    pub replaced_by: Option<String>,
    /// The serial of the device whose place it took.
    pub replaces: Option<String>,
    /// The verbs its state allows.
    pub can_do: Vec<String>,
}

/// What operators wrote on a device: `muster.labels/1` where it stands alone.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Labels {
    /// The schema's name.
    pub schema: String,
    /// In alphabetical order.
    pub tags: Vec<String>,
    /// In alphabetical order.
    pub groups: Vec<String>,
    /// In an operator's words.
    pub note: Option<String>,
    /// Whose words.
    pub note_by: Option<String>,
    /// When they were written.
    pub note_at: Option<String>,
    /// The version of it, the same as the ETag says: the audit row of the last change; 0 for nothing yet.
    pub version: u64,
}

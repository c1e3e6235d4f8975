//! Who is connected: what is seen of a device, its past sessions, and those that live.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is seen of a device, apart from what it is allowed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Presence {
    /// `online`, `offline` or `never_seen`.
    pub word: String,
    /// Since when that is so.
    pub since: Option<String>,
    /// From where it was last connected.
    pub address: Option<String>,
    /// `3.1.1` or `5.0`.
    pub mqtt: Option<String>,
    /// Why the last session ended.
    pub last_reason: Option<String>,
    /// When it was last heard of.
    pub last_seen_at: Option<String>,
}

/// A session of a device, living or ended.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PastSession {
    /// When it began.
    pub began_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Why it ended.
    pub reason: Option<String>,
    /// From where.
    pub address: String,
    /// `3.1.1` or `5.0`.
    pub mqtt: String,
}

/// A live session.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// Counts this process's sessions.
    pub number: u64,
    /// Whose, where it is a device's.
    pub serial: Option<String>,
    /// Whose fleet, where it is a device's.
    pub tenant: Option<String>,
    /// The device's name on topics.
    pub device_id: Option<String>,
    /// Whose, where it is a service's.
    pub service: Option<String>,
    /// The service's client id.
    pub client_id: Option<String>,
    /// Since when.
    pub since: String,
    /// From where.
    pub address: String,
    /// `3.1.1` or `5.0`.
    pub mqtt: String,
    /// Subscriptions it holds.
    pub subscriptions: u64,
    /// Messages taken from the device.
    pub received: u64,
    /// Messages sent to it.
    pub sent: u64,
    /// Messages from the device a second, on average since the session began.
    pub received_per_s: f64,
    /// Messages to the device a second, on average since the session began.
    pub sent_per_s: f64,
    /// Messages that wait to be taken up by the session.
    pub queued: u64,
    /// Messages to it that found no room there.
    pub dropped: u64,
    /// The cipher suite, by its name at IANA; `null` where it is not known.
    pub cipher: Option<String>,
    /// The keep-alive agreed on; 0: none.
    pub keep_alive_s: u16,
    /// The certificate it authenticated with.
    pub certificate_id: String,
}

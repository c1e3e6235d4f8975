//! What happened, as it is told: the stream, a device's timeline, refusals.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{audit::AuditRow, readings::Reading};

/// Something that happened: `muster.event/1`. What it is about is in the field of its kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StreamEvent {
    /// The schema's name.
    pub schema: String,
    /// `open`, `change`, `presence`, `refusal`, `notice`, `message`, `gap` or `end`.
    pub kind: String,
    /// When.
    pub at: String,
    /// Whose, where it is about a device.
    pub tenant: Option<String>,
    /// The number on the device's label, where it is known.
    pub serial: Option<String>,
    /// The device's name on topics.
    pub device_id: Option<String>,
    /// A row of the audit log.
    pub change: Option<AuditRow>,
    /// It has connected, or its session has ended.
    pub presence: Option<PresenceEvent>,
    /// Refusals of one device, code and minute, counted so far.
    pub refusal: Option<Refusal>,
    /// Something it did that nobody was refused for, counted by the minute.
    pub notice: Option<NoticeEvent>,
    /// A message of the uplink log.
    pub message: Option<MessageEvent>,
    /// What could not be told.
    pub gap: Option<Gap>,
    /// Why the stream ends.
    pub problem: Option<serde_json::Value>,
}

/// What a device did that nobody was refused for and its operator wants to see.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct NoticeEvent {
    /// `slowed` or `clone_suspected`.
    pub notice: String,
    /// The same in words, with its bound.
    pub text: String,
    /// How many in this minute so far.
    pub count: u64,
    /// The newest of them.
    pub last_at: String,
    /// From where the newest came.
    pub address: Option<String>,
}

/// A device has connected, or its session has ended.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PresenceEvent {
    /// Which of the two.
    pub online: bool,
    /// Why the session ended.
    pub reason: Option<String>,
}

/// A message of the uplink log.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MessageEvent {
    /// Where it stands in the log.
    pub position: u64,
    /// On which topic.
    pub topic: String,
    /// `device`, `server`, or `service` and its name.
    pub publisher: String,
    /// The publisher's QoS.
    pub qos: u8,
    /// Whether it came to be retained.
    pub retain: bool,
    /// What it says, where that is text.
    pub payload: Option<String>,
    /// What it says.
    pub payload_base64: String,
    /// What its sensors say, where it is telemetry.
    pub readings: Option<Vec<Reading>>,
}

/// What could not be told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// `decisions`, `messages` or `refusals`.
    pub of: String,
    /// The first number that is missing; `null` where that is not known.
    pub from: Option<u64>,
    /// The last.
    pub to: Option<u64>,
    /// Why.
    pub why: String,
}

/// One line of a device's timeline.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When.
    pub at: String,
    /// `made`, `connected`, `disconnected`, `refused`, `decided`, `certificate`, `ordered`, `slowed`, `firmware` or
    /// `clone_suspected`.
    pub kind: String,
    /// The shape before the line, by its name: `made`, `registered`, `active`, `suspended`, `quarantined`,
    /// `refused`, `gone` or `plain`.
    pub mark: String,
    /// The line.
    pub text: String,
    /// Who did it.
    pub actor: Option<String>,
    /// The row of the audit log that says so.
    pub audit_no: Option<u64>,
    /// Why it was refused.
    pub code: Option<String>,
}

/// A refusal, folded over a minute.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// `M201`.
    pub code: String,
    /// Its words.
    pub words: String,
    /// How many in that minute.
    pub count: u64,
    /// The newest of them.
    pub last_at: String,
    /// Where it came from.
    pub address: Option<String>,
}

//! Why a device can or cannot connect, check by check.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{audit::AuditRow, events::Refusal};

/// Why a device can or cannot connect now: `muster.explain/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The schema's name.
    pub schema: String,
    /// The number on its label.
    pub serial: String,
    /// Whose.
    pub tenant: String,
    /// Its name on topics.
    pub device_id: String,
    /// What the registry allows it.
    pub state: String,
    /// The certificate it would show.
    pub certificate_id: String,
    /// That certificate's end.
    pub certificate_ends_at: String,
    /// Whether it would be let in, as far as that is known before it says anything.
    pub may_connect: bool,
    /// Whether it was refused for what it sent itself, and has not been let in since.
    pub refused_since: bool,
    /// What it would be refused with.
    pub code: Option<String>,
    /// The code's words.
    pub words: Option<String>,
    /// What to do about it; where only the last refusal stands in the way, about that.
    pub next: Option<String>,
    /// Each check in the order it is made.
    pub checks: Vec<Check>,
    /// Whether it is connected now.
    pub online: bool,
    /// The decision that put it where it is, where it may not connect.
    pub why: Option<AuditRow>,
    /// The last time it was refused.
    pub last_refusal: Option<Refusal>,
    /// Whether it may use the topic that was asked about.
    pub topic: Option<TopicAnswer>,
}

/// One check.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Its name.
    pub check: String,
    /// Its words.
    pub words: String,
    /// `yes`, `no`, `not_reached`, or `depends`: on what it sends.
    pub outcome: String,
    /// What was found.
    pub said: Option<String>,
}

/// Whether a device may use a topic.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TopicAnswer {
    /// The topic name or filter.
    pub topic: String,
    /// `publish` or `subscribe`.
    pub verb: String,
    /// Whether it may.
    pub allowed: bool,
    /// What it would be refused with.
    pub code: Option<String>,
    /// Why not.
    pub why: Option<String>,
}

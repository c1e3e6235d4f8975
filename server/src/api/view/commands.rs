//! What is asked of a device, and what it says to it: commands, and the state it should be in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of a command: `muster.command/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CommandResult {
    /// The schema's name.
    pub schema: String,
    /// Its name, in its topic.
    pub command_id: String,
    /// Where it was published.
    pub topic: String,
    /// `acknowledged`: the device has it. `sent`: it is on its way, unacknowledged. `queued`: it waits in the
    /// session of a device that is away. `unknown`: the session ended first. `refused`: nobody took it.
    pub outcome: String,
    /// Whether the device has it.
    pub delivered: bool,
    /// What stood in the way.
    pub why: Option<String>,
}

/// A command that was sent to a device.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Command {
    /// Its name, in its topic.
    pub command_id: String,
    /// When it was sent.
    pub at: String,
    /// By whom.
    pub by: String,
    /// `sent`, `delivered`, `queued`, `expired`, `unknown`, `refused` or `answered`.
    pub state: String,
    /// What stood in the way.
    pub why: Option<String>,
    /// When the device is known to have had it; of one that it answered without acknowledging, `null`.
    pub delivered_at: Option<String>,
    /// What was sent, where that is text.
    pub request: Option<String>,
    /// The same octets.
    pub request_base64: String,
    /// What the device answered, where that is text; `null` when it has not.
    pub response: Option<String>,
    /// The same octets: the first 4096 of them.
    pub response_base64: Option<String>,
    /// How many there were in all.
    pub response_octets: Option<u64>,
    /// What they are, in the device's words.
    pub response_content_type: Option<String>,
    /// When it answered.
    pub answered_at: Option<String>,
}

/// One command: `muster.device.command/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CommandShown {
    /// The schema's name.
    pub schema: String,
    /// What the listing shows.
    #[serde(flatten)]
    pub command: Command,
}

/// A device's twin: `muster.device.twin/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Twin {
    /// The schema's name.
    pub schema: String,
    /// The number on its label.
    pub serial: String,
    /// Whose.
    pub tenant: String,
    /// Its name on topics.
    pub device_id: String,
    /// The state it should be in, a JSON object; `null` when nobody has said.
    pub desired: Option<serde_json::Value>,
    /// Which version that is: one more each time it is set, 0 when it never was.
    pub desired_version: u64,
    /// Who set it.
    pub desired_by: Option<String>,
    /// When.
    pub desired_at: Option<String>,
    /// Whether this version stands where the device reads it, and is sent to it. `false`: it will, once the
    /// device may talk.
    pub published: bool,
    /// What the device says its state is, where that is JSON; `null` when it said nothing, or something else.
    pub reported: Option<serde_json::Value>,
    /// The same octets, where they are no JSON.
    pub reported_base64: Option<String>,
    /// What they are, in the device's words.
    pub reported_content_type: Option<String>,
    /// When it said so.
    pub reported_at: Option<String>,
}

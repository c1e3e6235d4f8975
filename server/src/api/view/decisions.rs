//! What was decided about a device, about one in another's place or about a group; how its sessions ended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was decided: `muster.decision/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// The schema's name.
    pub schema: String,
    /// The number on the device's label.
    pub serial: String,
    /// Whose.
    pub tenant: String,
    /// Its name on topics.
    pub device_id: String,
    /// `suspend` and its like.
    pub act: String,
    /// The state before; `null` for a disconnect, which changes none.
    pub from: Option<String>,
    /// The state now.
    pub to: String,
    /// The registry's generation from this decision on.
    pub generation: Option<u64>,
    /// The number of its audit row.
    pub audit_no: Option<u64>,
    /// When it was committed.
    pub decided_at: String,
    /// What was seen of the sessions it ends.
    #[serde(flatten)]
    pub ended: Ended,
}

/// What was seen of the sessions that a decision ends.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct Ended {
    /// Whether every session it ends was seen to close. `false`: the server goes on closing them; nothing
    /// they send is accepted meanwhile.
    pub enforced: bool,
    /// When the last of them was closed.
    pub enforced_at: Option<String>,
    /// How many were closed.
    pub sessions_closed: u64,
    /// From the commit to the last closed socket; `null` when nobody was connected.
    pub commit_to_closed_ms: Option<u64>,
    /// The MQTT 5 reason code of the DISCONNECT; `null` when nobody was connected.
    pub mqtt_reason: Option<u8>,
}

/// How the last decision that ends sessions went.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Enforcement {
    /// When it was committed.
    pub decided_at: String,
    /// When the last of its sessions was closed; `null` while one may live.
    pub enforced_at: Option<String>,
    /// How many were closed.
    pub sessions_closed: u64,
    /// From the commit to the closed socket.
    pub commit_to_closed_ms: Option<u64>,
}

/// One device in another's place: `muster.replacement/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Replacement {
    /// The schema's name.
    pub schema: String,
    /// Nothing was done: this is what would be.
    pub dry_run: bool,
    /// About the device that is replaced: its revocation.
    pub decision: Decision,
    /// The serial of the device that takes its place.
    pub successor: String,
    /// The number of that device's own audit row; `null` after a dry run.
    pub successor_audit_no: Option<u64>,
    /// Tags it has now that it had not before.
    pub tags: Vec<String>,
    /// Groups it is in now that it was not in before.
    pub groups: Vec<String>,
    /// The note it was given; `null` where there was none, or it has its own.
    pub note: Option<String>,
    /// The version of the desired state it was given; `null` where there was none, or it has its own.
    pub desired_version: Option<u64>,
}

impl Replacement {
    /// `MU-000440 takes its place, and: tags x, y · groups north · its note "…" · its desired state`.
    #[must_use]
    pub fn takes(&self, verb: &str) -> String {
        let mut said = Vec::new();
        for (kind, words) in [("tags", &self.tags), ("groups", &self.groups)] {
            if !words.is_empty() {
                said.push(format!("{kind} {}", words.join(", ")));
            }
        }
        said.extend(self.note.as_ref().map(|note| format!("its note {note:?}")));
        said.extend(self.desired_version.map(|_| "its desired state".to_owned()));
        let what = if said.is_empty() { "nothing else".to_owned() } else { said.join(" · ") };
        format!("{} {verb} its place, and {what}", self.successor)
    }
}

/// What was decided about a group: `muster.group.decision/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct GroupDecision {
    /// The schema's name.
    pub schema: String,
    /// `tenant`, `station`, `batch`, `ca` or `certificate`.
    pub kind: String,
    /// Which one: `S-07/B-0042`.
    pub group: String,
    /// `suspend` and its like.
    pub act: String,
    /// The group's state before.
    pub from: String,
    /// The group's state now.
    pub to: String,
    /// Devices in it; who comes later is meant too.
    pub devices: u64,
    /// Nothing was decided: this is what it would be.
    pub dry_run: bool,
    /// The version of the group, for `If-Match`: the generation of the last decision about it, 0 for none.
    pub version: u64,
    /// The registry's generation from this decision on.
    pub generation: Option<u64>,
    /// The number of its audit row.
    pub audit_no: Option<u64>,
    /// When it was committed.
    pub decided_at: Option<String>,
    /// What was seen of the sessions it ends.
    #[serde(flatten)]
    pub ended: Ended,
}

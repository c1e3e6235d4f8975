//! One act on many devices: what it would come to, how far it is, what became of each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an act on a filter would come to: `muster.job.plan/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct JobPlan {
    /// The schema's name.
    pub schema: String,
    /// `suspend` and its like.
    pub act: String,
    /// Which devices, as it was read.
    pub filter: String,
    /// How many devices.
    pub count: u64,
    /// Of those, how many it would change.
    pub would_do: u64,
    /// How many are so already.
    pub would_skip: u64,
    /// How many are in a state that does not allow it.
    pub would_fail: u64,
    /// How many are connected now.
    pub online: u64,
    /// The first of them.
    pub first: Vec<String>,
    /// The registry's generation when it was planned.
    pub generation: u64,
    /// What to confirm it with.
    pub confirm: String,
}

/// A change of what is written on devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LabelEdit {
    /// Tags to put on.
    pub add_tags: Vec<String>,
    /// Tags to take off.
    pub remove_tags: Vec<String>,
    /// Groups to put them in.
    pub add_groups: Vec<String>,
    /// Groups to take them out of.
    pub remove_groups: Vec<String>,
}

/// One act on many devices: `muster.job/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// The schema's name.
    pub schema: String,
    /// Its name.
    pub job: String,
    /// `suspend` and its like.
    pub act: String,
    /// Which devices, as it was read.
    pub filter: String,
    /// Why.
    pub reason: String,
    /// The RFC 5280 word of a revocation.
    pub reason_code: Option<String>,
    /// What is written on the devices, where that is the act.
    pub label: Option<LabelEdit>,
    /// Who ordered it.
    pub operator: String,
    /// `running`, `cancelling`, `done` or `cancelled`.
    pub state: String,
    /// Whether nothing more will be done.
    pub ended: bool,
    /// Devices in all.
    pub total: u64,
    /// Of those, done.
    pub done: u64,
    /// So already.
    pub skipped: u64,
    /// Refused.
    pub failed: u64,
    /// When it was ordered.
    pub created_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
}

/// A device of a job.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct JobRow {
    /// Its place, from 1.
    pub no: u64,
    /// Whose.
    pub tenant: String,
    /// Which.
    pub serial: String,
    /// `done`, `skipped`, `failed` or `pending`.
    pub outcome: String,
    /// Why it was not done: `M203`.
    pub code: Option<String>,
    /// The same with the particulars.
    pub what: Option<String>,
    /// The decision's row in the audit log.
    pub audit_no: Option<u64>,
}

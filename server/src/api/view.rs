//! The documents of the API, read and written by one set of types: the server fills them, the command
//! line reads them back. Within `/1` fields are only added; each is always there, `null` when unknown.
//!
//! | module | is |
//! |---|---|
//! | `devices`, `certificates`, `readings` | a device: what it is, what it stands on, what its sensors said |
//! | `sessions`, `explain` | who is connected; why a device can or cannot be |
//! | `decisions`, `jobs`, `commands` | what was decided; one act on many; what is asked of a device |
//! | `batches` | what stations have made |
//! | `audit`, `events` | who decided what; what happened, as it is told |
//! | `operators`, `status` | who may act; the server itself |

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod audit;
mod batches;
mod certificates;
mod commands;
mod decisions;
mod devices;
mod events;
mod explain;
mod jobs;
mod operators;
mod readings;
mod sessions;
mod status;

pub use self::{
    audit::{AuditHead, AuditKey, AuditRow, AuditStanding, AuditVerdict},
    batches::{
        Batch, BatchDetail, BatchManifest, BatchVerdict, Import, MadeIn, MissingRow, RefusedRow, SerialSpan,
        StateCount, Station, Trusted,
    },
    certificates::{Authority, Certificate, CertificateDetail, ChainLink, ListedCertificate, Rotation},
    commands::{Command, CommandResult, CommandShown, Twin},
    decisions::{Decision, Ended, Enforcement, GroupDecision, Replacement},
    devices::{Device, DeviceDetail, Labels},
    events::{Event, Gap, MessageEvent, NoticeEvent, PresenceEvent, Refusal, StreamEvent},
    explain::{Check, Explanation, TopicAnswer},
    jobs::{Job, JobPlan, JobRow, LabelEdit},
    operators::{Invitation, NewToken, Operator, OperatorDetail, Token},
    readings::{Bucket, Reading, Readings, SensorChart, Silence},
    sessions::{PastSession, Presence, Session},
    status::{Config, Health, HealthCheck, Readiness, Route, Setting, Status},
};

/// One page of a listing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// `muster.device.list/1` and its like.
    pub schema: String,
    /// What is on it.
    pub items: Vec<T>,
    /// What to give as `after` for the next page; `null` on the last.
    pub next: Option<String>,
    /// How many match in all; `null` where that is not counted to its end.
    pub total: Option<u64>,
    /// How many match at least.
    #[serde(default)]
    pub total_at_least: Option<u64>,
}

impl<T> Page<T> {
    /// A page of `muster.NAME.list/1`.
    #[must_use]
    pub fn new(name: &str, items: Vec<T>, next: Option<String>, total: Option<u64>) -> Self {
        Self { schema: format!("muster.{name}.list/1"), items, next, total, total_at_least: total }
    }

    /// The same, where counting stopped unless it is said to be exact.
    #[must_use]
    pub fn counted(name: &str, items: Vec<T>, next: Option<String>, (total, exact): (u64, bool)) -> Self {
        Self { total_at_least: Some(total), ..Self::new(name, items, next, exact.then_some(total)) }
    }
}

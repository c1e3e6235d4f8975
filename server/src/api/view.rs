//! The documents of the API, read and written by one set of types: the server fills them, the command
//! line reads them back. Within `/1` fields are only added; each is always there, `null` when unknown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// A route of the API.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// In capitals.
    pub method: String,
    /// With `{parameters}`.
    pub path: String,
    /// What it does.
    pub summary: String,
}

/// Whether the server takes devices.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// What stands in the way.
    pub not_ready: Vec<String>,
}

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

/// Whether the server is well: `muster.health/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The schema's name.
    pub schema: String,
    /// Whether every check is.
    pub well: bool,
    /// The server's clock.
    pub now: String,
    /// Who asks.
    pub operator: String,
    /// As what.
    pub role: String,
    /// Each check.
    pub checks: Vec<HealthCheck>,
}

/// Each value of the configuration in force: `muster.config/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// The schema's name.
    pub schema: String,
    /// The file that was read; `null` when there is none.
    pub file: Option<String>,
    /// Each key, in the order of the sample.
    pub items: Vec<Setting>,
    /// Always `null`: all are on this page.
    pub next: Option<String>,
}

/// A key of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Setting {
    /// `limits.packet_max`.
    pub key: String,
    /// As it would be written; `null` where it says where secrets lie.
    pub value: Option<String>,
    /// Who said so: a flag, a variable, a file and its line, an operator and when, or `default`.
    pub source: String,
    /// It cannot be decided about while the server runs.
    pub pinned: bool,
}

/// A check of the server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HealthCheck {
    /// Its name.
    pub check: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub said: String,
    /// What to do about it.
    pub next: Option<String>,
}

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

/// A certificate of a device.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// SHA-256 of its DER.
    pub certificate_id: String,
    /// `pending`, `active`, `superseded` or `revoked`.
    pub status: String,
    /// Key identifier of its issuer.
    pub issuer: String,
    /// What it stands on: itself, its issuer, the root.
    pub chain: Vec<ChainLink>,
    /// Before whom its device has proven that it holds the key: `station`, whose manifest names it, or
    /// `handshake`, with this server; `null`: nobody who is known here.
    pub key_proven: Option<String>,
    /// First good second.
    pub not_before: String,
    /// Last good second.
    pub not_after: String,
    /// Why it was revoked, in the words of RFC 5280.
    pub revocation_reason: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
    /// Itself.
    pub pem: String,
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

/// The newest value of one sensor.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Reading {
    /// Its name, with the unit last.
    pub sensor: String,
    /// A number, a truth value or a text.
    pub value: serde_json::Value,
    /// When it arrived.
    pub received_at: String,
    /// How long the device had been up when it measured.
    pub uptime_ms: u64,
}

/// What a device's sensors said over a range: `muster.readings/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Readings {
    /// The schema's name.
    pub schema: String,
    /// Whose.
    pub serial: String,
    /// Whose fleet.
    pub tenant: String,
    /// The range's beginning.
    pub from: String,
    /// Its end, which is not in it.
    pub to: String,
    /// How long a bucket is.
    pub bucket_ms: u64,
    /// By name; only those that said something.
    pub sensors: Vec<SensorChart>,
}

/// What one sensor said over a range.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SensorChart {
    /// Its name, with the unit last.
    pub sensor: String,
    /// How far its values usually are apart.
    pub interval_ms: Option<u64>,
    /// Its last value in the range.
    pub latest: f64,
    /// When it was measured.
    pub latest_at: String,
    /// Buckets in which it said something, in order.
    pub buckets: Vec<Bucket>,
    /// Where it was silent for more than twice its interval.
    pub gaps: Vec<Silence>,
}

/// What a sensor said within a bucket.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Bucket {
    /// Where the bucket begins.
    pub at: String,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The last.
    pub last: f64,
}

/// Where a sensor said nothing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Silence {
    /// Its last value before.
    pub from: String,
    /// Its first value after.
    pub to: String,
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

/// A certificate of the chain from a device to the root.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ChainLink {
    /// `device`, `issuer` or `root`.
    pub role: String,
    /// What it is called: `7f3a09c1`, `factory CA of S-07`.
    pub name: String,
    /// SHA-256 of its DER; `null` where this server does not have it.
    pub fingerprint: Option<String>,
    /// Its last good second; `null` where this server does not have it.
    pub not_after: Option<String>,
    /// What is wrong with it; `null`: nothing.
    pub fault: Option<String>,
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

/// A row of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditRow {
    /// From 1 without gaps.
    pub no: u64,
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// As what.
    pub role: String,
    /// With which token.
    pub token: Option<String>,
    /// `device.suspend`.
    pub action: String,
    /// `acme/MU-000118`.
    pub target: String,
    /// In the actor's words.
    pub reason: Option<String>,
    /// Whose thing it is about; `null` for none's, or every tenant's.
    pub tenant: Option<String>,
    /// The request's id, as the server's log has it.
    pub request_id: Option<String>,
    /// The address the request came from.
    pub address: Option<String>,
    /// Particulars.
    pub detail: serde_json::Value,
    /// Digest of the row before.
    pub previous: String,
    /// Its own digest.
    pub digest: String,
}

/// The end of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditHead {
    /// Number of the newest row; 0 when there is none.
    pub no: u64,
    /// Its digest.
    pub digest: String,
}

/// The public key of the audit log's checkpoints: `muster.audit.key/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditKey {
    /// The schema's name.
    pub schema: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// Itself.
    pub pem: String,
}

/// How the audit log stood when it was last checked: `muster.audit.standing/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditStanding {
    /// The schema's name.
    pub schema: String,
    /// What the newest check found; `null` while the first one runs.
    pub newest: Option<AuditVerdict>,
}

/// What checking the audit log found: `muster.audit.verify/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditVerdict {
    /// The schema's name.
    pub schema: String,
    /// Whether every row is as it was written.
    pub intact: bool,
    /// Rows that are intact, from the first on.
    pub rows: u64,
    /// The end of the intact part: keep it, and check a later log against it.
    pub head: AuditHead,
    /// The first row that is missing or wrong.
    pub broken_no: Option<u64>,
    /// In what way.
    pub broken_why: Option<String>,
    /// When it was checked.
    pub checked_at: String,
}

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

/// A batch in a listing.
///
/// What failed at the line, and so the yield, is the station's to know: no manifest carries it, and nothing here
/// says it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Batch {
    /// Its name.
    pub batch: String,
    /// Whose.
    pub tenant: String,
    /// What was made.
    pub product: String,
    /// Where.
    pub station: String,
    /// Its newest manifest's place in its station's chain; null where only lists or first connections have
    /// brought devices, as are the three at the end.
    pub sequence: Option<u64>,
    /// Devices its manifests name; null without one.
    pub made: Option<u64>,
    /// Devices of it that are here.
    pub devices: u64,
    /// Of those, in state active.
    pub active: u64,
    /// When it was begun.
    pub opened_at: String,
    /// When the station closed it; without a manifest, when it was begun here.
    pub closed_at: String,
    /// Seconds a device took, from the order's beginning to its close; null without a manifest.
    pub s_per_unit: Option<f64>,
    /// When that manifest was imported.
    pub imported_at: Option<String>,
    /// By whom.
    pub imported_by: Option<String>,
    /// Its SHA-256.
    pub manifest_digest: Option<String>,
}

/// A batch against what was made: `muster.batch/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BatchDetail {
    /// The schema's name.
    pub schema: String,
    /// Its name.
    pub batch: String,
    /// Whose.
    pub tenant: String,
    /// Where.
    pub station: String,
    /// What was made.
    pub product: String,
    /// When the order was begun.
    pub opened_at: String,
    /// When the station closed it.
    pub closed_at: String,
    /// The newest first.
    pub manifests: Vec<BatchManifest>,
    /// Devices its manifests name.
    pub made: u64,
    /// Devices of it that are here.
    pub registered: u64,
    /// Of those, which have connected at least once.
    pub first_seen: u64,
    /// Devices of it by state.
    pub states: Vec<StateCount>,
    /// Devices of it by the hour they were made in, as their birth certificates say; hours without one are left out.
    #[serde(default)]
    pub made_hours: Vec<MadeIn>,
    /// Rows of its manifests that were not taken: duplicates, or tombstones.
    pub refused: u64,
    /// Devices of it that no manifest of it names.
    pub unannounced: u64,
    /// First serial of its devices.
    pub serial_first: Option<String>,
    /// Last serial of its devices.
    pub serial_last: Option<String>,
    /// Serials between those that no device of it has: the first hundred ranges.
    pub gaps: Vec<SerialSpan>,
    /// How many serials all gaps have.
    pub missing: u64,
    /// Most devices its station may make.
    pub quota: u64,
    /// How many it has made.
    pub station_devices: u64,
    /// How many of those are more than it may.
    pub over_quota: u64,
    /// The serials its station may give.
    pub range: SerialSpan,
}

/// How many were made in an hour.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MadeIn {
    /// Its beginning.
    pub at: String,
    /// How many.
    pub devices: u64,
}

/// How many are in a state.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StateCount {
    /// The state.
    pub state: String,
    /// How many.
    pub devices: u64,
}

/// Serials from one to another.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SerialSpan {
    /// The first.
    pub first: String,
    /// The last.
    pub last: String,
}

/// A manifest of a batch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BatchManifest {
    /// Its place in its station's chain.
    pub sequence: u64,
    /// SHA-256 of it.
    pub digest: String,
    /// Devices it names.
    pub devices: u64,
    /// When it was imported.
    pub imported_at: String,
    /// By whom.
    pub imported_by: String,
}

/// What checking a batch again found: `muster.batch.verify/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BatchVerdict {
    /// The schema's name.
    pub schema: String,
    /// Which.
    pub batch: String,
    /// Whether everything holds.
    pub intact: bool,
    /// Manifests that hold.
    pub manifests: u64,
    /// Devices they name.
    pub rows: u64,
    /// What does not hold.
    pub faults: Vec<String>,
    /// Rows that are not here as they were made; the first hundred.
    pub missing: Vec<MissingRow>,
}

/// A row of a manifest that is not here.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MissingRow {
    /// Its serial.
    pub serial: String,
    /// Why.
    pub why: String,
}

/// A device's certificate in a listing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ListedCertificate {
    /// SHA-256 of its DER.
    pub certificate_id: String,
    /// Its device.
    pub serial: String,
    /// Whose fleet.
    pub tenant: String,
    /// The device's name on topics.
    pub device_id: String,
    /// `pending`, `active`, `superseded` or `revoked`.
    pub status: String,
    /// Key identifier of its issuer.
    pub issuer: String,
    /// First good second.
    pub not_before: String,
    /// Last good second.
    pub not_after: String,
    /// Why it was revoked, in the words of RFC 5280.
    pub revocation_reason: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
    /// What took its place.
    pub replaced_by: Option<String>,
    /// Its device's place in the signed status list.
    pub status_index: u64,
}

/// One certificate: `muster.certificate/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CertificateDetail {
    /// The schema's name.
    pub schema: String,
    /// What the listing shows.
    #[serde(flatten)]
    pub certificate: ListedCertificate,
    /// Its device's state.
    pub device_state: String,
    /// SHA-256 of its public key.
    pub key: String,
    /// Itself.
    pub pem: String,
}

/// An authority.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Authority {
    /// What it is called here.
    pub name: String,
    /// What its certificate calls it.
    pub subject: String,
    /// What it issues.
    pub purpose: String,
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// Its key identifier.
    pub key_id: String,
    /// Where its key lives.
    pub key_at: String,
    /// It issues; one that was rotated only stays trusted for what it has issued.
    pub issues: bool,
    /// First good second.
    pub not_before: String,
    /// Last good second.
    pub not_after: String,
    /// Devices under it, where it is a station's.
    pub devices: Option<u64>,
    /// Its certificate.
    pub pem: String,
}

/// What became of a manifest: `muster.import/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Import {
    /// The schema's name.
    pub schema: String,
    /// Its batch.
    pub batch: String,
    /// Whose.
    pub tenant: String,
    /// Where it was made.
    pub station: String,
    /// What was made.
    pub product: String,
    /// Its place in its station's chain.
    pub sequence: u64,
    /// SHA-256 of the manifest.
    pub manifest_digest: String,
    /// Devices that are new.
    pub registered: u64,
    /// Rows that were known before.
    pub already: u64,
    /// Rows that were not taken.
    pub refused: Vec<RefusedRow>,
    /// The registry's generation after it.
    pub generation: u64,
    /// The number of its audit row; `null` when nothing changed.
    pub audit_no: Option<u64>,
}

/// A row of a manifest that was not taken.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RefusedRow {
    /// Its line, from 1.
    pub line: u64,
    /// Its serial.
    pub serial: String,
    /// Its certificate.
    pub certificate_id: String,
    /// Why: `M204`.
    pub code: String,
    /// What disagrees.
    pub why: String,
}

/// A step of an authority's rotation: `muster.authority.rotation/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Rotation {
    /// The schema's name.
    pub schema: String,
    /// Which: its purpose.
    pub authority: String,
    /// `ask` for a request to the root, `install` for its answer.
    pub step: String,
    /// Whether that was done before.
    pub already: bool,
    /// Nothing was done: this is what would be.
    pub dry_run: bool,
    /// What the new authority's certificate calls it; `null` before its key is made.
    pub subject: Option<String>,
    /// Key identifier of the new authority.
    pub key_id: Option<String>,
    /// The request for the root, PEM.
    pub request: Option<String>,
    /// SHA-256 of the new certificate, once the root has signed it.
    pub fingerprint: Option<String>,
    /// Key identifier of the one that issues now.
    pub former_key_id: String,
    /// What happens next.
    pub next: String,
    /// The step's audit row, where one was written.
    pub audit_no: Option<u64>,
}

/// What became of a station record: `muster.station.trust/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Trusted {
    /// The schema's name.
    pub schema: String,
    /// The station.
    pub station: String,
    /// The one tenant it makes devices for.
    pub tenant: String,
    /// Most devices it may make, ever.
    pub quota: u64,
    /// First serial it may give.
    pub serial_first: String,
    /// Last serial it may give.
    pub serial_last: String,
    /// Key identifier of its factory CA.
    pub factory_ca: String,
    /// SHA-256 of the key that signs its manifests.
    pub manifest_key: String,
    /// When the root signed the record.
    pub signed_at: String,
    /// Whether it was registered already, exactly so.
    pub already: bool,
    /// The fields in which it differs from the record it took the place of; empty where there was none.
    pub replaced: Vec<String>,
    /// Nothing was registered: this is what would be.
    pub dry_run: bool,
    /// The registry's generation after it.
    pub generation: u64,
    /// Its audit row, where one was written.
    pub audit_no: Option<u64>,
}

/// A registered station.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Station {
    /// Its name.
    pub station: String,
    /// The tenant it makes devices for.
    pub tenant: String,
    /// Most devices it may make.
    pub quota: u64,
    /// Devices it has made that are registered.
    pub devices: u64,
    /// First serial of its range.
    pub serial_first: String,
    /// Last serial of its range.
    pub serial_last: String,
    /// SHA-256 of the key that signs its manifests.
    pub manifest_key: String,
    /// The place of its last imported manifest.
    pub last_sequence: Option<u64>,
    /// When it was stopped.
    pub stopped_at: Option<String>,
    /// Why.
    pub stopped_why: Option<String>,
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

/// Is the server well, and what does it hold: `muster.status/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The schema's name.
    pub schema: String,
    /// This server's version.
    pub version: String,
    /// Whether it takes devices and stores what they send.
    pub ready: bool,
    /// What stands in the way.
    pub not_ready: Vec<String>,
    /// When it started.
    pub started_at: String,
    /// Devices in the registry.
    pub devices: u64,
    /// Live sessions.
    pub sessions: u64,
    /// The registry's generation.
    pub generation: u64,
    /// Where devices connect.
    pub mqtt: String,
    /// When the broker's certificate ends.
    pub broker_certificate_ends_at: String,
    /// Who asks, and as what.
    pub operator: String,
    /// The asking token's role.
    pub role: String,
    /// The one tenant they see; `null` for every.
    pub tenant: Option<String>,
}

/// An operator in a listing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Operator {
    /// `NAME`, or `TENANT/NAME` for one tenant's own.
    pub name: String,
    /// The most they may do.
    pub role: String,
    /// The one tenant they see; `null` for every.
    pub tenant: Option<String>,
    /// Who added them.
    pub added_by: String,
    /// When.
    pub added_at: String,
    /// When they last used a token, or the web page.
    pub last_seen_at: Option<String>,
    /// When they were removed.
    pub removed_at: Option<String>,
    /// Tokens of theirs that have not ended.
    pub tokens: u64,
    /// The version of them, for `If-Match`: the audit row of their last change.
    pub version: u64,
}

/// One operator: `muster.operator/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct OperatorDetail {
    /// The schema's name.
    pub schema: String,
    /// What the listing shows.
    #[serde(flatten)]
    pub operator: Operator,
}

/// A link that lets an operator in once: `muster.invitation/1`. Shown once.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Invitation {
    /// The schema's name.
    pub schema: String,
    /// Whom it lets in.
    pub operator: String,
    /// As what.
    pub role: String,
    /// When it ends, used or not.
    pub ends_at: String,
    /// The link, without the server's address.
    pub path: String,
}

/// A token in a listing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Whose.
    pub operator: String,
    /// What it allows.
    pub role: String,
    /// The one tenant it is for; `null` for every.
    pub tenant: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// By whom.
    pub added_by: String,
    /// When it ends or ended; `null` for never.
    pub ends_at: Option<String>,
    /// When it was last used.
    pub last_used_at: Option<String>,
    /// Whether it has ended.
    pub ended: bool,
}

/// A token just made: `muster.token/1`. Shown once.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct NewToken {
    /// The schema's name.
    pub schema: String,
    /// Its id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Whose.
    pub operator: String,
    /// What it allows.
    pub role: String,
    /// The one tenant it is for; `null` for every.
    pub tenant: Option<String>,
    /// When it ends; `null` for never.
    pub ends_at: Option<String>,
    /// The token itself.
    pub token: String,
}

//! One act on every device that a filter selects: first looked at, then confirmed, then done as a job.
//!
//! ```text
//! POST /v1/jobs/plan {act, filter, …}           → count, first serials, confirm
//! POST /v1/jobs      {act, filter, …, confirm}  → 202, the job
//! GET  /v1/jobs/{id}, /v1/jobs/{id}/rows        → progress; what became of each
//! POST /v1/jobs/{id}/cancel                     → ends after the device it is at
//! ```
//!
//! The confirmation is bound to who asked, the act, the filter and exactly the devices that were selected in the
//! states they were in: when any of that is different, nothing happens and the plan is to be looked at again.

use std::fmt;

use aws_lc_rs::hmac;
use axum::{Json, extract::State, http::StatusCode};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Document, Doors, Path, Query,
    asking::credential,
    auth::{Caller, Need},
    error::Problem,
    page_limit,
    routes::{About, Routes},
    time, view,
};
use crate::registry::{
    Act, Actor, DeviceKey, DeviceState, RevocationReason,
    jobs::{JobItem, JobRow, JobState, NewJob, Outcome},
    label::Edit,
};

mod run;

pub use run::{Runner, start};

/// Serials of a plan that are named.
const FIRST: usize = 5;
/// Most devices of one job.
const DEVICES_MAX: usize = 1_000_000;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    let refuses =
        [Code::ReasonMissing, Code::ConfirmationMissing, Code::SelectionChanged, Code::FilterMalformed];
    routes
        .post(
            "/v1/jobs/plan",
            plan,
            About::new("What an act on a filter would be done to: nothing is done")
                .takes::<Asked>()
                .answers::<view::JobPlan>("job.plan")
                .refuses([Code::ReasonMissing]),
        )
        .post(
            "/v1/jobs",
            create,
            About::new("Do an act on every device a filter selects, confirmed by a plan")
                .takes::<Asked>()
                .answers::<view::Job>("job")
                .status(202)
                .refuses(refuses),
        )
        .get(
            "/v1/jobs",
            list,
            About::new("Jobs, newest first").query::<List>().answers::<view::Page<view::Job>>("job.list"),
        )
        .get(
            "/v1/jobs/{id}",
            show,
            About::new("How far a job is").answers::<view::Job>("job").refuses([Code::JobUnknown]),
        )
        .get(
            "/v1/jobs/{id}/rows",
            rows,
            About::new("What became of each device of a job")
                .query::<Rows>()
                .answers::<view::Page<view::JobRow>>("job.row.list")
                .refuses([Code::JobUnknown]),
        )
        .post(
            "/v1/jobs/{id}/cancel",
            cancel,
            About::new("End a job after the device it is at")
                .answers::<view::Job>("job")
                .refuses([Code::JobUnknown]),
        )
}

/// What is done to each device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Decide(Act),
    Disconnect,
    Label,
}

impl Verb {
    const WORDS: &str = "suspend, resume, quarantine, release, revoke, decommission, disconnect, label";

    fn read(text: &str) -> Option<Self> {
        match text {
            "disconnect" => Some(Self::Disconnect),
            "label" => Some(Self::Label),
            _ => text.parse().ok().filter(|act| *act != Act::FirstConnection).map(Self::Decide),
        }
    }

    /// What cannot be undone, and to many at once, is for who answers for all of them.
    fn needs(self) -> Need {
        match self {
            Self::Decide(Act::Revoke | Act::Decommission) => Need::Trust,
            _ => Need::Decide,
        }
    }

    /// What it would come to for a device in this state.
    fn outcome(self, state: DeviceState) -> Outcome {
        let act = match self {
            Self::Decide(act) => act,
            Self::Disconnect => return Outcome::Done,
            // Nothing is kept of what is out of use; what is written already shows when it is done.
            Self::Label if state == DeviceState::Decommissioned => return Outcome::Failed,
            Self::Label => return Outcome::Done,
        };
        match state.step(act, true) {
            Ok(_) => Outcome::Done,
            Err(error) if is_there(error.from, act) => Outcome::Skipped,
            // Taking a device out of use revokes it first.
            Err(_) if act == Act::Decommission && state.step(Act::Revoke, true).is_ok() => Outcome::Done,
            Err(_) => Outcome::Failed,
        }
    }
}

/// Whether a device in this state is where the act would bring it.
fn is_there(state: DeviceState, act: Act) -> bool {
    match act {
        Act::Suspend => state == DeviceState::Suspended,
        Act::Quarantine => state == DeviceState::Quarantined,
        Act::Revoke => matches!(state, DeviceState::Revoked | DeviceState::Decommissioned),
        Act::Decommission => state == DeviceState::Decommissioned,
        Act::Resume | Act::Release | Act::FirstConnection => {
            matches!(state, DeviceState::Active | DeviceState::Registered)
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decide(act) => f.write_str(act.as_str()),
            Self::Disconnect => f.write_str("disconnect"),
            Self::Label => f.write_str("label"),
        }
    }
}

/// What is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// suspend, resume, quarantine, release, revoke, decommission, disconnect or label
    act: String,
    /// Which devices; never empty
    filter: String,
    reason: Option<String>,
    /// The RFC 5280 word of a revocation
    reason_code: Option<String>,
    /// What to write on the devices, where that is the act
    label: Option<view::LabelEdit>,
    /// What the plan answered
    confirm: Option<String>,
}

/// What is asked for, read; and what it selects.
struct Selection {
    verb: Verb,
    filter: String,
    reason: String,
    word: Option<String>,
    devices: Vec<(DeviceKey, DeviceState)>,
    /// SHA-256 over the devices and their states, in order.
    digest: [u8; 32],
    generation: u64,
}

pub(super) async fn plan(
    caller: Caller,
    State(doors): State<Doors>,
    Document(asked): Document<Asked>,
) -> Result<Json<view::JobPlan>, Problem> {
    let selection = select(&doors, &caller, &asked).await?;
    let actor = caller.may(selection.verb.needs())?;
    Ok(Json(planned(&doors, actor, &selection)))
}

pub(super) async fn create(
    caller: Caller,
    State(doors): State<Doors>,
    Document(asked): Document<Asked>,
) -> Result<(StatusCode, Json<view::Job>), Problem> {
    let selection = select(&doors, &caller, &asked).await?;
    let actor = caller.may(selection.verb.needs())?;
    let Some(given) = asked.confirm.as_deref() else {
        return Err(Problem::new(Code::ConfirmationMissing)
            .what("an act on a filter needs the confirmation of a plan")
            .next("POST /v1/jobs/plan answers it; on the command line: --dry-run, then --confirm"));
    };
    if !selection.is_confirmed(&doors, actor, given) {
        return Err(Problem::new(Code::SelectionChanged).because(format!(
            "it selects {} devices now, or they are in other states",
            selection.devices.len()
        )));
    }
    let new = NewJob {
        act: selection.verb.to_string(),
        filter: selection.filter,
        reason: selection.reason,
        word: selection.word,
        devices: selection.devices.iter().map(|(device, _)| *device).collect(),
    };
    let id = format!("j-{}", super::request_id());
    let job = doors.registry.create_job(actor, &id, new).await?;
    doors.asking.work.notify_one();
    Ok((StatusCode::ACCEPTED, Json(shown(&job))))
}

async fn select(doors: &Doors, caller: &Caller, asked: &Asked) -> Result<Selection, Problem> {
    let verb = Verb::read(&asked.act).ok_or_else(|| {
        Problem::new(Code::UsageWrong)
            .what(format!("{:?} is nothing that is done to devices", asked.act))
            .because(format!("it is one of {}", Verb::WORDS))
    })?;
    caller.may(verb.needs())?;
    let reason = asked.reason.as_deref().unwrap_or_default().trim().to_owned();
    if reason.is_empty() {
        return Err(Problem::new(Code::ReasonMissing).what(format!("{verb} needs a reason")));
    }
    // Refused here as it would be for each of the devices.
    crate::registry::Reason::new(&reason).check_text()?;
    let word = match (verb, &asked.reason_code) {
        (Verb::Decide(Act::Revoke | Act::Decommission), Some(word)) => {
            let words = || RevocationReason::ALL.iter().map(|of| of.as_str()).collect::<Vec<_>>().join(", ");
            word.parse::<RevocationReason>().map_err(|error| {
                Problem::new(Code::UsageWrong)
                    .what(error.to_string())
                    .because(format!("it is one of {}", words()))
            })?;
            Some(word.clone())
        }
        (Verb::Decide(Act::Revoke), None) => {
            return Err(Problem::new(Code::ReasonMissing)
                .what("a revocation needs a reason code")
                .next("repeat it with --reason-code keyCompromise or another word of RFC 5280"));
        }
        (_, Some(_)) => {
            return Err(Problem::new(Code::UsageWrong).what(format!("{verb} takes no reason code")));
        }
        (_, None) => None,
    };
    let word = match (verb, &asked.label) {
        (Verb::Label, label) => Some(written(label.clone().unwrap_or_default())?),
        (_, Some(_)) => return Err(Problem::new(Code::UsageWrong).what(format!("{verb} takes no label"))),
        (_, None) => word,
    };
    if asked.filter.trim().is_empty() {
        return Err(Problem::new(Code::UsageWrong)
            .what("the filter is empty, which would be every device")
            .next("to mean every device, name every state: state:registered,active,suspended"));
    }
    let generation = doors.registry.generation().0;
    let (filter, devices) = super::devices::selected(doors, caller, &asked.filter, DEVICES_MAX).await?;
    let mut hash = sha2::Sha256::default();
    for (device, state) in &devices {
        let name = doors.registry.verdicts().name(*device);
        sha2::Digest::update(&mut hash, format!("{}/{} {state}\n", name.tenant, name.serial));
    }
    let digest = sha2::Digest::finalize(hash).into();
    Ok(Selection { verb, filter, reason, word, devices, digest, generation })
}

/// A change of labels as a job keeps it; one that changes nothing, or has a word that cannot be kept, is refused
/// here as it would be for each of the devices.
fn written(label: view::LabelEdit) -> Result<String, Problem> {
    let checked = edit_of(label).checked()?;
    let label = view::LabelEdit {
        add_tags: checked.add_tags,
        remove_tags: checked.remove_tags,
        add_groups: checked.add_groups,
        remove_groups: checked.remove_groups,
    };
    if label == view::LabelEdit::default() {
        return Err(Problem::new(Code::UsageWrong)
            .what("a label job has nothing to write")
            .next("give at least one of --tag, --untag, --group and --ungroup"));
    }
    Ok(serde_json::to_string(&label).expect("lists of texts have a JSON form"))
}

/// The change a job's word stands for.
fn label_of(word: Option<&str>) -> Option<view::LabelEdit> {
    serde_json::from_str(word?).ok()
}

fn edit_of(label: view::LabelEdit) -> Edit {
    Edit {
        add_tags: label.add_tags,
        remove_tags: label.remove_tags,
        add_groups: label.add_groups,
        remove_groups: label.remove_groups,
        note: None,
    }
}

impl Selection {
    /// What a plan of this selection, made at this generation, is confirmed with.
    fn confirmation(&self, doors: &Doors, actor: &Actor, generation: u64) -> String {
        let mut context = hmac::Context::with_key(&doors.asking.confirming);
        let (count, verb) = (self.devices.len().to_string(), self.verb.to_string());
        let (generation_text, who) = (generation.to_string(), credential(actor));
        let word = self.word.as_deref().unwrap_or_default();
        let texts = [&*who, &*verb, &*self.filter, word, &*count, &*generation_text];
        for text in texts.map(str::as_bytes).into_iter().chain([&self.digest[..]]) {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text);
        }
        format!("{generation}-{count}-{}", hex::encode(&context.sign().as_ref()[..12]))
    }

    fn is_confirmed(&self, doors: &Doors, actor: &Actor, given: &str) -> bool {
        let generation = given.split('-').next().and_then(|generation| generation.parse().ok());
        generation.is_some_and(|generation| self.confirmation(doors, actor, generation) == given)
    }
}

fn planned(doors: &Doors, actor: &Actor, selection: &Selection) -> view::JobPlan {
    let would = |outcome: Outcome| {
        let all = selection.devices.iter();
        all.filter(|(_, state)| selection.verb.outcome(*state) == outcome).count() as u64
    };
    let first = selection.devices.iter().take(FIRST);
    view::JobPlan {
        schema: "muster.job.plan/1".to_owned(),
        act: selection.verb.to_string(),
        filter: selection.filter.clone(),
        count: selection.devices.len() as u64,
        would_do: would(Outcome::Done),
        would_skip: would(Outcome::Skipped),
        would_fail: would(Outcome::Failed),
        online: selection
            .devices
            .iter()
            .filter(|(device, _)| doors.roster.is_online(*device).is_some())
            .count() as u64,
        first: first.map(|(device, _)| doors.registry.verdicts().name(*device).serial.to_string()).collect(),
        generation: selection.generation,
        confirm: selection.confirmation(doors, actor, selection.generation),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    limit: Option<u32>,
}

pub(super) async fn list(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<List>,
) -> Result<Json<view::Page<view::Job>>, Problem> {
    caller.may(Need::Look)?;
    let jobs = doors.registry.jobs(page_limit(query.limit)?).await?;
    let items = jobs.iter().filter(|job| seen_by(&caller, job)).map(shown).collect();
    Ok(Json(view::Page::new("job", items, None, None)))
}

/// Jobs of another tenant's operators do not exist.
fn seen_by(caller: &Caller, job: &JobRow) -> bool {
    caller.tenant().is_none_or(|own| job.actor.tenant() == Some(own))
}

async fn found(doors: &Doors, caller: &Caller, id: &str) -> Result<JobRow, Problem> {
    let job = doors.registry.job(id).await?.filter(|job| seen_by(caller, job));
    job.ok_or_else(|| Problem::new(Code::JobUnknown).what(format!("there is no job {id}")))
}

pub(super) async fn show(
    caller: Caller,
    State(doors): State<Doors>,
    Path(id): Path<String>,
) -> Result<Json<view::Job>, Problem> {
    caller.may(Need::Look)?;
    Ok(Json(shown(&found(&doors, &caller, &id).await?)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rows {
    /// done, skipped, failed or pending
    outcome: Option<String>,
    after: Option<u64>,
    limit: Option<u32>,
}

pub(super) async fn rows(
    caller: Caller,
    State(doors): State<Doors>,
    Path(id): Path<String>,
    Query(query): Query<Rows>,
) -> Result<Json<view::Page<view::JobRow>>, Problem> {
    caller.may(Need::Look)?;
    found(&doors, &caller, &id).await?;
    let outcome = match query.outcome.as_deref() {
        None => None,
        Some("pending") => Some(None),
        Some(word) => Some(Some(word.parse::<Outcome>().map_err(|error| {
            Problem::new(Code::UsageWrong)
                .what(error.to_string())
                .because("it is one of done, skipped, failed, pending")
        })?)),
    };
    let limit = page_limit(query.limit)?;
    let items = doors.registry.job_items(&id, outcome, query.after.unwrap_or(0), limit).await?;
    let next =
        (items.len() == limit as usize).then(|| items.last().map(|item| item.no.to_string())).flatten();
    Ok(Json(view::Page::new("job.row", items.iter().map(item).collect(), next, None)))
}

pub(super) async fn cancel(
    caller: Caller,
    State(doors): State<Doors>,
    Path(id): Path<String>,
) -> Result<Json<view::Job>, Problem> {
    let actor = caller.may(Need::Decide)?;
    found(&doors, &caller, &id).await?;
    doors.registry.cancel_job(actor, &id).await?;
    doors.asking.work.notify_one();
    Ok(Json(shown(&found(&doors, &caller, &id).await?)))
}

fn shown(job: &JobRow) -> view::Job {
    let labels = job.act == Verb::Label.to_string();
    view::Job {
        schema: "muster.job/1".to_owned(),
        job: job.id.clone(),
        act: job.act.clone(),
        filter: job.filter.clone(),
        reason: job.reason.clone(),
        reason_code: job.word.clone().filter(|_| !labels),
        label: label_of(job.word.as_deref()).filter(|_| labels),
        operator: job.actor.name.clone(),
        state: job.state.as_str().to_owned(),
        ended: matches!(job.state, JobState::Done | JobState::Cancelled),
        total: job.total,
        done: job.done,
        skipped: job.skipped,
        failed: job.failed,
        created_at: time::from_ms(job.created_at_ms),
        ended_at: job.ended_at_ms.map(time::from_ms),
    }
}

fn item(item: &JobItem) -> view::JobRow {
    view::JobRow {
        no: item.no,
        tenant: item.tenant.to_string(),
        serial: item.serial.to_string(),
        outcome: item.outcome.map_or("pending", Outcome::as_str).to_owned(),
        code: item.code.clone(),
        what: item.what.clone(),
        audit_no: item.audit_no,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plan_says_is_what_the_table_allows() {
        use DeviceState::{Active, Decommissioned, Quarantined, Registered, Revoked, Suspended};
        for (act, state, outcome) in [
            ("suspend", Active, Outcome::Done),
            ("suspend", Suspended, Outcome::Skipped),
            ("suspend", Revoked, Outcome::Failed),
            ("resume", Suspended, Outcome::Done),
            ("resume", Registered, Outcome::Skipped),
            ("resume", Quarantined, Outcome::Failed),
            ("release", Active, Outcome::Skipped),
            ("revoke", Decommissioned, Outcome::Skipped),
            ("decommission", Active, Outcome::Done),
            ("decommission", Revoked, Outcome::Done),
            ("disconnect", Revoked, Outcome::Done),
            ("label", Revoked, Outcome::Done),
            ("label", Decommissioned, Outcome::Failed),
        ] {
            assert_eq!(Verb::read(act).unwrap().outcome(state), outcome, "{act} {state}");
        }
        assert_eq!(Verb::read("first-connection"), None);
        assert_eq!(Verb::read("delete"), None);
        for word in Verb::WORDS.split(", ") {
            assert_eq!(Verb::read(word).unwrap().to_string(), word);
        }
    }
}

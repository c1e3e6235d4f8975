//! What is done to a device: decisions, disconnect.

use std::time::Duration;

use axum::{Json, extract::State, http::HeaderMap};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{
    Document, Doors, Path,
    auth::{Caller, Need},
    devices::{if_match, refused, seen, version},
    error::Problem,
    routes::{About, Routes},
    time, view,
};
use crate::{
    registry::{
        Act, Actor, Aim, DeviceName, DeviceState, DisconnectReason, Order, Reason, RegistryError, Target,
        now_ms,
    },
    revocation::{Answer, Enforced, NotEnforced},
};

/// How long an answer waits for the sockets to close. The decision stands either way, and nothing is
/// accepted any more; what is late is reported as not yet enforced.
const CLOSE_WAIT: Duration = Duration::from_secs(3);
/// The MQTT 5 reason code of a DISCONNECT that an operator caused (§3.14.2.1).
const ADMINISTRATIVE_ACTION: u8 = 0x98;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    let refuses =
        [Code::DeviceUnknown, Code::TransitionNotAllowed, Code::ReasonMissing, Code::ConfirmationMissing];
    let words = Act::ALL.iter().filter(|act| offered(**act)).map(|act| act.as_str());
    routes.post(
        "/v1/devices/{serial}/{act}",
        act,
        About::new("Decide about a device, or disconnect it")
            .words("act", words.chain(["disconnect"]))
            .takes::<Posted>()
            .answers::<view::Decision>("decision")
            .versioned()
            .refuses(refuses),
    )
}

/// What a decision is posted with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Posted {
    reason: Option<String>,
    reason_code: Option<String>,
    confirm: Option<String>,
}

/// What an operator may ask for by name.
fn offered(act: Act) -> bool {
    act != Act::FirstConnection
}

pub(super) async fn act(
    caller: Caller,
    State(doors): State<Doors>,
    Path((serial, verb)): Path<(String, String)>,
    headers: HeaderMap,
    Document(posted): Document<Posted>,
) -> Result<Json<view::Decision>, Problem> {
    let (target, mut expected) = (seen(&caller, &serial)?, if_match(&headers)?);
    if verb == "disconnect" {
        let actor = caller.may(Need::Decide)?;
        let reason = reason(&posted, &verb)?;
        if let Some(expected) = expected {
            let detail = doors.registry.device(&target).await.map_err(|error| refused(error, &target))?;
            if version(&detail) != expected {
                return Err(changed(&doors, &target).await);
            }
        }
        return Ok(Json(disconnect(&doors, actor, &target, &reason).await?));
    }
    let Some(act) = verb.parse::<Act>().ok().filter(|act| offered(*act)) else {
        return Err(Problem::new(Code::RouteUnknown).what(format!("a device has no {verb}")));
    };
    let actor = caller.may(Need::Decide)?;
    let reason = reason(&posted, &verb)?;
    if act == Act::Revoke {
        confirmed(&posted, &target, &reason)?;
    }
    if act == Act::Decommission {
        confirmed(&posted, &target, &reason)?;
        if revoke_first(&doors, actor, &Aim::seen(&target, expected), &reason).await? {
            // It has changed by what was asked for.
            expected = None;
        }
    }
    match doors.revocation.decide(actor, Aim::seen(&target, expected), act, &reason).await {
        Ok(answer) => Ok(Json(seen_through(&doors, answer).await)),
        Err(RegistryError::Changed { .. }) => Err(changed(&doors, &target).await),
        Err(error) => Err(refused(error, &target)),
    }
}

/// Nothing was done, and what has changed is said.
pub(super) async fn changed(doors: &Doors, target: &Target) -> Problem {
    let problem = Problem::new(Code::DeviceChanged)
        .what(format!("{target} has changed since it was looked at"))
        .serial(target.serial.as_str());
    let Ok(detail) = doors.registry.device(target).await else { return problem };
    let Some(row) = &detail.why else { return problem };
    let reason = if row.reason.is_empty() { String::new() } else { format!(" {:?}", row.reason) };
    problem.because(format!(
        "it is {} now: {} by {} at {}{reason}, no. {}",
        detail.row.state,
        row.action,
        row.actor,
        time::from_ms(row.at_ms),
        row.no
    ))
}

/// Only a revoked device is decommissioned: any other is revoked with the same words.
/// Tells whether it was.
async fn revoke_first(doors: &Doors, actor: &Actor, aim: &Aim, reason: &Reason) -> Result<bool, Problem> {
    let target = &aim.target;
    let detail = doors.registry.device(target).await.map_err(|error| refused(error, target))?;
    if matches!(detail.row.state, DeviceState::Revoked | DeviceState::Decommissioned) {
        return Ok(false);
    }
    let answer = doors.revocation.decide(actor, aim.clone(), Act::Revoke, reason).await;
    match answer {
        Ok(answer) => {
            // What is slow is the reconciler's; the decision after this one ends the same sessions.
            let _ = tokio::time::timeout(CLOSE_WAIT, answer.enforced()).await;
            Ok(true)
        }
        Err(RegistryError::Changed { .. }) => Err(changed(doors, target).await),
        Err(error) => Err(refused(error, target)),
    }
}

fn reason(posted: &Posted, verb: &str) -> Result<Reason, Problem> {
    reason_of(posted.reason.as_deref(), posted.reason_code.as_deref(), verb)
}

/// The reason of a decision: its text, and its word of RFC 5280 where one was given.
pub(super) fn reason_of(text: Option<&str>, code: Option<&str>, verb: &str) -> Result<Reason, Problem> {
    let text = text.unwrap_or_default().trim();
    if text.is_empty() {
        return Err(Problem::new(Code::ReasonMissing).what(format!("{verb} needs a reason")));
    }
    let code = code.map(str::parse).transpose().map_err(|error: crate::registry::device::UnknownWord| {
        let words: Vec<_> = crate::registry::RevocationReason::ALL.iter().map(|of| of.as_str()).collect();
        Problem::new(Code::UsageWrong)
            .what(error.to_string())
            .because(format!("it is one of {}", words.join(", ")))
    })?;
    Ok(Reason { text: text.to_owned(), code })
}

/// What cannot be undone is said twice, and with the word the revocation list will carry.
fn confirmed(posted: &Posted, target: &Target, reason: &Reason) -> Result<(), Problem> {
    if reason.code.is_none() {
        return Err(Problem::new(Code::ReasonMissing)
            .what("a revocation needs a reason code")
            .next("repeat it with --reason-code keyCompromise or another word of RFC 5280"));
    }
    let same = |given: &str| given == target.serial.as_str() || given == target.to_string();
    if !posted.confirm.as_deref().is_some_and(same) {
        return Err(Problem::new(Code::ConfirmationMissing).serial(target.serial.as_str()));
    }
    Ok(())
}

/// A decision that is true already: waits a little for its sessions to close, and says what it saw.
pub(super) async fn seen_through(doors: &Doors, answer: Answer) -> view::Decision {
    let decided = answer.decided;
    view::Decision {
        act: decided.act.as_str().to_owned(),
        from: Some(decided.from.as_str().to_owned()),
        to: decided.to.as_str().to_owned(),
        generation: Some(decided.generation.0),
        audit_no: Some(decided.audit_no),
        ended: ended(decided.act, answer.enforced()).await,
        ..decision(&doors.registry.verdicts().name(decided.device), decided.decided_at_ms)
    }
}

/// What is seen of the sessions an act ends, within a little while.
pub(super) async fn ended(
    act: Act,
    enforced: impl Future<Output = Result<Option<Enforced>, NotEnforced>>,
) -> view::Ended {
    if !act.ends_sessions() {
        return view::Ended { enforced: true, ..view::Ended::default() };
    }
    let Ok(Ok(Some(seen))) = tokio::time::timeout(CLOSE_WAIT, enforced).await else {
        return view::Ended::default();
    };
    let closed = seen.closed_sessions > 0;
    view::Ended {
        enforced: true,
        enforced_at: Some(time::from_ms(seen.enforced_at_ms)),
        sessions_closed: seen.closed_sessions,
        commit_to_closed_ms: closed.then_some(seen.commit_to_closed_ms),
        mqtt_reason: closed.then_some(ADMINISTRATIVE_ACTION),
    }
}

fn decision(name: &DeviceName, at_ms: u64) -> view::Decision {
    view::Decision {
        schema: "muster.decision/1".to_owned(),
        serial: name.serial.to_string(),
        tenant: name.tenant.to_string(),
        device_id: name.device_id.to_string(),
        act: String::new(),
        from: None,
        to: String::new(),
        generation: None,
        audit_no: None,
        decided_at: time::from_ms(at_ms),
        ended: view::Ended::default(),
    }
}

/// Ends the live session without a decision: the device may come back.
async fn disconnect(
    doors: &Doors,
    actor: &Actor,
    target: &Target,
    reason: &Reason,
) -> Result<view::Decision, Problem> {
    let ordered = doors
        .registry
        .order(actor, target, Order::Disconnect, &reason.text, json!({}))
        .await
        .map_err(|error| refused(error, target))?;
    let wait = doors.roster.close(ordered.device, DisconnectReason::Administrative);
    let was_online = !wait.is_none();
    let closed = tokio::time::timeout(CLOSE_WAIT, wait).await;
    let verdicts = doors.registry.verdicts();
    let mut decision = view::Decision {
        act: "disconnect".to_owned(),
        to: verdicts.state(ordered.device).map_or("unknown", DeviceState::as_str).to_owned(),
        generation: Some(ordered.generation.0),
        audit_no: Some(ordered.audit_no),
        ended: view::Ended { enforced: closed.is_ok(), ..view::Ended::default() },
        ..decision(&verdicts.name(ordered.device), ordered.at_ms)
    };
    if let (true, Ok(closed)) = (was_online, closed) {
        let closed_at_ms = closed.map_or_else(now_ms, |closed| closed.at_ms);
        decision.ended = view::Ended {
            enforced: true,
            enforced_at: Some(time::from_ms(closed_at_ms)),
            sessions_closed: 1,
            commit_to_closed_ms: Some(closed_at_ms.saturating_sub(ordered.at_ms)),
            mqtt_reason: Some(ADMINISTRATIVE_ACTION),
        };
    }
    Ok(decision)
}

//! Devices: list, show, decide, disconnect, command.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use base64::Engine as _;
use bytes::Bytes;
use muster_shared::{
    Code,
    topic::{Kind, Topic},
};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    Document, Doors, Query, audit,
    auth::{Caller, Need},
    error::Problem,
    page_limit, time, view,
};
use crate::{
    edge::{DeliverError, Delivered, Downlink, Protocol},
    registry::{
        Act, Actor, DeviceFilter, DeviceName, DeviceState, DisconnectReason, Order, Reason, RegistryError,
        Target, now_ms,
        query::{CertificateRow, DeviceDetail, DeviceRow, ReadingRow, RefusalRow, SessionRow},
    },
    revocation::Answer,
};

/// How long an answer waits for the sockets to close. The decision stands either way, and nothing is
/// accepted any more; what is late is reported as not yet enforced.
const CLOSE_WAIT: Duration = Duration::from_secs(3);
/// How long a command waits for the device's acknowledgement.
const COMMAND_WAIT: Duration = Duration::from_secs(10);
/// The MQTT 5 reason code of a DISCONNECT that an operator caused (§3.14.2.1).
const ADMINISTRATIVE_ACTION: u8 = 0x98;
/// The protocol level of MQTT 3.1.1 (§3.1.2.2).
const MQTT_3_1_1: u8 = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    filter: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn list(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<List>,
) -> Result<Json<view::Page<view::Device>>, Problem> {
    caller.may(Need::Look)?;
    let filter = filter(query.filter.as_deref().unwrap_or_default())?;
    let page = doors.registry.devices(&filter, query.after.as_deref(), page_limit(query.limit)?).await?;
    let items = page.items.iter().map(|row| device(row, &doors)).collect();
    Ok(Json(view::Page::new("device", items, page.next, Some(page.total))))
}

/// Reads `state:suspended batch:B-0042 tenant:acme`.
fn filter(text: &str) -> Result<DeviceFilter, Problem> {
    let mut filter = DeviceFilter::default();
    let wrong = |word: &str, why: String| {
        Problem::new(Code::UsageWrong)
            .what(format!("the filter has {word:?}"))
            .because(why)
            .next("a filter has words such as state:suspended batch:B-0042 tenant:acme")
    };
    for word in text.split_whitespace() {
        let Some((key, value)) = word.split_once(':') else {
            return Err(wrong(word, "each word is KEY:VALUE".to_owned()));
        };
        let twice = match key {
            "state" => {
                filter.state.replace(value.parse().map_err(|e| wrong(word, format!("{e}")))?).is_some()
            }
            "batch" => {
                filter.batch.replace(value.parse().map_err(|e| wrong(word, format!("{e}")))?).is_some()
            }
            "tenant" => {
                filter.tenant.replace(value.parse().map_err(|e| wrong(word, format!("{e}")))?).is_some()
            }
            _ => return Err(wrong(word, format!("{key} is none of state, batch, tenant"))),
        };
        if twice {
            return Err(wrong(word, format!("{key} stands there twice")));
        }
    }
    Ok(filter)
}

pub(super) async fn show(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
) -> Result<Json<view::DeviceDetail>, Problem> {
    caller.may(Need::Look)?;
    let target = target(&serial)?;
    let detail = doors.registry.device(&target).await.map_err(|error| refused(error, &target))?;
    Ok(Json(self::detail(&detail, &doors)))
}

/// What a decision is posted with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Posted {
    reason: Option<String>,
    reason_code: Option<String>,
    confirm: Option<String>,
    payload: Option<String>,
    payload_base64: Option<String>,
}

pub(super) async fn act(
    caller: Caller,
    State(doors): State<Doors>,
    Path((serial, verb)): Path<(String, String)>,
    Document(posted): Document<Posted>,
) -> Result<axum::response::Response, Problem> {
    use axum::response::IntoResponse as _;
    let target = target(&serial)?;
    if verb == "command" {
        let actor = caller.may(Need::Decide)?;
        return Ok(Json(command(&doors, actor, &target, &posted).await?).into_response());
    }
    if posted.payload.is_some() || posted.payload_base64.is_some() {
        return Err(Problem::new(Code::UsageWrong).what(format!("{verb} takes no payload")));
    }
    if verb == "disconnect" {
        let actor = caller.may(Need::Decide)?;
        let reason = reason(&posted, &verb)?;
        return Ok(Json(disconnect(&doors, actor, &target, &reason).await?).into_response());
    }
    let act = verb.parse::<Act>().ok().filter(|act| *act != Act::FirstConnection);
    let Some(act) = act.filter(|act| *act != Act::Decommission) else {
        return Err(Problem::new(Code::RouteUnknown).what(format!("a device has no {verb}")));
    };
    let actor = caller.may(Need::Decide)?;
    let reason = reason(&posted, &verb)?;
    if act == Act::Revoke {
        confirmed(&posted, &target, &reason)?;
    }
    let answer = doors.revocation.decide(actor, &target, act, &reason).await;
    let answer = answer.map_err(|error| refused(error, &target))?;
    Ok(Json(seen_through(&doors, answer).await).into_response())
}

fn reason(posted: &Posted, verb: &str) -> Result<Reason, Problem> {
    let text = posted.reason.as_deref().unwrap_or_default().trim();
    if text.is_empty() {
        return Err(Problem::new(Code::ReasonMissing).what(format!("{verb} needs a reason")));
    }
    let code = posted.reason_code.as_deref().map(str::parse).transpose().map_err(
        |error: crate::registry::device::UnknownWord| {
            let words: Vec<_> = crate::registry::RevocationReason::ALL.iter().map(|of| of.as_str()).collect();
            Problem::new(Code::UsageWrong)
                .what(error.to_string())
                .because(format!("it is one of {}", words.join(", ")))
        },
    )?;
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
async fn seen_through(doors: &Doors, answer: Answer) -> view::Decision {
    let decided = answer.decided;
    let ends_sessions = decided.act.ends_sessions();
    let mut decision = view::Decision {
        act: decided.act.as_str().to_owned(),
        from: Some(decided.from.as_str().to_owned()),
        to: decided.to.as_str().to_owned(),
        generation: Some(decided.generation.0),
        audit_no: Some(decided.audit_no),
        enforced: !ends_sessions,
        ..decision(&doors.registry.verdicts().name(decided.device), decided.decided_at_ms)
    };
    if !ends_sessions {
        return decision;
    }
    if let Ok(Ok(Some(enforced))) = tokio::time::timeout(CLOSE_WAIT, answer.enforced()).await {
        let closed = enforced.closed_sessions > 0;
        decision.enforced = true;
        decision.enforced_at = Some(time::from_ms(enforced.enforced_at_ms));
        decision.sessions_closed = enforced.closed_sessions;
        decision.commit_to_closed_ms = closed.then_some(enforced.commit_to_closed_ms);
        decision.mqtt_reason = closed.then_some(ADMINISTRATIVE_ACTION);
    }
    decision
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
        enforced: false,
        enforced_at: None,
        sessions_closed: 0,
        commit_to_closed_ms: None,
        mqtt_reason: None,
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
        enforced: closed.is_ok(),
        ..decision(&verdicts.name(ordered.device), ordered.at_ms)
    };
    if let (true, Ok(closed)) = (was_online, closed) {
        let closed_at_ms = closed.map_or_else(now_ms, |closed| closed.at_ms);
        decision.sessions_closed = 1;
        decision.enforced_at = Some(time::from_ms(closed_at_ms));
        decision.commit_to_closed_ms = Some(closed_at_ms.saturating_sub(ordered.at_ms));
        decision.mqtt_reason = Some(ADMINISTRATIVE_ACTION);
    }
    Ok(decision)
}

/// Publishes on `command/{id}/request` to the live session, and says whether the device has it.
async fn command(
    doors: &Doors,
    actor: &Actor,
    target: &Target,
    posted: &Posted,
) -> Result<view::CommandResult, Problem> {
    let payload = match (&posted.payload, &posted.payload_base64) {
        (Some(text), None) => Bytes::from(text.clone().into_bytes()),
        (None, Some(coded)) => {
            let octets = base64::engine::general_purpose::STANDARD.decode(coded);
            octets.map(Bytes::from).map_err(|error| {
                Problem::new(Code::UsageWrong).what("payload_base64 is not base64").because(error.to_string())
            })?
        }
        _ => {
            return Err(Problem::new(Code::UsageWrong)
                .what("a command has exactly one of payload and payload_base64"));
        }
    };
    let detail = doors.registry.device(target).await.map_err(|error| refused(error, target))?;
    if let Some(code) = detail.row.state.refusal() {
        let what = format!("device {} is {}", target.serial, detail.row.state);
        return Err(Problem::new(code).what(what).serial(target.serial.as_str()));
    }
    let command_id = super::request_id();
    let topic = topic(&doors.registry.verdicts().name(detail.row.key), &command_id)?;
    // The record names the payload by its digest: what was sent can be proved, and is not kept.
    let digest = hex::encode(Sha256::digest(&payload));
    let record = json!({ "command_id": command_id, "payload_sha256": digest });
    let reason = posted.reason.as_deref().unwrap_or_default();
    let recorded = doors.registry.order(actor, target, Order::Command, reason, record).await;
    recorded.map_err(|error| refused(error, target))?;
    let message = Downlink { topic: topic.as_str().into(), payload, qos: 1 };
    let sent = doors.roster.deliver(detail.row.key, message);
    let (outcome, why) = match tokio::time::timeout(COMMAND_WAIT, sent).await {
        Ok(Ok(Delivered::Acknowledged)) => ("acknowledged", None),
        Ok(Ok(Delivered::Sent)) => ("sent", None),
        Ok(Err(error @ DeliverError::Ended)) => ("unknown", Some(error.to_string())),
        Ok(Err(error)) => ("refused", Some(error.to_string())),
        Err(_) => ("unknown", Some("the device has not acknowledged it in time".to_owned())),
    };
    Ok(view::CommandResult {
        schema: "muster.command/1".to_owned(),
        command_id,
        topic,
        outcome: outcome.to_owned(),
        delivered: matches!(outcome, "acknowledged" | "sent"),
        why,
    })
}

fn topic(name: &DeviceName, command_id: &str) -> Result<String, Problem> {
    let topic = Topic::of(&name.tenant, &name.device_id, Kind::CommandRequest { id: command_id });
    topic
        .text()
        .map(|text| text.to_string())
        .map_err(|error| Problem::new(Code::Fault).because(error.to_string()))
}

/// Reads `SERIAL` or `TENANT/SERIAL`.
fn target(text: &str) -> Result<Target, Problem> {
    text.parse().map_err(|error: muster_shared::id::IdError| {
        Problem::new(Code::UsageWrong)
            .what(format!("{text:?} is no serial"))
            .because(error.to_string())
            .next("muster device list")
    })
}

/// A refusal about one device: its serial goes into what to do next.
fn refused(error: RegistryError, target: &Target) -> Problem {
    let what = match &error {
        RegistryError::DeviceUnknown(_) => Some(format!("no device {target}")),
        RegistryError::Transition { error, .. } => {
            Some(format!("a {} device cannot be {}", error.from, error.act.participle()))
        }
        _ => None,
    };
    let place = match &error {
        RegistryError::Transition { error, .. } => {
            Some(format!("{target}: {} → {} is not allowed", error.from, error.to))
        }
        _ => None,
    };
    let mut problem = Problem::from(error).serial(target.serial.as_str());
    if let Some(what) = what {
        problem.what = what;
    }
    problem.place = place;
    problem
}

fn device(row: &DeviceRow, doors: &Doors) -> view::Device {
    view::Device {
        serial: row.serial.to_string(),
        tenant: row.tenant.to_string(),
        device_id: row.device_id.to_string(),
        state: row.state.as_str().to_owned(),
        changed_at: time::from_ms(row.changed_at_ms),
        presence: presence(row, doors),
        batch: row.batch.to_string(),
        station: row.station.to_string(),
        product: row.product.clone(),
        firmware: None,
        certificate_id: row.certificate.to_string(),
        certificate_ends_at: time::from_s(row.not_after_s),
        registered_at: time::from_ms(row.registered_at_ms),
        first_connected_at: row.first_connected_ms.map(time::from_ms),
        refused_24h: row.refused_24h,
        last_refusal: row.last_refusal.as_ref().map(refusal),
    }
}

/// Presence is seen, never stored: the roster says who is here, the registry who was.
fn presence(row: &DeviceRow, doors: &Doors) -> view::Presence {
    let last_seen_at = row.last_seen_ms.map(time::from_ms);
    if let Some(session) = doors.roster.is_online(row.key) {
        return view::Presence {
            word: "online".to_owned(),
            since: Some(time::from_ms(session.since_ms)),
            address: Some(session.arrival.peer.to_string()),
            mqtt: Some(session.arrival.protocol.as_str().to_owned()),
            last_reason: None,
            last_seen_at,
        };
    }
    let last = row.session.as_ref();
    let ended = last.and_then(|session| session.ended);
    view::Presence {
        word: if last.is_some() { "offline" } else { "never_seen" }.to_owned(),
        since: ended.map(|(at_ms, _)| time::from_ms(at_ms)).or_else(|| last.and(last_seen_at.clone())),
        address: last.map(|session| session.remote.clone()),
        mqtt: last.map(|session| protocol(session.protocol)),
        last_reason: ended.map(|(_, why)| why.as_str().to_owned()),
        last_seen_at,
    }
}

fn protocol(level: u8) -> String {
    let protocol = if level == MQTT_3_1_1 { Protocol::V3 } else { Protocol::V5 };
    protocol.as_str().to_owned()
}

fn refusal(row: &RefusalRow) -> view::Refusal {
    view::Refusal {
        code: row.code.id().to_owned(),
        words: row.code.words().to_owned(),
        count: row.count,
        last_at: time::from_ms(row.last_at_ms),
        address: row.remote.clone(),
    }
}

fn detail(detail: &DeviceDetail, doors: &Doors) -> view::DeviceDetail {
    view::DeviceDetail {
        schema: "muster.device/1".to_owned(),
        device: device(&detail.row, doors),
        why: detail.why.as_ref().map(audit::row),
        certificates: detail.certificates.iter().map(certificate).collect(),
        sessions: detail.sessions.iter().map(session).collect(),
        refusals: detail.refusals.iter().map(refusal).collect(),
        history: detail.history.iter().map(audit::row).collect(),
        readings: detail.readings.iter().map(reading).collect(),
        enforcement: detail.enforcement.map(|of| view::Enforcement {
            decided_at: time::from_ms(of.decided_at_ms),
            enforced_at: of.enforced_at_ms.map(time::from_ms),
            sessions_closed: of.sessions_ended,
            commit_to_closed_ms: of.enforced_at_ms.map(|at| at.saturating_sub(of.decided_at_ms)),
        }),
        can_do: detail
            .row
            .state
            .acts()
            .iter()
            .filter(|act| **act != Act::Decommission)
            .map(|act| act.as_str().to_owned())
            .collect(),
    }
}

fn certificate(row: &CertificateRow) -> view::Certificate {
    view::Certificate {
        certificate_id: row.id.to_string(),
        status: row.status.as_str().to_owned(),
        not_before: time::from_s(row.not_before_s),
        not_after: time::from_s(row.not_after_s),
        revocation_reason: row.revoked.map(|(why, _)| why.as_str().to_owned()),
        revoked_at: row.revoked.map(|(_, at_ms)| time::from_ms(at_ms)),
        pem: pem(&row.der),
    }
}

/// A certificate in PEM (RFC 7468).
fn pem(der: &[u8]) -> String {
    let coded = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in coded.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

fn session(row: &SessionRow) -> view::PastSession {
    view::PastSession {
        began_at: time::from_ms(row.began_at_ms),
        ended_at: row.ended.map(|(at_ms, _)| time::from_ms(at_ms)),
        reason: row.ended.map(|(_, why)| why.as_str().to_owned()),
        address: row.remote.clone(),
        mqtt: protocol(row.protocol),
    }
}

fn reading(row: &ReadingRow) -> view::Reading {
    use muster_shared::telemetry::Value;
    let value = match row.value {
        Value::Bool(value) => value.into(),
        Value::Int(value) => value.into(),
        Value::Float(value) => {
            serde_json::Number::from_f64(value.into()).map_or(serde_json::Value::Null, Into::into)
        }
    };
    view::Reading {
        sensor: row.sensor.clone(),
        value,
        received_at: time::from_ms(row.received_ms),
        uptime_ms: row.uptime_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_what_is_wrong_with_it() {
        let read = filter("state:suspended  batch:B-1 tenant:acme").unwrap();
        assert_eq!(read.state.unwrap().as_str(), "suspended");
        assert_eq!(read.batch.unwrap().as_str(), "B-1");
        assert_eq!(filter("").unwrap(), DeviceFilter::default());
        for wrong in
            ["suspended", "state:gone", "batch:", "colour:red", "state:active state:active", "batch:a/b"]
        {
            let problem = filter(wrong).unwrap_err();
            assert_eq!(problem.code, Code::UsageWrong);
            assert!(problem.why.is_some(), "{wrong}");
        }
    }
}

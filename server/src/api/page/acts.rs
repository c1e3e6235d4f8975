//! What is done to devices from a page: the form that asks, the act, and what is said afterwards.
//!
//! What can be undone asks for a reason and offers to undo itself. What cannot has a page of its own: effects
//! first, a reason code, a reason and the end of the serial typed.
//!
//! Every form carries the version that was seen, and the API holds the act to it (`If-Match`): if the device
//! changed meanwhile nothing is done, and the change is shown.

use askama::Template;
use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use muster_shared::Code;
use serde_json::json;

use super::{
    Section, Shell,
    data::{Api, encoded},
    events::{self, Event, device_href},
    form::Fields,
    may, page_with,
    parts::{Chip, Seen},
};
use crate::{
    api::{Path, auth::Need, error::Problem, time, view},
    registry::{RevocationReason, now_ms},
};

/// Least characters of the reason for what cannot be undone.
pub(super) const REASON_MIN: usize = 10;
/// Characters of the serial that are typed.
const TYPED: usize = 4;
/// How long after a decision the page that it led to still speaks of it.
const DONE_MS: i64 = 120_000;

/// An act as a button says it.
pub(super) fn name(act: &str) -> String {
    let mut chars = act.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// What undoes it, where something does.
fn undone_by(act: &str) -> Option<&'static str> {
    match act {
        "suspend" => Some("resume"),
        "resume" => Some("suspend"),
        "quarantine" => Some("release"),
        "release" => Some("quarantine"),
        _ => None,
    }
}

pub(super) fn is_act(act: &str) -> bool {
    undone_by(act).is_some() || is_final(act) || act == "disconnect"
}

/// What cannot be undone.
pub(super) fn is_final(act: &str) -> bool {
    matches!(act, "revoke" | "replace" | "decommission")
}

/// What an act does, in the order it happens.
pub(super) fn effects(act: &str, certificate: &str) -> Vec<String> {
    let of: &[&str] = match act {
        "suspend" => &["its session closes within 1 s", "it is refused until somebody resumes it"],
        "resume" => &["it may connect again"],
        "quarantine" => {
            &["its session closes within 1 s", "it is refused until somebody looks and releases it"]
        }
        "release" => &["it may connect again"],
        "disconnect" => &["its session closes within 1 s", "it may come back; to keep it out, suspend it"],
        "revoke" => &["its session closes within 1 s", "it never connects again with this key"],
        "replace" => &[
            "its session closes within 1 s, and it never connects again with this key: superseded",
            "the other device takes its tags and groups",
            "and its note and its desired state, unless it has its own",
            "each says from then on who took whose place",
        ],
        _ => &[
            "its session closes within 1 s, and it never connects again",
            "its readings and sessions are removed; its audit trail is kept",
            "messages it sent stay in the log, for services that have not read them, until their time to be kept ends",
        ],
    };
    let mut all: Vec<_> = of.iter().map(|line| (*line).to_owned()).collect();
    if is_final(act) {
        all.push(format!("certificate {certificate} goes on the list of revoked ones"));
        all.push("this cannot be undone".to_owned());
    }
    all
}

/// What was done, told on the page it led to.
pub(super) struct Done {
    pub(super) what: String,
    pub(super) how: String,
    pub(super) undo: Option<Undo>,
}

/// The form that takes it back.
pub(super) struct Undo {
    pub(super) act: &'static str,
    pub(super) reason: String,
}

/// What decision `no` was, if it is this device's newest and was made just now.
pub(super) fn done(detail: &view::DeviceDetail, no: u64, may_decide: bool) -> Option<Done> {
    let row = detail.history.iter().find(|row| row.no == no)?;
    let now = i64::try_from(now_ms()).unwrap_or(i64::MAX);
    if time::to_ms(&row.at).is_none_or(|at| now.saturating_sub(at) > DONE_MS) {
        return None;
    }
    let act = row.action.strip_prefix("device.")?;
    let newest = detail.history.iter().map(|row| row.no).max() == Some(no);
    let enforced = detail.enforcement.as_ref().filter(|of| of.decided_at == row.at);
    let how = match enforced.and_then(|of| Some((of.sessions_closed, of.commit_to_closed_ms?))) {
        Some((0, _)) => "It was not connected.".to_owned(),
        Some((_, ms)) => format!("Session closed in {ms} ms."),
        None => String::new(),
    };
    let undo = undone_by(act)
        .filter(|_| newest && may_decide)
        .map(|act| Undo { act, reason: format!("undo of no. {no}") });
    Some(Done { what: format!("{}.", capital(&events::decision(row).text)), how, undo })
}

fn capital(text: &str) -> String {
    name(text)
}

#[derive(Template)]
#[template(path = "act.html")]
struct Ask {
    shell: Shell,
    act: String,
    name: String,
    serial: String,
    href: String,
    chip: Chip,
    seen_now: Seen,
    effects: Vec<String>,
    reason: String,
    /// The version that is shown.
    seen: u64,
    /// What happened to it since the page was read.
    changed: Option<Event>,
    problem: Option<Problem>,
}

#[derive(Template)]
#[template(path = "final.html")]
struct AskFinal {
    shell: Shell,
    act: String,
    name: String,
    serial: String,
    href: String,
    chip: Chip,
    seen_now: Seen,
    effects: Vec<String>,
    /// Offered instead, where the state allows it.
    instead: bool,
    codes: Vec<(&'static str, bool)>,
    needs_code: bool,
    reason: String,
    typed: String,
    /// The device that is to take its place, where one does.
    successor: Option<String>,
    /// What it would take.
    preview: Option<String>,
    /// The version that is shown.
    seen: u64,
    faults: Vec<(&'static str, String)>,
    /// What happened to it since the page was read.
    changed: Option<Event>,
    problem: Option<Problem>,
}

impl AskFinal {
    fn fault(&self, field: &str) -> Option<&str> {
        self.faults.iter().find(|(of, _)| *of == field).map(|(_, fault)| fault.as_str())
    }
}

pub(super) async fn device(api: &Api, serial: &str) -> Result<view::DeviceDetail, Problem> {
    api.get(&format!("/v1/devices/{}", encoded(serial))).await
}

/// The form.
pub(super) async fn ask(api: Api, Path((serial, act)): Path<(String, String)>) -> Result<Response, Problem> {
    if !is_act(&act) {
        return Err(Problem::new(Code::RouteUnknown));
    }
    let status = api.status().await?;
    allowed(&status)?;
    let detail = device(&api, &serial).await?;
    Ok(form(&status, &detail, &act, &Fields::default(), Refusal::default()))
}

pub(super) fn allowed(status: &view::Status) -> Result<(), Problem> {
    if may(status, Need::Decide) {
        return Ok(());
    }
    Err(Problem::new(Code::RoleMissing)
        .what(format!("{} may not do that as {}", status.operator, status.role)))
}

/// What stands in the way of an act.
#[derive(Default)]
struct Refusal {
    problem: Option<Problem>,
    faults: Vec<(&'static str, String)>,
    changed: Option<Event>,
    /// Nothing stands in the way: what a dry run said.
    preview: Option<String>,
}

fn form(
    status: &view::Status,
    detail: &view::DeviceDetail,
    act: &str,
    fields: &Fields,
    refusal: Refusal,
) -> Response {
    let device = &detail.device;
    let certificate = device.certificate_id.get(..8).unwrap_or_default();
    let shell = Shell::new(format!("{} {}", name(act), device.serial), Section::Devices, status);
    let refused = refusal.problem.is_some() || !refusal.faults.is_empty() || refusal.changed.is_some();
    let code = match &refusal.problem {
        Some(problem) => problem.status(),
        None if refusal.changed.is_some() => Code::DeviceChanged.entry().http,
        None => 400,
    };
    let code =
        if refused { StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST) } else { StatusCode::OK };
    if is_final(act) {
        let chosen = fields.one("reason_code").unwrap_or_default();
        return page_with(
            code,
            &AskFinal {
                shell,
                act: act.to_owned(),
                name: name(act),
                serial: device.serial.clone(),
                href: device_href(&device.serial),
                chip: Chip(device.state.clone()),
                seen_now: Seen::of(&device.presence),
                effects: effects(act, certificate),
                instead: detail.can_do.iter().any(|can| can == "suspend"),
                codes: RevocationReason::ALL.iter().map(|of| (of.as_str(), of.as_str() == chosen)).collect(),
                needs_code: needs_code(detail, act),
                successor: (act == "replace").then(|| fields.one("successor").unwrap_or_default().to_owned()),
                preview: refusal.preview,
                reason: fields.one("reason").unwrap_or_default().to_owned(),
                typed: fields.one("typed").unwrap_or_default().to_owned(),
                seen: detail.version,
                faults: refusal.faults,
                changed: refusal.changed,
                problem: refusal.problem,
            },
        );
    }
    page_with(
        code,
        &Ask {
            shell,
            act: act.to_owned(),
            name: name(act),
            serial: device.serial.clone(),
            href: device_href(&device.serial),
            chip: Chip(device.state.clone()),
            seen_now: Seen::of(&device.presence),
            effects: effects(act, certificate),
            reason: fields.one("reason").unwrap_or_default().to_owned(),
            seen: detail.version,
            changed: refusal.changed,
            problem: refusal.problem,
        },
    )
}

/// What is replaced is superseded; what is revoked already has its word.
fn needs_code(detail: &view::DeviceDetail, act: &str) -> bool {
    act == "revoke" || (act == "decommission" && detail.device.own_state != "revoked")
}

/// The act.
pub(super) async fn decide(
    api: Api,
    Path((serial, act)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response, Problem> {
    if !is_act(&act) {
        return Err(Problem::new(Code::RouteUnknown));
    }
    let status = api.status().await?;
    allowed(&status)?;
    let mut detail = device(&api, &serial).await?;
    if act == "replace" && fields.one("preview").is_some() {
        let refusal = previewed(&api, &serial, &fields).await;
        return Ok(form(&status, &detail, &act, &fields, refusal));
    }
    if is_final(&act) {
        let faults = unfit(&detail, &act, &fields);
        if !faults.is_empty() {
            return Ok(form(&status, &detail, &act, &fields, Refusal { faults, ..Refusal::default() }));
        }
    }
    // What cannot be undone is never done unseen: no device is of version 0.
    let seen = fields.one("seen").map(|seen| seen.parse().unwrap_or_default());
    let seen = seen.or(is_final(&act).then_some(0));
    match posted(&api, &serial, &act, seen, &fields).await {
        Ok(decision) => {
            let done = decision.audit_no.map(|no| format!("?done={no}")).unwrap_or_default();
            Ok(Redirect::to(&format!("{}{done}", device_href(&serial))).into_response())
        }
        Err(problem) => {
            let mut refusal = Refusal::default();
            if problem.code == Code::DeviceChanged {
                // As it is now, not as it was before the act was tried.
                detail = device(&api, &serial).await?;
                refusal.changed = detail.why.as_ref().map(events::decision);
            }
            if refusal.changed.is_none() {
                refusal.problem = Some(problem);
            }
            Ok(form(&status, &detail, &act, &fields, refusal))
        }
    }
}

/// Does it, if the device is still of the version that was seen, where one was.
pub(super) async fn posted(
    api: &Api,
    serial: &str,
    act: &str,
    seen: Option<u64>,
    fields: &Fields,
) -> Result<view::Decision, Problem> {
    let mut document = json!({ "reason": fields.one("reason").unwrap_or_default() });
    if is_final(act) {
        document["confirm"] = json!(serial);
        if let Some(code) = fields.one("reason_code").filter(|code| !code.is_empty() && act != "replace") {
            document["reason_code"] = json!(code);
        }
    }
    let path = format!("/v1/devices/{}/{act}", encoded(serial));
    if act == "replace" {
        document["successor"] = json!(fields.one("successor").unwrap_or_default());
        let done: view::Replacement = api.post_seen(&path, seen, &document).await?;
        return Ok(done.decision);
    }
    api.post_seen(&path, seen, &document).await
}

/// What a dry run says of a replacement.
async fn previewed(api: &Api, serial: &str, fields: &Fields) -> Refusal {
    let document = json!({ "successor": fields.one("successor").unwrap_or_default(), "dry_run": true });
    let path = format!("/v1/devices/{}/replace", encoded(serial));
    match api.post::<view::Replacement>(&path, &document).await {
        Ok(of) => Refusal { preview: Some(of.takes("would take")), ..Refusal::default() },
        Err(problem) => Refusal { problem: Some(problem), ..Refusal::default() },
    }
}

/// What keeps the form from being sent on.
fn unfit(detail: &view::DeviceDetail, act: &str, fields: &Fields) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    if act == "replace" && fields.one("successor").is_none_or(|serial| serial.trim().is_empty()) {
        faults.push(("successor", "say which device takes its place".to_owned()));
    }
    let reason = fields.one("reason").unwrap_or_default().trim();
    if reason.chars().count() < REASON_MIN {
        faults.push(("reason", format!("the reason has fewer than {REASON_MIN} characters")));
    }
    if needs_code(detail, act) && fields.one("reason_code").is_none_or(str::is_empty) {
        faults.push(("reason_code", "choose why, in the words of RFC 5280".to_owned()));
    }
    if fields.one("typed").map(str::trim) != Some(last(&detail.device.serial)) {
        faults.push(("typed", format!("that is not how {} ends", detail.device.serial)));
    }
    faults
}

/// The end of a serial that is typed.
fn last(serial: &str) -> &str {
    serial.get(serial.len().saturating_sub(TYPED)..).unwrap_or(serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_undone_is_undone_by_what_it_undoes() {
        for act in ["suspend", "resume", "quarantine", "release"] {
            assert_eq!(undone_by(act).and_then(undone_by), Some(act));
            assert!(is_act(act) && !is_final(act));
        }
        for act in ["revoke", "decommission"] {
            assert!(is_final(act) && undone_by(act).is_none());
            assert!(effects(act, "7f3a09c1").iter().any(|line| line.contains("cannot be undone")));
        }
        assert!(!is_act("delete") && !is_act("first-connection"));
    }

    #[test]
    fn the_end_of_a_serial_is_what_is_typed() {
        assert_eq!([last("MU-000118"), last("abc"), last("")], ["0118", "abc", ""]);
    }
}

//! What is done to devices from a page: the form that asks, the act, and what is said afterwards.
//!
//! What can be undone asks for a reason and offers to undo itself. What cannot has a page of its own: effects
//! first, a reason code, a reason, the end of the serial typed, and the state that was seen: if the device
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
    parts::{Chip, Seen, counted},
};
use crate::{
    api::{Path, auth::Need, error::Problem, time, view},
    registry::{RevocationReason, now_ms},
};

/// Least characters of the reason for what cannot be undone.
const REASON_MIN: usize = 10;
/// Characters of the serial that are typed.
const TYPED: usize = 4;
/// Devices that are named on the page that asks about several.
const NAMED: usize = 5;
/// Devices of one form.
const MANY_MAX: usize = 1000;
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

fn is_act(act: &str) -> bool {
    undone_by(act).is_some() || is_final(act) || act == "disconnect"
}

/// What cannot be undone.
pub(super) fn is_final(act: &str) -> bool {
    matches!(act, "revoke" | "decommission")
}

/// What an act does, in the order it happens.
fn effects(act: &str, certificate: &str) -> Vec<String> {
    let of: &[&str] = match act {
        "suspend" => &["its session closes within 1 s", "it is refused until somebody resumes it"],
        "resume" => &["it may connect again"],
        "quarantine" => {
            &["its session closes within 1 s", "it is refused until somebody looks and releases it"]
        }
        "release" => &["it may connect again"],
        "disconnect" => &["its session closes within 1 s", "it may come back; to keep it out, suspend it"],
        "revoke" => &["its session closes within 1 s", "it never connects again with this key"],
        _ => &[
            "its session closes within 1 s, and it never connects again",
            "its readings and sessions are removed; its audit trail is kept",
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
    /// The number of the decision that put it in the state that is shown.
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

async fn device(api: &Api, serial: &str) -> Result<view::DeviceDetail, Problem> {
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

fn allowed(status: &view::Status) -> Result<(), Problem> {
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
    let code = refusal.problem.as_ref().map_or(400, |problem| problem.status());
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
                needs_code: act == "revoke" || device.own_state != "revoked",
                reason: fields.one("reason").unwrap_or_default().to_owned(),
                typed: fields.one("typed").unwrap_or_default().to_owned(),
                seen: version(detail),
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
            problem: refusal.problem,
        },
    )
}

/// Which decision put the device in its state.
fn version(detail: &view::DeviceDetail) -> u64 {
    detail.why.as_ref().map_or(0, |row| row.no)
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
    let detail = device(&api, &serial).await?;
    if is_final(&act) {
        let refusal = unfit(&detail, &act, &fields);
        if refusal.changed.is_some() || !refusal.faults.is_empty() {
            return Ok(form(&status, &detail, &act, &fields, refusal));
        }
    }
    match posted(&api, &serial, &act, &fields).await {
        Ok(decision) => {
            let done = decision.audit_no.map(|no| format!("?done={no}")).unwrap_or_default();
            Ok(Redirect::to(&format!("{}{done}", device_href(&serial))).into_response())
        }
        Err(problem) => {
            let refusal = Refusal { problem: Some(problem), ..Refusal::default() };
            Ok(form(&status, &detail, &act, &fields, refusal))
        }
    }
}

async fn posted(api: &Api, serial: &str, act: &str, fields: &Fields) -> Result<view::Decision, Problem> {
    let mut document = json!({ "reason": fields.one("reason").unwrap_or_default() });
    if is_final(act) {
        document["confirm"] = json!(serial);
        if let Some(code) = fields.one("reason_code").filter(|code| !code.is_empty()) {
            document["reason_code"] = json!(code);
        }
    }
    api.post(&format!("/v1/devices/{}/{act}", encoded(serial)), &document).await
}

/// What keeps the form from being sent on.
fn unfit(detail: &view::DeviceDetail, act: &str, fields: &Fields) -> Refusal {
    let mut refusal = Refusal::default();
    if fields.one("seen").and_then(|seen| seen.parse().ok()) != Some(version(detail)) {
        refusal.changed = detail.why.as_ref().map(events::decision);
        return refusal;
    }
    let reason = fields.one("reason").unwrap_or_default().trim();
    if reason.chars().count() < REASON_MIN {
        refusal.faults.push(("reason", format!("the reason has fewer than {REASON_MIN} characters")));
    }
    let needs_code = act == "revoke" || detail.device.own_state != "revoked";
    if needs_code && fields.one("reason_code").is_none_or(str::is_empty) {
        refusal.faults.push(("reason_code", "choose why, in the words of RFC 5280".to_owned()));
    }
    if fields.one("typed").map(str::trim) != Some(last(&detail.device.serial)) {
        refusal.faults.push(("typed", format!("that is not how {} ends", detail.device.serial)));
    }
    refusal
}

/// The end of a serial that is typed.
fn last(serial: &str) -> &str {
    serial.get(serial.len().saturating_sub(TYPED)..).unwrap_or(serial)
}

/// One device of several.
struct One {
    target: String,
    serial: String,
    href: String,
    chip: Chip,
    /// Why not, where the state does not allow it.
    why_not: Option<String>,
    /// After the act: done, or the refusal.
    outcome: Option<String>,
}

#[derive(Template)]
#[template(path = "acts.html")]
struct Many {
    shell: Shell,
    act: String,
    name: String,
    is_final: bool,
    devices: Vec<One>,
    willing: usize,
    count: usize,
    told: String,
    effects: Vec<String>,
    codes: Vec<(&'static str, bool)>,
    reason: String,
    faults: Vec<(&'static str, String)>,
    /// `done 3 · skipped 0 · failed 1`.
    result: Option<String>,
    failed: bool,
    named: usize,
}

impl Many {
    fn fault(&self, field: &str) -> Option<&str> {
        self.faults.iter().find(|(of, _)| *of == field).map(|(_, fault)| fault.as_str())
    }
}

async fn several(api: &Api, fields: &Fields, act: &str) -> Result<Vec<One>, Problem> {
    let targets: Vec<&str> = fields.all("s").collect();
    if targets.len() > MANY_MAX {
        return Err(Problem::new(Code::UsageWrong).what(format!("one form takes at most {MANY_MAX} devices")));
    }
    let mut devices = Vec::with_capacity(targets.len());
    for target in targets {
        let detail = device(api, target).await?;
        let can = detail.can_do.iter().any(|can| can == act) || act == "disconnect";
        let of = detail.device;
        devices.push(One {
            target: target.to_owned(),
            href: device_href(&of.serial),
            why_not: (!can).then(|| format!("it is {}, which does not allow that", of.own_state)),
            serial: of.serial,
            chip: Chip(of.state),
            outcome: None,
        });
    }
    Ok(devices)
}

fn many_page(
    status: &view::Status,
    act: &str,
    fields: &Fields,
    devices: Vec<One>,
    faults: Vec<(&'static str, String)>,
) -> Many {
    let willing = devices.iter().filter(|one| one.why_not.is_none()).count();
    let chosen = fields.one("reason_code").unwrap_or_default();
    Many {
        shell: Shell::new(
            format!("{} {}", name(act), counted(devices.len() as u64, "device")),
            Section::Devices,
            status,
        ),
        act: act.to_owned(),
        name: name(act),
        is_final: is_final(act),
        willing,
        count: devices.len(),
        told: counted(willing as u64, "device"),
        effects: effects(act, "of each"),
        codes: RevocationReason::ALL.iter().map(|of| (of.as_str(), of.as_str() == chosen)).collect(),
        reason: fields.one("reason").unwrap_or_default().to_owned(),
        devices,
        faults,
        result: None,
        failed: false,
        named: NAMED,
    }
}

/// The form about several: how many, which, what would come of it.
pub(super) async fn many(api: Api, fields: Fields) -> Result<Response, Problem> {
    let status = api.status().await?;
    allowed(&status)?;
    let act = several_act(&fields)?;
    if fields.all("s").next().is_none() {
        return Ok(Redirect::to("/devices").into_response());
    }
    let devices = several(&api, &fields, act).await?;
    Ok(page_with(StatusCode::OK, &many_page(&status, act, &fields, devices, Vec::new())))
}

fn several_act(fields: &Fields) -> Result<&str, Problem> {
    let act = fields.one("act").filter(|act| is_act(act) && *act != "decommission");
    act.ok_or_else(|| Problem::new(Code::UsageWrong).what("a form about several devices names what to do"))
}

/// The act on several, one after the other, and what came of each.
pub(super) async fn do_many(api: Api, fields: Fields) -> Result<Response, Problem> {
    let status = api.status().await?;
    allowed(&status)?;
    let act = several_act(&fields)?;
    let mut devices = several(&api, &fields, act).await?;
    let willing = devices.iter().filter(|one| one.why_not.is_none()).count();
    let faults = unfit_many(act, &fields, willing);
    if !faults.is_empty() {
        let page = many_page(&status, act, &fields, devices, faults);
        return Ok(page_with(StatusCode::BAD_REQUEST, &page));
    }
    let (mut done, mut skipped, mut failed) = (0, 0, 0);
    for one in &mut devices {
        if one.why_not.is_some() {
            skipped += 1;
            continue;
        }
        match posted(&api, &one.target, act, &fields).await {
            Ok(decision) => {
                done += 1;
                one.chip = Chip(decision.to);
                one.outcome = Some(match decision.ended.commit_to_closed_ms {
                    Some(ms) => format!("done, session closed in {ms} ms"),
                    None => "done".to_owned(),
                });
            }
            Err(problem) => {
                failed += 1;
                one.outcome = Some(format!("[{}] {}", problem.code, problem.what));
            }
        }
    }
    let mut page = many_page(&status, act, &fields, devices, Vec::new());
    page.result = Some(format!("done {done} · skipped {skipped} · failed {failed}"));
    page.failed = failed > 0;
    Ok(page_with(StatusCode::OK, &page))
}

fn unfit_many(act: &str, fields: &Fields, count: usize) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    let least = if is_final(act) { REASON_MIN } else { 1 };
    if fields.one("reason").unwrap_or_default().trim().chars().count() < least {
        faults.push(("reason", format!("a reason of {} is needed", counted(least as u64, "character"))));
    }
    if is_final(act) && fields.one("reason_code").is_none_or(str::is_empty) {
        faults.push(("reason_code", "choose why, in the words of RFC 5280".to_owned()));
    }
    if is_final(act) && fields.one("typed").map(str::trim) != Some(&count.to_string()) {
        faults.push(("typed", format!("type how many: {count}")));
    }
    faults
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

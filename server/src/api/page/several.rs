//! What is done to several devices from one form: it names them, says what would come of it, and does it one
//! after the other, each held to the version of it that was shown.

use askama::Template;
use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use muster_shared::Code;

use super::{
    Section, Shell,
    acts::{REASON_MIN, allowed, device, effects, is_act, is_final, name, posted},
    data::Api,
    events::device_href,
    form::Fields,
    page_with,
    parts::{Chip, counted},
};
use crate::{
    api::{error::Problem, view},
    registry::RevocationReason,
};

/// Devices that are named on the page that asks.
const NAMED: usize = 5;
/// Devices of one form.
const MANY_MAX: usize = 1000;

/// One device of several.
struct One {
    target: String,
    serial: String,
    href: String,
    chip: Chip,
    /// The version that is shown, or that the form carried.
    seen: u64,
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
    // The form carries one for each, in their order; before there is a form, what is read now is seen.
    let mut seen = fields.all("seen");
    for target in targets {
        let detail = device(api, target).await?;
        let shown = seen.next().map_or(detail.version, |seen| seen.parse().unwrap_or_default());
        let can = detail.can_do.iter().any(|can| can == act) || act == "disconnect";
        let of = detail.device;
        devices.push(One {
            target: target.to_owned(),
            seen: shown,
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
pub(super) async fn ask(api: Api, fields: Fields) -> Result<Response, Problem> {
    let status = api.status().await?;
    allowed(&status)?;
    let act = act_of(&fields)?;
    if fields.all("s").next().is_none() {
        return Ok(Redirect::to("/devices").into_response());
    }
    let devices = several(&api, &fields, act).await?;
    Ok(page_with(StatusCode::OK, &many_page(&status, act, &fields, devices, Vec::new())))
}

fn act_of(fields: &Fields) -> Result<&str, Problem> {
    let act = fields.one("act").filter(|act| is_act(act) && !matches!(*act, "replace" | "decommission"));
    act.ok_or_else(|| Problem::new(Code::UsageWrong).what("a form about several devices names what to do"))
}

/// The act on several, one after the other, and what came of each.
pub(super) async fn act(api: Api, fields: Fields) -> Result<Response, Problem> {
    let status = api.status().await?;
    allowed(&status)?;
    let act = act_of(&fields)?;
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
        match posted(&api, &one.target, act, Some(one.seen), &fields).await {
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

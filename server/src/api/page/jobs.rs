//! One act on everything a filter selects: why, what it would come to, how far it is.
//!
//! The plan is made by the API and bound to exactly the devices it was made for: when others match by the time
//! it is confirmed, nothing happens and the new plan is shown.

use askama::Template;
use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Section, Shell, acts,
    data::{Api, encoded},
    events::device_href,
    form::Fields,
    page, page_with,
    parts::{When, count, counted},
};
use crate::{
    api::{Path, error::Problem, view},
    registry::RevocationReason,
};

/// The document of `/v1/jobs/plan`, as far as it is shown.
#[derive(Deserialize)]
struct Planned {
    count: u64,
    would_do: u64,
    would_skip: u64,
    would_fail: u64,
    online: u64,
    first: Vec<String>,
    confirm: String,
}

struct Plan {
    told: String,
    would_do: u64,
    would_skip: String,
    would_fail: String,
    online: String,
    first: Vec<String>,
    more: u64,
    confirm: String,
}

/// Words of a label, as they were typed: several with a comma between them.
struct Words {
    add_tags: String,
    remove_tags: String,
    add_groups: String,
    remove_groups: String,
}

impl Words {
    fn of(fields: &Fields) -> Self {
        let text = |name: &str| fields.one(name).unwrap_or_default().trim().to_owned();
        Self {
            add_tags: text("add_tags"),
            remove_tags: text("remove_tags"),
            add_groups: text("add_groups"),
            remove_groups: text("remove_groups"),
        }
    }

    /// As the API takes it.
    fn document(&self) -> Value {
        let words = |text: &str| {
            text.split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        json!({
            "add_tags": words(&self.add_tags),
            "remove_tags": words(&self.remove_tags),
            "add_groups": words(&self.add_groups),
            "remove_groups": words(&self.remove_groups),
        })
    }

    /// Name, what it is, what was typed: for the form, and for what goes with its confirmation.
    fn fields(&self) -> [(&'static str, &'static str, &str); 4] {
        [
            ("add_tags", "Tags to put on", &self.add_tags),
            ("remove_tags", "Tags to take off", &self.remove_tags),
            ("add_groups", "Groups to put them in", &self.add_groups),
            ("remove_groups", "Groups to take them out of", &self.remove_groups),
        ]
    }
}

#[derive(Template)]
#[template(path = "job-ask.html")]
struct Ask {
    shell: Shell,
    act: String,
    name: String,
    filter: String,
    back: String,
    is_final: bool,
    codes: Vec<(&'static str, bool)>,
    reason: String,
    reason_code: String,
    /// Words to put on and to take off; nothing where something else is done.
    label: Option<Words>,
    plan: Option<Plan>,
    fault: Option<String>,
    problem: Option<Problem>,
}

fn form(status: &view::Status, fields: &Fields) -> Ask {
    let text = |name: &str| fields.one(name).unwrap_or_default().trim().to_owned();
    let (act, filter, chosen) = (text("act"), text("filter"), text("reason_code"));
    Ask {
        shell: Shell::new(format!("{} all", acts::name(&act)), Section::Devices, status),
        name: acts::name(&act),
        back: format!("/devices?filter={}", encoded(&filter)),
        is_final: acts::is_final(&act),
        codes: RevocationReason::ALL.iter().map(|of| (of.as_str(), of.as_str() == chosen)).collect(),
        reason: text("reason"),
        reason_code: chosen,
        label: (act == "label").then(|| Words::of(fields)),
        plan: None,
        fault: None,
        problem: None,
        act,
        filter,
    }
}

/// The form that asks why.
pub(super) async fn ask(api: Api, fields: Fields) -> Result<Response, Problem> {
    let status = api.status().await?;
    Ok(page(&form(&status, &fields)))
}

/// The plan; and with its confirmation, the act.
pub(super) async fn act(api: Api, fields: Fields) -> Result<Response, Problem> {
    let status = api.status().await?;
    let mut page = form(&status, &fields);
    let mut document = json!({ "act": page.act, "filter": page.filter, "reason": page.reason });
    if page.is_final {
        document["reason_code"] = json!(page.reason_code);
    }
    if let Some(label) = &page.label {
        document["label"] = label.document();
    }
    let planned: Result<Planned, Problem> = api.post("/v1/jobs/plan", &document).await;
    let planned = match planned {
        Ok(planned) => planned,
        Err(problem) => {
            let code = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::BAD_REQUEST);
            page.problem = Some(problem);
            return Ok(page_with(code, &page));
        }
    };
    if let Some(confirm) = fields.one("confirm") {
        let typed: String =
            fields.one("typed").unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
        if page.is_final && typed != planned.would_do.to_string() {
            page.fault = Some(format!("type how many it is done to: {}", planned.would_do));
        } else {
            document["confirm"] = json!(confirm);
            let made: Result<Value, Problem> = api.post("/v1/jobs", &document).await;
            match made {
                Ok(job) => {
                    let id = job["job"].as_str().unwrap_or_default();
                    return Ok(Redirect::to(&format!("/jobs/{}", encoded(id))).into_response());
                }
                Err(problem) => page.problem = Some(problem),
            }
        }
    }
    let code = page.problem.as_ref().map_or(200, |problem| problem.status());
    page.plan = Some(plan(planned));
    Ok(page_with(StatusCode::from_u16(code).unwrap_or(StatusCode::OK), &page))
}

fn plan(of: Planned) -> Plan {
    Plan {
        told: counted(of.count, "device"),
        would_do: of.would_do,
        would_skip: count(of.would_skip),
        would_fail: count(of.would_fail),
        online: count(of.online),
        more: of.count.saturating_sub(of.first.len() as u64),
        first: of.first,
        confirm: of.confirm,
    }
}

/// The document of `/v1/jobs/{id}`, as far as it is shown.
#[derive(Deserialize)]
struct Job {
    job: String,
    act: String,
    filter: String,
    reason: String,
    operator: String,
    state: String,
    ended: bool,
    total: u64,
    done: u64,
    skipped: u64,
    failed: u64,
    created_at: String,
    ended_at: Option<String>,
}

#[derive(Deserialize)]
struct JobRow {
    serial: String,
    outcome: String,
    code: Option<String>,
    what: Option<String>,
}

struct Row {
    serial: String,
    href: String,
    outcome: String,
    why: String,
}

#[derive(Template)]
#[template(path = "job.html")]
struct Progress {
    shell: Shell,
    job: String,
    name: String,
    filter: String,
    filter_href: String,
    reason: String,
    operator: String,
    state: String,
    ended: bool,
    told: String,
    /// Of a thousand: how far the bar goes.
    part: u64,
    failed: bool,
    created: When,
    ended_at: Option<When>,
    rows: Vec<Row>,
    may_cancel: bool,
}

/// How far it is, and what became of each.
pub(super) async fn show(api: Api, Path(id): Path<String>) -> Result<Response, Problem> {
    let status = api.status().await?;
    let path = format!("/v1/jobs/{}", encoded(&id));
    let job: Job = api.get(&path).await?;
    let rows: view::Page<JobRow> = api.get(&format!("{path}/rows?limit=100")).await?;
    let over = job.done + job.skipped + job.failed;
    Ok(page(&Progress {
        shell: Shell::new(format!("{} {}", acts::name(&job.act), job.job), Section::Devices, &status),
        name: acts::name(&job.act),
        told: format!(
            "{} of {} · done {} · skipped {} · failed {}",
            count(over),
            count(job.total),
            count(job.done),
            count(job.skipped),
            count(job.failed)
        ),
        part: (over * 1000).checked_div(job.total).unwrap_or(1000).min(1000),
        failed: job.failed > 0,
        created: When::exact(&job.created_at),
        ended_at: job.ended_at.as_deref().map(When::exact),
        filter_href: format!("/devices?filter={}", encoded(&job.filter)),
        may_cancel: !job.ended && super::may(&status, crate::api::auth::Need::Decide),
        rows: rows.items.iter().map(row).collect(),
        job: job.job,
        filter: job.filter,
        reason: job.reason,
        operator: job.operator,
        state: job.state,
        ended: job.ended,
    }))
}

fn row(of: &JobRow) -> Row {
    let code = of.code.as_ref().map(|code| format!("[{code}] ")).unwrap_or_default();
    Row {
        serial: of.serial.clone(),
        href: device_href(&of.serial),
        outcome: of.outcome.clone(),
        why: format!("{code}{}", of.what.as_deref().unwrap_or_default()),
    }
}

/// Ends it after the device it is at.
pub(super) async fn cancel(api: Api, Path(id): Path<String>) -> Result<Response, Problem> {
    let _: Value = api.post(&format!("/v1/jobs/{}/cancel", encoded(&id)), &json!({})).await?;
    Ok(Redirect::to(&format!("/jobs/{}", encoded(&id))).into_response())
}

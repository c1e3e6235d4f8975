//! Who may use the server, whom it trusts, its bounds, and what it is.

use askama::Template;
use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use muster_shared::Code;
use serde_json::{Value, json};

use super::{
    Section, Shell, bounds,
    bounds::Bound,
    data::{Api, encoded},
    form::Fields,
    may, page_with,
    parts::{When, count, counted},
};
use crate::{
    api::{Path, auth::Need, error::Problem, view},
    registry::Role,
};

/// The tabs: address and name.
const TABS: [(&str, &str); 6] = [
    ("operators", "Operators"),
    ("tokens", "Tokens"),
    ("trust", "Trust"),
    ("limits", "Limits"),
    ("keep", "Keep for"),
    ("about", "About"),
];

struct Operator {
    name: String,
    role: String,
    last_seen: Option<When>,
    tokens: String,
    added: When,
    added_by: String,
    removed: Option<When>,
}

/// A question of the doctor's that the server can answer about itself.
struct Check {
    name: String,
    ok: bool,
    said: String,
    next: Option<String>,
}

struct Token {
    id: String,
    operator: String,
    role: String,
    created: When,
    ends: Option<When>,
    last_used: Option<When>,
    ended: bool,
    /// The one this page is read with.
    href: String,
}

struct Station {
    station: String,
    tenant: String,
    devices: String,
    quota: String,
    serials: String,
    key: Vec<String>,
    stopped: Option<(When, String)>,
}

/// A value that is in force.
struct Setting {
    key: String,
    said: String,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct Settings {
    shell: Shell,
    tab: String,
    tabs: [(&'static str, &'static str); 6],
    operators: Vec<Operator>,
    tokens: Vec<Token>,
    checks: Vec<Check>,
    stations: Vec<Station>,
    values: Vec<Setting>,
    bounds: Vec<Bound>,
    started: Option<When>,
    broker_ends: Option<When>,
    roles: Vec<&'static str>,
    may_access: bool,
    /// How long is kept may be decided here.
    may_keep: bool,
    problem: Option<Problem>,
    /// A token just made: shown once, here.
    secret: Option<(String, String)>,
}

pub(super) async fn show(api: Api, Path(tab): Path<String>) -> Result<Response, Problem> {
    if !TABS.iter().any(|(key, _)| *key == tab) {
        return Err(Problem::new(Code::RouteUnknown));
    }
    let status = api.status().await?;
    let page = read(&api, &status, &tab).await?;
    // What this role may not see is said on the page, which still leads to what it may.
    let code = page.problem.as_ref().map_or(200, |problem| problem.status());
    Ok(page_with(StatusCode::from_u16(code).unwrap_or(StatusCode::OK), &page))
}

async fn read(api: &Api, status: &view::Status, tab: &str) -> Result<Settings, Problem> {
    let name = TABS.iter().find(|(key, _)| *key == tab).map_or("Settings", |(_, name)| name);
    let mut page = Settings {
        shell: Shell::new(name, Section::Settings, status),
        tab: tab.to_owned(),
        tabs: TABS,
        operators: Vec::new(),
        checks: Vec::new(),
        tokens: Vec::new(),
        stations: Vec::new(),
        values: Vec::new(),
        bounds: Vec::new(),
        started: None,
        broker_ends: None,
        roles: Role::ALL.iter().map(|role| role.as_str()).collect(),
        may_access: may(status, Need::Access),
        may_keep: may(status, Need::Trust) && status.tenant.is_none(),
        problem: None,
        secret: None,
    };
    match tab {
        "operators" => {
            let found: view::Page<view::Operator> = api.get("/v1/operators").await?;
            page.operators = found.items.iter().map(operator).collect();
        }
        "tokens" => match api.get::<view::Page<view::Token>>("/v1/tokens").await {
            Ok(found) => page.tokens = found.items.iter().rev().map(token).collect(),
            Err(problem) => page.problem = Some(withheld(problem)?),
        },
        "trust" => {
            let found: view::Page<view::Station> = api.get("/v1/stations").await?;
            page.stations = found.items.iter().map(station).collect();
        }
        "limits" | "keep" => match api.get::<view::Config>("/v1/config").await {
            Ok(config) if tab == "keep" => page.bounds = bounds::periods(&config),
            Ok(config) => page.bounds = bounds::limits(&config),
            Err(problem) => page.problem = Some(withheld(problem)?),
        },
        _ => {
            page.started = Some(When::ago(&status.started_at));
            page.broker_ends = Some(When::ends(&status.broker_certificate_ends_at));
            page.values = about(status);
            let health: view::Health = api.get("/v1/health").await?;
            page.checks = health.checks.into_iter().map(check).collect();
        }
    }
    Ok(page)
}

/// What is not for this role stands on the page in place of what it asks for; any other refusal is its answer.
fn withheld(problem: Problem) -> Result<Problem, Problem> {
    if problem.code == Code::RoleMissing { Ok(problem) } else { Err(problem) }
}

fn operator(row: &view::Operator) -> Operator {
    Operator {
        name: row.name.clone(),
        role: row.role.clone(),
        last_seen: row.last_seen_at.as_deref().map(When::ago),
        tokens: counted(row.tokens, "token"),
        added: When::exact(&row.added_at),
        added_by: row.added_by.clone(),
        removed: row.removed_at.as_deref().map(When::exact),
    }
}

fn check(of: view::HealthCheck) -> Check {
    Check { name: of.check, ok: of.ok, said: of.said, next: of.next }
}

fn token(row: &view::Token) -> Token {
    Token {
        id: row.id.clone(),
        operator: row.operator.clone(),
        role: row.role.clone(),
        created: When::exact(&row.created_at),
        ends: row.ends_at.as_deref().map(When::ends),
        last_used: row.last_used_at.as_deref().map(When::ago),
        ended: row.ended,
        href: format!("/settings/tokens/{}/revoke", encoded(&row.id)),
    }
}

fn station(row: &view::Station) -> Station {
    Station {
        station: row.station.clone(),
        tenant: row.tenant.clone(),
        devices: counted(row.devices, "device"),
        quota: count(row.quota),
        serials: format!("{} – {}", row.serial_first, row.serial_last),
        key: super::certificates::groups(&row.manifest_key),
        stopped: row
            .stopped_at
            .as_ref()
            .map(|at| (When::ago(at), row.stopped_why.clone().unwrap_or_default())),
    }
}

fn about(status: &view::Status) -> Vec<Setting> {
    let value = |key: &str, said: String| Setting { key: key.to_owned(), said };
    let ready = if status.ready { "yes".to_owned() } else { status.not_ready.join("; ") };
    vec![
        value("version", status.version.clone()),
        value("ready", ready),
        value("devices connect to", status.mqtt.clone()),
        value("devices", count(status.devices)),
        value("sessions", count(status.sessions)),
        value("generation", count(status.generation)),
        value("licence", "Apache-2.0 or MIT".to_owned()),
    ]
}

/// Decides how long something is kept; what is wrong with it is said on the page it was asked on.
pub(super) async fn keep_for(api: Api, fields: Fields) -> Result<Response, Problem> {
    let text = |name: &str| fields.one(name).unwrap_or_default().trim().to_owned();
    let refused = match (text("value").parse::<u64>(), text("reason")) {
        (Err(_), _) => {
            Problem::new(Code::UsageWrong).what("a whole number is wanted").next("0 is without end")
        }
        (_, reason) if reason.is_empty() => {
            Problem::new(Code::ReasonMissing).what("say why: it stands in the audit log")
        }
        (Ok(value), reason) => {
            let document = json!({ "key": text("key"), "value": value, "reason": reason });
            match api.post::<Value>("/v1/config/retention", &document).await {
                Ok(_) => return Ok(Redirect::to("/settings/keep").into_response()),
                Err(problem) => problem,
            }
        }
    };
    let status = api.status().await?;
    let mut page = read(&api, &status, "keep").await?;
    let code = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::BAD_REQUEST);
    page.problem = Some(refused);
    Ok(page_with(code, &page))
}

/// A token, made: the one page that shows it.
pub(super) async fn new_token(api: Api, fields: Fields) -> Result<Response, Problem> {
    let status = api.status().await?;
    let text = |name: &str| fields.one(name).unwrap_or_default().trim().to_owned();
    let document = json!({
        "operator": text("operator"),
        "role": text("role"),
        "days": text("days").parse::<u64>().unwrap_or(0),
    });
    let made: Result<Value, Problem> = api.post("/v1/tokens", &document).await;
    let mut page = read(&api, &status, "tokens").await?;
    let mut code = StatusCode::OK;
    match made {
        Ok(made) => {
            let secret = made["token"].as_str().unwrap_or_default();
            page.secret = Some((text("operator"), secret.to_owned()));
        }
        Err(problem) => {
            code = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::BAD_REQUEST);
            page.problem = Some(problem);
        }
    }
    Ok(page_with(code, &page))
}

#[derive(Template)]
#[template(path = "token-end.html")]
struct EndToken {
    shell: Shell,
    token: Token,
    reason: String,
    fault: Option<&'static str>,
}

async fn ending(api: &Api, id: &str) -> Result<(view::Status, Token), Problem> {
    let status = api.status().await?;
    if !may(&status, Need::Access) {
        let what = format!("{} may not end tokens as {}", status.operator, status.role);
        return Err(Problem::new(Code::RoleMissing).what(what));
    }
    let found: view::Page<view::Token> = api.get("/v1/tokens").await?;
    let row = found.items.iter().find(|row| row.id == id).map(token);
    let unknown = || Problem::new(Code::OperatorUnknown).what(format!("there is no token {id}"));
    Ok((status, row.ok_or_else(unknown)?))
}

/// Asks before a token is ended: whoever uses it is shut out at once.
pub(super) async fn ask_end(api: Api, Path(id): Path<String>) -> Result<Response, Problem> {
    let (status, token) = ending(&api, &id).await?;
    let shell = Shell::new("End a token", Section::Settings, &status);
    Ok(page_with(StatusCode::OK, &EndToken { shell, token, reason: String::new(), fault: None }))
}

/// Ends a token, once a reason was given on the page that asks.
pub(super) async fn end_token(api: Api, Path(id): Path<String>, fields: Fields) -> Result<Response, Problem> {
    let reason = fields.one("reason").unwrap_or_default().trim();
    if reason.is_empty() {
        let (status, token) = ending(&api, &id).await?;
        let shell = Shell::new("End a token", Section::Settings, &status);
        let fault = Some("say why: it stands in the audit log");
        return Ok(page_with(
            StatusCode::BAD_REQUEST,
            &EndToken { shell, token, reason: String::new(), fault },
        ));
    }
    let document = json!({ "reason": reason });
    let _: Value = api.post(&format!("/v1/tokens/{}/revoke", encoded(&id)), &document).await?;
    Ok(Redirect::to("/settings/tokens").into_response())
}

//! What is going on now: health and sessions.

use super::{
    Doors,
    auth::{Caller, Need},
    error::Problem,
    routes::{About, Routes},
    time, view,
};
use crate::{
    edge::{Owner, SessionInfo},
    registry::{Scope, now_ms},
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    let text = "text/plain";
    routes
        .get("/v1/status", status, About::new("Is the server well").answers::<view::Status>("status"))
        .get("/healthz", healthz, About::new("The process answers").open().answers_raw(text, "ok"))
        .get(
            "/readyz",
            readyz,
            About::new("Whether the server takes devices").open().answers::<view::Readiness>(""),
        )
}

/// The process answers. Says nothing about anything else.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The server takes devices and stores what they send.
pub(super) async fn readyz(State(doors): State<Doors>) -> Response {
    let not_ready = not_ready(&doors);
    let status = if not_ready.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(view::Readiness { ready: not_ready.is_empty(), not_ready })).into_response()
}

pub(super) fn not_ready(doors: &Doors) -> Vec<String> {
    let mut why = Vec::new();
    if !doors.uplink.is_ready() {
        why.push("the uplink log cannot store".to_owned());
    }
    if let Some(trouble) = doors.registry.trouble() {
        why.push(trouble.to_owned());
    }
    if !doors.bus.is_ready() {
        why.push("the bus is starting again".to_owned());
    }
    if doors.facts.broker.ends_at_s() <= (now_ms() / 1000) as i64 {
        why.push("the broker's certificate has ended".to_owned());
    }
    why
}

pub(super) async fn status(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Status>, Problem> {
    let actor = caller.may(Need::Look)?;
    let not_ready = not_ready(&doors);
    let verdicts = doors.registry.verdicts();
    Ok(Json(view::Status {
        schema: "muster.status/1".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: not_ready.is_empty(),
        not_ready,
        started_at: time::from_ms(doors.facts.started_at_ms),
        devices: doors.registry.device_count(caller.scope()).await?,
        sessions: online(&doors, caller.scope()),
        generation: verdicts.generation().0,
        mqtt: doors.facts.mqtt.clone(),
        broker_certificate_ends_at: time::from_s(doors.facts.broker.ends_at_s()),
        operator: actor.name.clone(),
        role: actor.role.as_str().to_owned(),
        tenant: actor.tenant().map(ToString::to_string),
    }))
}

/// How many devices of a scope are connected.
pub(super) fn online(doors: &Doors, scope: &Scope) -> u64 {
    let count = match scope {
        Scope::Every => doors.roster.devices().len(),
        scope => seen(doors, scope).iter().filter(|of| of.arrival.owner.device().is_some()).count(),
    };
    count as u64
}

/// The live sessions of a scope: its devices', and those of the services that are its own.
pub(super) fn seen(doors: &Doors, scope: &Scope) -> Vec<SessionInfo> {
    let mut sessions = doors.roster.list();
    let Some(tenant) = scope.tenant() else { return sessions };
    let verdicts = doors.registry.verdicts();
    sessions.retain(|session| match &session.arrival.owner {
        Owner::Device(device) => verdicts.name(*device).tenant == *tenant,
        Owner::Service(client) => doors.facts.services.get(&*client.name) == Some(tenant),
    });
    sessions
}

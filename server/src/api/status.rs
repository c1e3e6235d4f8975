//! What is going on now: health, sessions, figures.

use std::fmt::Write as _;

use super::{
    Doors,
    auth::{Caller, Need},
    error::Problem,
    routes::{About, Routes},
    time, view,
};
use crate::{
    edge::{Owner, SessionInfo},
    registry::{Scope, Verdicts, now_ms},
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    let text = "text/plain";
    routes
        .get("/v1/status", status, About::new("Is the server well").answers::<view::Status>("status"))
        .get(
            "/v1/sessions",
            sessions,
            About::new("Live sessions").answers::<view::Page<view::Session>>("session.list"),
        )
        .get("/metrics", metrics, About::new("Figures").answers_raw(text, "Prometheus text format 0.0.4"))
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

pub(super) async fn sessions(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Page<view::Session>>, Problem> {
    caller.may(Need::Look)?;
    let verdicts = doors.registry.verdicts();
    let items: Vec<_> =
        seen(&doors, caller.scope()).iter().map(|session| shown(session, &verdicts)).collect();
    let total = items.len() as u64;
    Ok(Json(view::Page::new("session", items, None, Some(total))))
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
fn seen(doors: &Doors, scope: &Scope) -> Vec<SessionInfo> {
    let mut sessions = doors.roster.list();
    let Some(tenant) = scope.tenant() else { return sessions };
    let verdicts = doors.registry.verdicts();
    sessions.retain(|session| match &session.arrival.owner {
        Owner::Device(device) => verdicts.name(*device).tenant == *tenant,
        Owner::Service(client) => doors.facts.services.get(&*client.name) == Some(tenant),
    });
    sessions
}

/// A live session as every document shows it.
pub(super) fn shown(session: &SessionInfo, verdicts: &Verdicts) -> view::Session {
    let arrival = &session.arrival;
    let device = arrival.owner.device().map(|device| verdicts.name(device));
    let (service, client_id) = match &arrival.owner {
        Owner::Device(_) => (None, None),
        Owner::Service(client) => (Some(client.name.to_string()), Some(client.client_id.to_string())),
    };
    view::Session {
        number: session.number,
        serial: device.as_ref().map(|name| name.serial.to_string()),
        tenant: device.as_ref().map(|name| name.tenant.to_string()),
        device_id: device.as_ref().map(|name| name.device_id.to_string()),
        service,
        client_id,
        since: time::from_ms(session.since_ms),
        address: arrival.peer.to_string(),
        mqtt: arrival.protocol.as_str().to_owned(),
        subscriptions: session.subscriptions,
        received: session.received,
        sent: session.sent,
        keep_alive_s: arrival.keep_alive_s,
        certificate_id: arrival.certificate.to_string(),
    }
}

/// Prometheus text format 0.0.4. What is counted over all tenants is for those who see all of them.
pub(super) async fn metrics(caller: Caller, State(doors): State<Doors>) -> Result<Response, Problem> {
    caller.may(Need::Look)?;
    let scope = caller.scope();
    let devices = doors.registry.device_count(scope).await?;
    let verdicts = doors.registry.verdicts();
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    };
    gauge(
        "muster_ready",
        "1 when devices are taken and their messages stored.",
        not_ready(&doors).is_empty().into(),
    );
    gauge("muster_devices", "Devices in the registry.", devices);
    if *scope != Scope::Every {
        let own = seen(&doors, scope);
        let of_devices = own.iter().filter(|session| session.arrival.owner.device().is_some()).count();
        gauge("muster_sessions", "Live sessions of devices.", of_devices as u64);
        gauge(
            "muster_service_sessions",
            "Live sessions of services.",
            own.len().saturating_sub(of_devices) as u64,
        );
        return Ok(prometheus(text));
    }
    gauge("muster_certificates", "Certificates in the registry.", verdicts.certificates() as u64);
    let (all, devices) = (doors.roster.count(), doors.roster.devices().len());
    gauge("muster_sessions", "Live sessions of devices.", devices as u64);
    gauge("muster_service_sessions", "Live sessions of services.", all.saturating_sub(devices) as u64);
    gauge(
        "muster_sessions_kept",
        "Sessions that outlive their connection.",
        doors.sessions.counts().0 as u64,
    );
    gauge("muster_generation", "Decisions made.", verdicts.generation().0);
    gauge(
        "muster_start_time_seconds",
        "Start of the process, Unix seconds.",
        doors.facts.started_at_ms / 1000,
    );
    gauge(
        "muster_broker_certificate_end_seconds",
        "End of the broker's certificate, Unix seconds.",
        u64::try_from(doors.facts.broker.ends_at_s()).unwrap_or(0),
    );
    let log = doors.uplink.kept();
    gauge("muster_uplink_octets", "Octets of the uplink log that hold something.", log.octets);
    let seen = doors.facts.tally.read();
    for (name, help, value) in [
        ("dropped", "Messages to devices that found no room.", doors.sessions.counts().1),
        (
            "uplink_segments_removed",
            "Segments of the uplink log that went for their age or its size.",
            log.removed,
        ),
        ("takeovers", "Sessions that were taken over.", seen.takeovers),
        ("takeovers_refused", "Takeovers that were refused.", seen.takeovers_refused),
        ("takeovers_suspected", "Devices whose session was taken over too often.", seen.takeovers_suspected),
        ("continuity_alerts", "Continuity tokens that were not the expected ones.", seen.continuity_alerts),
        ("continuity_breaker_openings", "Times there were too many to act on.", seen.breaker_openings),
        ("quarantined", "Devices quarantined by the server.", seen.quarantined),
        ("addresses_busy", "Connections of addresses that had too many.", seen.addresses_busy),
        ("slowed", "Devices held back for their pace, each once a minute.", seen.slowed),
        ("proxy_headers_missing", "Connections of balancers without a header.", seen.headers_missing),
    ] {
        let name = format!("muster_{name}_total");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
    }
    Ok(prometheus(text))
}

fn prometheus(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

//! `/v1/health`: is what the server stands on well: its databases, its disk, its certificates.

use axum::{Json, extract::State};

use super::{
    Doors,
    auth::{Caller, Need},
    error::Problem,
    routes::{About, Routes},
    status::not_ready,
    time, view,
};
use crate::registry::{AuditFilter, Scope, now_ms};

/// Free space below which a server is not well, octets: an hour of a busy log.
const FREE_MIN: u64 = 1 << 30;
/// How long before its end a certificate that renews itself should have been renewed, milliseconds.
const RENEWAL_MS: i64 = 24 * 60 * 60 * 1000;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.get(
        "/v1/health",
        health,
        About::new("Is what the server stands on well").answers::<view::Health>("health"),
    )
}

pub(super) async fn health(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Health>, Problem> {
    let actor = caller.may(Need::Look)?;
    let checks = vec![registry(&doors, caller.scope()).await, messages(&doors), disk(&doors), broker(&doors)];
    Ok(Json(view::Health {
        schema: "muster.health/1".to_owned(),
        well: checks.iter().all(|check| check.ok),
        now: time::from_ms(now_ms()),
        operator: actor.name.clone(),
        role: actor.role.as_str().to_owned(),
        checks,
    }))
}

fn check(name: &str, ok: bool, said: impl Into<String>, next: &str) -> view::HealthCheck {
    let next = (!ok).then(|| next.to_owned());
    view::HealthCheck { check: name.to_owned(), ok, said: said.into(), next }
}

async fn registry(doors: &Doors, scope: &Scope) -> view::HealthCheck {
    let next = "look at the server's log: it has the database's own words";
    let all = AuditFilter::default();
    let read = doors.registry.audit_page(scope, &all, None, 1).await;
    match (read, doors.registry.device_count(scope).await) {
        (Ok(log), Ok(devices)) => {
            check("registry", true, format!("{devices} devices, {} decisions", log.total), next)
        }
        (Err(error), _) | (_, Err(error)) => check("registry", false, error.to_string(), next),
    }
}

fn messages(doors: &Doors) -> view::HealthCheck {
    let why = not_ready(doors);
    let said = if why.is_empty() { "stored and told on".to_owned() } else { why.join("; ") };
    check("messages", why.is_empty(), said, "look at the disk of the data directory")
}

fn disk(doors: &Doors) -> view::HealthCheck {
    let next = "make room on the disk of the data directory";
    match rustix::fs::statvfs(&doors.facts.data_dir) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            check("disk", free >= FREE_MIN, format!("{} MiB free", free >> 20), next)
        }
        Err(error) => check("disk", false, error.to_string(), next),
    }
}

fn broker(doors: &Doors) -> view::HealthCheck {
    let ends_s = doors.facts.broker.ends_at_s();
    let left_ms = ends_s.saturating_mul(1000) - i64::try_from(now_ms()).unwrap_or(i64::MAX);
    let said = format!("ends {}", time::from_s(ends_s));
    check("broker", left_ms > RENEWAL_MS, said, "look at the server's log: why it is not renewed")
}

//! The audit log: who did what, when and why. For everybody to read, for nobody to change.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    Section, Shell,
    data::{Api, encoded},
    events::device_href,
    page,
    parts::{When, count},
};
use crate::api::{Query, error::Problem, view};

/// Rows of a page.
const ROWS: u64 = 50;

#[derive(Deserialize)]
pub(super) struct Asked {
    after: Option<u64>,
    check: Option<String>,
}

struct Row {
    no: u64,
    at: When,
    actor: String,
    role: String,
    action: String,
    target: String,
    target_href: Option<String>,
    reason: String,
    token: String,
    digest: String,
}

/// What checking the chain found.
struct Checked {
    good: bool,
    said: String,
    at: When,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct Audit {
    shell: Shell,
    told: String,
    checked: Option<Checked>,
    rows: Vec<Row>,
    newer_href: Option<String>,
    older_href: Option<String>,
    check_href: String,
}

/// Newest first; the place in the log is in the address.
pub(super) async fn list(api: Api, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let status = api.status().await?;
    let head: view::Page<view::AuditRow> = api.get("/v1/audit?limit=1").await?;
    let total = head.total.unwrap_or(0);
    let after = asked.after.unwrap_or_else(|| total.saturating_sub(ROWS)).min(total);
    let found: view::Page<view::AuditRow> = api.get(&format!("/v1/audit?after={after}&limit={ROWS}")).await?;
    let mut rows: Vec<_> = found.items.iter().map(row).collect();
    rows.reverse();
    let checked = match asked.check {
        Some(_) => Some(checked(&api.get("/v1/audit/verify").await?)),
        None => None,
    };
    let place = |after: u64| format!("/audit?after={after}");
    Ok(page(&Audit {
        shell: Shell::new("Audit", Section::Audit, &status),
        told: format!("{} records", count(total)),
        newer_href: (after + ROWS < total).then(|| place((after + ROWS).min(total.saturating_sub(ROWS)))),
        older_href: (after > 0).then(|| place(after.saturating_sub(ROWS))),
        check_href: format!("/audit?after={after}&check=1"),
        checked,
        rows,
    }))
}

fn checked(verdict: &view::AuditVerdict) -> Checked {
    let said = match (verdict.broken_no, &verdict.broken_why) {
        (Some(no), Some(why)) => format!("broken at no. {}: {why}", count(no)),
        _ => format!("{} records, chain intact up to no. {}", count(verdict.rows), count(verdict.head.no)),
    };
    Checked { good: verdict.intact, said, at: When::ago(&verdict.checked_at) }
}

fn row(of: &view::AuditRow) -> Row {
    let serial = of.target.split_once('/').map(|(_, serial)| serial);
    let target_href = match of.action.split('.').next() {
        Some("device") => serial.map(device_href),
        Some("batch") => Some(format!("/batches/{}", encoded(&of.target))),
        _ => None,
    };
    Row {
        no: of.no,
        at: When::exact(&of.at),
        actor: of.actor.clone(),
        role: of.role.clone(),
        action: of.action.clone(),
        target: of.target.clone(),
        target_href,
        reason: of.reason.clone().unwrap_or_default(),
        token: of.token.clone().unwrap_or_default(),
        digest: of.digest.get(..8).unwrap_or_default().to_owned(),
    }
}

//! The audit log: who did what, when and why. For everybody to read, for nobody to change.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    Section, Shell,
    data::{Api, encoded},
    events::device_href,
    may, page,
    parts::{When, count},
};
use crate::api::{Query, auth::Need, error::Problem, view};

/// Rows of a page.
const ROWS: u64 = 50;

#[derive(Deserialize, Default)]
pub(super) struct Asked {
    /// Rows below this number.
    after: Option<u64>,
    actor: Option<String>,
    action: Option<String>,
    target: Option<String>,
    check: Option<String>,
}

impl Asked {
    /// What is asked for, as it stands in an address.
    fn filter(&self) -> String {
        let all = [("actor", &self.actor), ("action", &self.action), ("target", &self.target)];
        let said = all.into_iter().filter_map(|(name, value)| {
            let value = value.as_deref().unwrap_or_default().trim();
            (!value.is_empty()).then(|| format!("&{name}={}", encoded(value)))
        });
        said.collect()
    }
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

/// How the chain stood when it was last looked at.
enum Standing {
    Looked(Checked),
    Looking,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct Audit {
    shell: Shell,
    told: String,
    /// What the newest check of the chain found; nothing for who sees one tenant's part of it.
    standing: Option<Standing>,
    checked: Option<Checked>,
    rows: Vec<Row>,
    first_href: Option<String>,
    older_href: Option<String>,
    check_href: Option<String>,
    may_export: bool,
    actor: String,
    action: String,
    target: String,
    filtered: bool,
}

/// Newest first; the place in the log and what is looked for are in the address.
pub(super) async fn list(api: Api, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let status = api.status().await?;
    let filter = asked.filter();
    let after = asked.after.map(|after| format!("&after={after}")).unwrap_or_default();
    let path = format!("/v1/audit?order=newest&limit={ROWS}{filter}{after}");
    let found: view::Page<view::AuditRow> = api.get(&path).await?;
    // The chain is every tenant's.
    let whole = status.tenant.is_none();
    let standing = match whole {
        true => Some(match api.get::<view::AuditStanding>("/v1/audit/standing").await?.newest {
            Some(verdict) => Standing::Looked(checked(&verdict)),
            None => Standing::Looking,
        }),
        false => None,
    };
    let checked = match asked.check {
        Some(_) => Some(checked(&api.get("/v1/audit/verify").await?)),
        None => None,
    };
    Ok(page(&Audit {
        shell: Shell::new("Audit", Section::Audit, &status),
        told: format!("{} records", count(found.total.unwrap_or(0))),
        first_href: asked.after.map(|_| format!("/audit?{}", filter.trim_start_matches('&'))),
        older_href: found.next.map(|next| format!("/audit?after={}{filter}", encoded(&next))),
        check_href: whole.then(|| format!("/audit?check=1{filter}{after}")),
        may_export: whole && may(&status, Need::Export),
        standing,
        checked,
        rows: found.items.iter().map(row).collect(),
        filtered: !filter.is_empty(),
        actor: asked.actor.unwrap_or_default(),
        action: asked.action.unwrap_or_default(),
        target: asked.target.unwrap_or_default(),
    }))
}

fn checked(verdict: &view::AuditVerdict) -> Checked {
    let said = match (verdict.broken_no, &verdict.broken_why) {
        (Some(no), Some(why)) => format!("broken at no. {}: {why}", count(no)),
        _ => format!("chain intact up to no. {}", count(verdict.head.no)),
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

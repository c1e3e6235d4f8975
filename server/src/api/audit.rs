//! The audit log: read it, and check that it is whole.

use std::path::Path;

use axum::{Json, extract::State};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Doors, Query,
    auth::{Caller, Need},
    error::Problem,
    page_limit,
    routes::{About, Routes},
    time, view,
};
use crate::registry::{AuditHead, AuditReport, AuditRow, FILE, audit::verify_file, now_ms};

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/v1/audit",
            list,
            About::new("Who decided what, oldest first")
                .query::<List>()
                .answers::<view::Page<view::AuditRow>>("audit.list"),
        )
        .get(
            "/v1/audit/verify",
            verify,
            About::new("Whether the audit log is whole")
                .query::<Verify>()
                .answers::<view::AuditVerdict>("audit.verify"),
        )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    after: Option<u64>,
    limit: Option<u32>,
}

pub(super) async fn list(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<List>,
) -> Result<Json<view::Page<view::AuditRow>>, Problem> {
    caller.may(Need::Look)?;
    let limit = page_limit(query.limit)?;
    let rows = doors.registry.audit(query.after.unwrap_or(0), limit).await?;
    let head = doors.registry.audit_head().await?;
    let last = rows.last().map_or(head.no, |row| row.no);
    let next = (last < head.no).then(|| last.to_string());
    Ok(Json(view::Page::new("audit", rows.iter().map(row).collect(), next, Some(head.no))))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    checkpoint_no: Option<u64>,
    checkpoint_digest: Option<String>,
}

pub(super) async fn verify(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<Verify>,
) -> Result<Json<view::AuditVerdict>, Problem> {
    caller.may(Need::Look)?;
    let checkpoint = match (query.checkpoint_no, query.checkpoint_digest) {
        (None, None) => None,
        (Some(no), Some(digest)) => Some(head(&view::AuditHead { no, digest })?),
        _ => {
            return Err(Problem::new(Code::UsageWrong)
                .what("a checkpoint is checkpoint_no and checkpoint_digest together"));
        }
    };
    Ok(Json(verdict(&doors.registry.audit_verify(checkpoint.as_ref()).await?)))
}

/// Checks the log in a data directory without a server, reading only.
///
/// # Errors
/// M511 when there is no registry to read; M504 for a checkpoint that is none.
pub fn verdict_offline(
    data_dir: &Path,
    checkpoint: Option<&view::AuditHead>,
) -> Result<view::AuditVerdict, Problem> {
    let place = data_dir.join(FILE).display().to_string();
    let unusable = |why: String| Problem::new(Code::DataDirectory).at(place.clone()).because(why);
    if !data_dir.join(FILE).is_file() {
        return Err(unusable("there is no registry".to_owned()));
    }
    let checkpoint = checkpoint.map(head).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::new(Code::Fault).because(error.to_string()))?;
    let report = runtime.block_on(verify_file(data_dir, checkpoint.as_ref()));
    report.map(|report| verdict(&report)).map_err(|error| {
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        unusable(format!("{error}{source}"))
    })
}

fn head(view: &view::AuditHead) -> Result<AuditHead, Problem> {
    let digest = hex::decode(&view.digest).ok().and_then(|octets| octets.try_into().ok());
    let digest = digest.ok_or_else(|| {
        Problem::new(Code::UsageWrong).what("a checkpoint's digest is 64 hexadecimal digits")
    })?;
    Ok(AuditHead { no: view.no, digest })
}

fn verdict(report: &AuditReport) -> view::AuditVerdict {
    view::AuditVerdict {
        schema: "muster.audit.verify/1".to_owned(),
        intact: report.broken.is_none(),
        rows: report.intact,
        head: view::AuditHead { no: report.head.no, digest: hex::encode(report.head.digest) },
        broken_no: report.broken.as_ref().map(|broken| broken.no),
        broken_why: report.broken.as_ref().map(|broken| broken.why.clone()),
        checked_at: time::from_ms(now_ms()),
    }
}

/// A row as every document shows it.
pub(super) fn row(row: &AuditRow) -> view::AuditRow {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    view::AuditRow {
        no: row.no,
        at: time::from_ms(row.at_ms),
        actor: row.actor.clone(),
        role: row.role.clone(),
        token: some(&row.token),
        action: row.action.clone(),
        target: row.target.clone(),
        reason: some(&row.reason),
        // Written by this program as one JSON object; what is not one is shown as the text it is.
        detail: serde_json::from_str(&row.detail).unwrap_or_else(|_| row.detail.clone().into()),
        previous: hex::encode(row.previous),
        digest: hex::encode(row.digest),
    }
}
